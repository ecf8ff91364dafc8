"""Demonstrations: exact, and never the query in disguise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.retriever.base import twins
from meld.retriever.candidates import Candidates, ValueCandidates, repair_candidates
from meld.retriever.dense import DenseRetriever
from meld.retriever.none import NoRetriever
from meld.retriever.random import RandomRetriever
from meld.task.di import value_text
from meld.types import Query, Sample


def unit_vectors(rng: np.random.Generator, n: int, d: int = 4) -> np.ndarray:
    array = rng.normal(size=(n, d)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def ask(name: str, target: str | None = None, value: str = "v", rows: tuple[str, ...] = ()) -> Query:
    return Query(name, "d.di", "di", ({"a": value},), rows, target)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 25), st.integers(0, 5), st.booleans(), st.floats(0.3, 1.0))
def test_dense_is_exact(seed: int, n: int, n_demos: int, same_target: bool, limit: float) -> None:
    rng = np.random.default_rng(seed)
    corpus = [
        Sample(ask(f"s{i}", "ab"[int(rng.integers(2))], f"v{rng.integers(6)}", (f"T:{rng.integers(8)}",)), "x")
        for i in range(n)
    ]
    corpus_vectors = unit_vectors(rng, n)
    queries = [ask("s0", "a", "v9", ("T:99",)), ask("q1", "a", "v1", ("T:1",)), ask("q2", "b", "v2", ("T:2",))]
    query_vectors = unit_vectors(rng, 3)
    found = DenseRetriever(n_demos, same_target, limit).retrieve(queries, query_vectors, corpus, corpus_vectors, 0)
    for query, vector, demos in zip(queries, query_vectors, found, strict=True):
        allowed = []
        for sample, other in zip(corpus, corpus_vectors, strict=True):
            similarity = float(np.dot(other, vector))
            itself = sample.id == query.id
            record = sample.query.rows == query.rows and sample.query.target == query.target
            copy = sample.query.entities == query.entities and sample.query.target == query.target
            wrong = same_target and sample.query.target != query.target
            if not (itself or record or copy or wrong or similarity > limit):
                allowed.append((-round(similarity, 4), sample.id))
        expected = sorted(allowed)[:n_demos]
        assert len(demos.ids) == len(expected) == len(set(demos.ids))
        assert [-s for s in demos.similarities] == pytest.approx([s for s, _ in expected], abs=2e-4)
        assert set(demos.ids) <= {name for _, name in allowed}


@pytest.mark.parametrize(
    ("query", "sample", "is_twin"),
    [
        (ask("d/1", "a"), ask("d/1", "b", "w"), True),
        (ask("d/1", "a"), ask("d/1>di/a", "b", "w"), True),
        (ask("d/1>di/a", "a"), ask("d/1", "b", "w"), True),
        (ask("d/1>di/a", "a"), ask("d/1>ed/0", "b", "w"), True),
        (ask("d/1", "a", "v"), ask("d/2", "a", "v"), True),
        (ask("d/1", "a", "v"), ask("d/2", "b", "v"), False),
        (ask("d/1", "a", "v", ("T:1",)), ask("e/1", "a", "w", ("T:1",)), True),
        (ask("d/1", "a", "v", ("T:1",)), ask("e/1", "b", "w", ("T:1",)), False),
        (ask("d/1", "a", "v"), ask("d/10", "a", "w"), False),
        (ask("d/1", "a", "v"), ask("d/2", "a", "w"), False),
    ],
)
def test_twins(query: Query, sample: Query, is_twin: bool) -> None:
    assert twins(query, Sample(sample, "x")) is is_twin


def test_near_duplicates_are_passed_over() -> None:
    vector = np.array([[1.0, 0.0]], dtype=np.float32)
    angles = np.array([0.0, 0.01, 0.5, 1.0])
    corpus_vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    corpus = [Sample(ask(f"s{i}", value=f"v{i}"), "x") for i in range(4)]
    [demos] = DenseRetriever(2).retrieve([ask("q", value="w")], vector, corpus, corpus_vectors, 0)
    assert demos.ids == ("s2", "s3")


def test_random_depends_on_the_query_alone() -> None:
    corpus = [Sample(ask(f"s{i}", value=f"v{i}"), "x") for i in range(30)]
    empty = np.zeros((30, 1), np.float32)
    queries = [ask("s3", value="u"), ask("q", value="v5"), ask("r", value="w")]
    retriever = RandomRetriever(29)
    found = retriever.retrieve(queries, empty[:3], corpus, empty, seed=1)
    assert "s3" not in found[0].ids
    assert "s5" not in found[1].ids
    assert len(found[2].ids) == 29 == len(set(found[2].ids))
    assert retriever.retrieve(queries[::-1], empty[:3], corpus, empty, seed=1)[::-1] == found
    assert retriever.retrieve(queries, empty[:3], corpus, empty, seed=2) != found
    assert [d.ids for d in NoRetriever().retrieve(queries, empty[:3], corpus, empty, 0)] == [()] * 3
    for other in (RandomRetriever(3), DenseRetriever(3)):
        assert [d.ids for d in other.retrieve(queries, empty[:3], [], empty[:0], 0)] == [()] * 3


def test_value_candidates() -> None:
    samples = [
        Sample(ask("s0", "city"), "York"),
        Sample(ask("s1", "city"), "york"),
        Sample(ask("s2", "city"), "york"),
        Sample(ask("s3", "city"), "Leeds"),
        Sample(ask("s4", "zip"), "100"),
        Sample(ask("s5", "city"), "Hull"),
    ]
    angles = np.array([1.5, 0.9, 1.2, 0.3, 0.0, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    query = np.array([1.0, 0.0], dtype=np.float32)
    plain = ValueCandidates(samples, vectors, {}, limit=10)
    found = plain.of(ask("q", "city"), query)
    assert set(found.values) == {"Leeds", "Hull", "york"}  # one spelling of York, the commonest
    assert list(found.log_prior) == sorted(found.log_prior, reverse=True)
    assert np.exp(found.log_prior).sum() == pytest.approx(1.0)
    assert set(plain.of(ask("s3", "city"), query).values) == {"Hull", "york"}  # never its own label
    assert plain.of(ask("q", "colour"), query) == Candidates()
    assert ValueCandidates(samples, vectors, {}, limit=1).of(ask("q", "city"), query).values == found.values[:1]
    # Where nothing can be fitted (no value occurs twice), similarity decides.
    lone = [Sample(ask(f"t{i}", "city"), label) for i, label in enumerate(["York", "Leeds", "Hull"])]
    near = np.stack([np.cos([1.5, 0.3, 0.6]), np.sin([1.5, 0.3, 0.6])], axis=1).astype(np.float32)
    assert ValueCandidates(lone, near, {}, limit=9).of(ask("q", "city"), query).values == ("Leeds", "Hull", "York")
    pushed = {value_text("city", "hull"): query}
    assert ValueCandidates(lone, near, pushed, limit=9).of(ask("q", "city"), query).values[0] == "Hull"


def test_repair_candidates_keep_the_value_first() -> None:
    class Cells:
        def of(self, query: Query) -> object:
            from meld.retriever.cells import Evidence

            return Evidence(np.zeros(1), (("york", 2.0), ("leeds", 1.0)))

    query = ask("q", "a", "yxrk")
    assert repair_candidates(query, Cells(), 10) == ("yxrk", "york", "leeds")  # type: ignore[arg-type]
    assert repair_candidates(query, Cells(), 2) == ("yxrk", "york")  # type: ignore[arg-type]
