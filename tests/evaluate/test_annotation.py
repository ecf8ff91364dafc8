"""Precision of annotated samples against hidden labels, by hand and by a plain loop; nothing unknown counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meld.evaluate.annotation import annotation_quality
from meld.types import Query, Sample


def cell(name: str) -> Query:
    return Query(f"d.di/{name}", "d.di", "di", ({"a": ""},), (f"T:{name}",), "a")


def pair(name: str, left: int, right: int) -> Query:
    return Query(f"d.em/{name}", "d.em", "em", ({"a": "x"}, {"a": "y"}), (f"A:{left}", f"B:{right}"))


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["york", "York ", "leeds"]), st.sampled_from([0.5, 0.9])),
        unique_by=lambda row: row[0],
    )
)
def test_open_answers_against_a_plain_loop(rows: list[tuple[int, str, float]]) -> None:
    samples = [Sample(cell(str(i)), label, "pseudo", sure) for i, label, sure in rows]
    pool = [cell(str(i)) for i in range(10)]
    # Some cells have no hidden value at all.
    gold = {f"d.di/{i}": (["york"], ["leeds"])[i % 2] for i in range(10) if i % 3}
    found = annotation_quality("di", samples, pool, {k: tuple(v) for k, v in gold.items()})
    checked = right = 0
    for i, label, _ in rows:
        if i % 3:
            checked += 1
            right += label.strip().lower() == ["york", "leeds"][i % 2]
    if not rows:
        assert found == {}
        return
    assert found["pseudo"]["count"] == len(rows)
    assert (found["pseudo"]["checked"], found["pseudo"]["right"]) == (checked, right)
    assert found["pseudo"]["precision"] == (round(right / checked, 6) if checked else None)
    assert found["pseudo"]["confidence"] == round(float(np.mean([sure for *_, sure in rows])), 6)


def test_pairs_are_recognised_by_their_records_and_told_apart_by_label() -> None:
    pool = [pair("train/1-1", 1, 1), pair("train/2-3", 2, 3), pair("train/4-4", 4, 4)]
    gold = {"d.em/train/1-1": ("match",), "d.em/train/2-3": ("match",), "d.em/train/4-4": ("mismatch",)}
    samples = [
        Sample(pair("train/0-0", 0, 0), "match"),
        Sample(pair("pseudo/1-1", 1, 1), "match", "pseudo", 0.9),
        Sample(pair("pseudo/2-3", 2, 3), "mismatch", "pseudo", 0.8),
        Sample(pair("pseudo/4-4", 4, 4), "mismatch", "pseudo", 0.8),
        Sample(pair("pseudo/9-9", 9, 9), "match", "pseudo", 0.7),
        Sample(pair("other>em/0", 8, 8), "match", "transformed:di", 0.9),
    ]
    found = annotation_quality("em", samples, pool, gold)
    assert list(found) == ["pseudo", "transformed:di"]
    assert found["pseudo"] == {
        "count": 4, "checked": 3, "right": 2, "precision": 0.666667, "confidence": 0.8,
        "by_label": {
            "match": {"count": 2, "checked": 1, "right": 1, "precision": 1.0, "confidence": 0.8},
            "mismatch": {"count": 2, "checked": 2, "right": 1, "precision": 0.5, "confidence": 0.8},
        },
    }  # fmt: skip
    assert found["transformed:di"] == {"count": 1, "checked": 0, "right": 0, "precision": None, "confidence": 0.9}
