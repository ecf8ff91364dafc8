"""In-batch negatives: the other classes of a batch, never a query's own; and encoders that embed nothing twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meld.encoder.contrastive import LitEncoder
from meld.encoder.in_batch import families, with_in_batch_negatives
from meld.encoder.vectors import Memory, Repeats
from meld.task.base import Alignment


def vector(text: str) -> np.ndarray:
    array = np.random.default_rng([ord(c) for c in text]).normal(size=4)
    return (array / np.linalg.norm(array)).astype(np.float32)


class Fake(LitEncoder):
    """Every text has its own fixed direction."""

    def __init__(self, **options: Any) -> None:
        super().__init__(torch.nn.Linear(1, 1), 0.1, 0.1, 1, **options)

    def vectors(self, texts: Any) -> torch.Tensor:
        return torch.from_numpy(np.stack([vector(text) for text in texts]))


CLASSES = ["city", "zip", "name"]


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Column texts with their type; a text may have several types."""
    n = draw(st.integers(1, 8))
    return [(f"column {draw(st.integers(0, 5))}", draw(st.sampled_from(CLASSES))) for _ in range(n)]


@given(columns())
def test_a_query_of_the_same_class_is_never_a_negative(labelled: list[tuple[str, str]]) -> None:
    """Columns of one type, aligned with one of their fellows each, as tasks align them."""
    types: dict[str, set[str]] = {}
    for text, label in labelled:
        types.setdefault(text, set()).add(label)
    made = []
    for text, label in dict.fromkeys(labelled):
        fellows = [t for t, other in labelled if other == label and t != text]
        made.append(Alignment(text, (label, *dict.fromkeys(fellows)), ("never",), "name"))
    grown = with_in_batch_negatives(made, families({"d.cta": made}))
    # One column with two types joins them: nothing can then be said of either.
    joined = {label: {label} for label in CLASSES}
    for _ in CLASSES:
        for own in types.values():
            union = set().union(*(joined[label] for label in own))
            for label in union:
                joined[label] = union
    for (text, label), old, new in zip(dict.fromkeys(labelled), made, grown, strict=True):
        assert new.anchor == text
        assert new.positives == old.positives
        assert new.negatives[:1] == ("never",)
        assert len(set(new.negatives)) == len(new.negatives)
        others = {
            positive
            for (_, other), alignment in zip(dict.fromkeys(labelled), made, strict=True)
            if other not in joined[label]
            for positive in alignment.positives
        }
        assert set(new.negatives[1:]) == others


def test_one_entity_through_a_chain_of_matches_is_one_class() -> None:
    """l1-r1, l2-r1 and l1-r2 match: r2 is no negative of l2, though no pair says so."""
    made = [
        Alignment("l1", ("r1", "r2"), (), "B"),
        Alignment("l2", ("r1",), (), "B"),
        Alignment("r2", ("l1",), (), "A"),
        Alignment("l9", ("r9",), (), "B"),
    ]
    first, second, third, other = with_in_batch_negatives(made, families({"d.em": made}))
    assert first.negatives == second.negatives == third.negatives == ("r9",)
    assert set(other.negatives) == {"r1", "r2", "l1"}


def test_attributes_of_one_tuple_do_not_join_its_values() -> None:
    made = [
        Alignment("t1", ("city: york",), (), "value:city"),
        Alignment("t1", ("state: uk",), (), "value:state"),
        Alignment("t2", ("city: leeds",), (), "value:city"),
        Alignment("t2", ("state: uk",), (), "value:state"),
    ]
    numbers = families({"d.di": made})
    assert numbers[made[0]] != numbers[made[2]]
    assert numbers[made[1]] == numbers[made[3]]
    grown = with_in_batch_negatives(made, numbers)
    assert grown[0].negatives == ("city: leeds", "state: uk")[: len(grown[0].negatives)]
    assert "city: york" not in grown[0].negatives
    assert "city: leeds" in grown[0].negatives
    assert "state: uk" not in grown[1].negatives


def test_what_must_not_be_mined_is_no_in_batch_negative() -> None:
    made = [
        Alignment("a", ("artist",), (), "name", ("musical artist",)),
        Alignment("b", ("musical artist",), (), "name"),
        Alignment("c", ("zip",), (), "name"),
    ]
    first, second, third = with_in_batch_negatives(made, families({"d.cta": made}))
    assert first.negatives == second.negatives == ("zip",)
    assert third.negatives == ("artist", "musical artist")


def test_the_loss_with_in_batch_negatives_against_a_plain_loop() -> None:
    batch = [
        Alignment("a", ("b", "c"), ("d",), "g"),
        Alignment("e", ("f",), ("h",), "g"),
        Alignment("i", ("b",), (), "g"),
    ]
    negatives = {"a": ["d", "f"], "e": ["h", "b", "c"], "i": ["f"]}
    expected = 0.0
    for alignment in batch:
        score = {t: math.exp(float(vector(alignment.anchor) @ vector(t)) / 0.1) for t in "bcdfh"}
        whole = sum(score[t] for t in (*alignment.positives, *negatives[alignment.anchor]))
        expected -= sum(math.log(score[p] / whole) for p in alignment.positives)
    found = Fake(families=families({"d.x": batch})).loss(batch)
    assert float(found) == pytest.approx(expected / 3, rel=1e-4)
    assert float(Fake().loss(batch[:2])) != pytest.approx(float(Fake(families={}).loss(batch[:2])))


class Counting:
    """An encoder that remembers every text it was asked to embed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Any, progress: object = None) -> np.ndarray:
        self.asked += texts
        return np.stack([vector(text) for text in texts]) if len(texts) else np.zeros((0, 4), np.float32)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=6))
def test_memory_embeds_each_text_once(requests: list[list[str]]) -> None:
    encoder = Counting()
    memory = Memory(encoder)
    for texts in requests:
        found = memory.embed(texts)
        assert found.shape == (len(texts), 4)
        for text, row in zip(texts, found, strict=True):
            assert np.array_equal(row, vector(text))
    assert sorted(encoder.asked) == sorted({text for texts in requests for text in texts})


def test_repeats_answers_whole_lists_bit_for_bit() -> None:
    encoder = Counting()
    repeats = Repeats(encoder, max_bytes=100)
    first = repeats.embed(["a", "b"])
    assert repeats.embed(["a", "b"]) is first
    assert encoder.asked == ["a", "b"]
    repeats.embed(["b", "a"])  # another list: another pass, perhaps other last bits
    assert encoder.asked == ["a", "b", "b", "a"]
    repeats.embed([*"cdef"])  # no room for all three
    repeats.embed(["a", "b"])
    assert encoder.asked[-2:] == ["a", "b"]
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
