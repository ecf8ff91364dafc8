"""Which labelled questions are kept from training, and when a trained adapter is kept."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.expert.decide import held_out, judge, without
from meld.types import Query, Sample


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=12), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]))
def test_the_verdict_against_the_textbook(losses: list[tuple[float, float]], tolerance: float) -> None:
    before, after = (np.array([pair[side] for pair in losses], dtype=np.float64) for side in (0, 1))
    found = judge(before, after, tolerance)
    if not losses:
        assert found.kept
        assert math.isnan(found.gain)
        return
    gains = [b - a for b, a in losses]
    mean = statistics.fmean(gains)
    assert found.gain == pytest.approx(mean, abs=1e-12)
    if len(gains) == 1:
        assert math.isnan(found.error)
        assert found.kept == (mean >= 0)
        return
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    assert found.error == pytest.approx(error, abs=1e-12)
    if abs(mean + tolerance * error) > 1e-9:
        assert found.kept == (mean >= -tolerance * error)


def test_the_comparison_is_paired() -> None:
    """Every question gains a little: sure, though the losses themselves differ much more than they change."""
    before = np.array([0.1, 5.0, 2.0, 9.0, 0.5])
    verdict = judge(before, before - 0.05, 0.0)
    assert verdict.kept
    assert verdict.error < 1e-9
    assert not judge(before, before + 0.05, 1.0).kept


def test_a_training_that_broke_down_is_not_kept() -> None:
    assert not judge(np.ones(3), np.full(3, np.nan), 2.0).kept


@st.composite
def units(draw: st.DrawFn) -> list[Sample]:
    n = draw(st.integers(0, 30))
    made = []
    for i in range(n):
        row = draw(st.integers(0, 9))
        rows = () if draw(st.booleans()) else (f"T:{row}",)
        label = draw(st.sampled_from(["match", "mismatch", "rare"]))
        provenance = draw(st.sampled_from(["labelled", "labelled", "pseudo", "transformed:dc"]))
        name = f"d.x/{i}" + (">ed/1" if provenance == "transformed:dc" else "")
        made.append(Sample(Query(name, "d.x", "x", ({"a": str(i)},), rows), label, provenance))
    return made


@given(units(), st.integers(0, 25), st.integers(0, 40), st.integers(0, 5))
def test_held_out_questions(samples: list[Sample], n_dev: int, wanted: int, seed: int) -> None:
    taken = held_out(samples, n_dev, wanted, seed)
    labelled = {s.id: s for s in samples if s.provenance == "labelled"}
    assert taken <= labelled.keys()
    groups: dict[tuple[str, ...], int] = {}
    for sample in labelled.values():
        key = sample.query.rows or (sample.id,)
        groups[key] = groups.get(key, 0) + 1
    assert len(taken) < max(1, wanted - n_dev + max(groups.values(), default=0))
    assert len(taken) <= len(labelled) / 4
    assert taken == held_out(samples, n_dev, wanted, seed)
    rest = without(samples, taken)
    # Nobody who stays knows a held-out question: not itself, nor its records, nor a sample made from it.
    records = {s.query.rows for s in samples if s.id in taken and s.query.rows}
    for sample in rest:
        assert sample.id not in taken
        assert sample.id.partition(">")[0] not in taken
        assert sample.query.rows not in records
    assert taken or rest == samples


def test_labels_take_turns() -> None:
    samples = [
        Sample(Query(f"d.em/{i}", "d.em", "em", ({}, {}), (f"A:{i}", f"B:{i}")), "match" if i < 4 else "mismatch")
        for i in range(40)
    ]
    taken = held_out(samples, 14, 20, 0)
    labels = [s.label for s in samples if s.id in taken]
    assert sorted(labels) == ["match"] * 3 + ["mismatch"] * 3
    assert taken != held_out(samples, 14, 20, 1)
    assert held_out(samples, 20, 20, 0) == frozenset()
    assert len(held_out(samples, 0, 20, 0)) == 10  # a quarter


def test_corrupted_copies_of_a_held_out_tuple_go_with_it() -> None:
    """Error detection donates to cleaning: the copy's id names another unit, its records are the same."""
    dirty = [
        Sample(Query(f"d.dc/{r}/{c}", "d.dc", "dc", ({"a": "v"},), (f"T:{r}",), c), "v") for r in range(8) for c in "ab"
    ]
    copies = [
        Sample(Query(f"d.ed/{r}/a>dc/0", "d.dc", "dc", ({"a": "w"},), (f"T:{r}",), "a"), "v", "transformed:ed")
        for r in range(8)
    ]
    taken = held_out([*dirty, *copies], 0, 20, 0)
    rows = {s.query.rows for s in dirty if s.id in taken}
    assert len(rows) == 2  # whole tuples
    assert len(taken) == 4
    rest = without([*dirty, *copies], taken)
    assert len(rest) == 24 - 4 - 2
    assert not rows & {s.query.rows for s in rest}
