"""Every retriever: demonstrations of the training side, never the query in disguise; lexical ranking and fusion."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.config.presets import shipped
from meld.errors import ConfigError, UserError
from meld.retriever.base import Retriever
from meld.retriever.bm25 import Bm25, Bm25Retriever, query_words
from meld.retriever.dense import DenseRetriever
from meld.retriever.hybrid import HybridRetriever, fuse
from meld.retriever.nearest import ApproximateIndex
from meld.retriever.none import NoRetriever
from meld.retriever.random import RandomRetriever
from meld.types import Query, Sample

WORDS = ["red", "green", "blue", "apple", "pear", "zx-100", "Ünï", "the"]

needs_bm25 = pytest.mark.skipif(importlib.util.find_spec("bm25s") is None, reason="bm25s is not installed")
needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")

RETRIEVERS: dict[str, Any] = {
    "dense": pytest.param(lambda n, limit: DenseRetriever(n, True, limit), id="dense"),
    "faiss": pytest.param(lambda n, limit: DenseRetriever(n, True, limit, "faiss"), id="faiss", marks=needs_faiss),
    "bm25": pytest.param(lambda n, limit: Bm25Retriever(n, max_similarity=limit), id="bm25", marks=needs_bm25),
    "hybrid": pytest.param(lambda n, limit: HybridRetriever(n, max_similarity=limit), id="hybrid", marks=needs_bm25),
    "random": pytest.param(lambda n, limit: RandomRetriever(n, limit), id="random"),
    "none": pytest.param(lambda n, limit: NoRetriever(), id="none"),
}
Make = Callable[[int, float], Retriever]


def test_every_option_is_here() -> None:
    options = {path.stem for path in (shipped("conf") / "retriever").glob("*.yaml")}
    assert options == set(RETRIEVERS) - {"faiss"}


def unit_vectors(rng: np.random.Generator, n: int, d: int = 3) -> np.ndarray:
    array = rng.normal(size=(n, d)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def asked(rng: np.random.Generator, name: str, pair: bool) -> Query:
    def some_entity() -> dict[str, str]:
        return {"a": " ".join(rng.choice(WORDS, int(rng.integers(0, 4)))), "b": str(rng.choice(WORDS))}

    rows = tuple(f"T:{rng.integers(5)}" for _ in range(1 + pair)) if rng.random() < 0.7 else ()
    target = None if pair else str(rng.choice(["a", "b"]))
    return Query(name, "d.x", "x", tuple(some_entity() for _ in range(1 + pair)), rows, target)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 25), wanted=st.integers(0, 6), pair=st.booleans())
@pytest.mark.parametrize("make", RETRIEVERS.values())
def test_no_demonstration_is_the_query_in_disguise(make: Make, seed: int, n: int, wanted: int, pair: bool) -> None:
    rng = np.random.default_rng(seed)
    corpus = [Sample(asked(rng, f"s{i}", pair), "x") for i in range(n)]
    # The queries: one of the corpus itself, a copy under another name, the same pair the other way round, new ones.
    queries = [asked(rng, f"q{i}", pair) for i in range(3)]
    if corpus:
        first = corpus[0].query
        turned = replace(first, id="turned", entities=first.entities[::-1], rows=first.rows[::-1])
        queries += [first, replace(first, id="copy"), turned]
    vectors, query_vectors = unit_vectors(rng, n), unit_vectors(rng, len(queries))
    limit = float(rng.choice([0.3, 0.9, 1.0]))
    found = make(wanted, limit).retrieve(queries, query_vectors, corpus, vectors, seed)
    assert len(found) == len(queries)
    by_id = {s.id: (s, v) for s, v in zip(corpus, vectors, strict=True)}
    for query, vector, demos in zip(queries, query_vectors, found, strict=True):
        assert len(demos.ids) == len(set(demos.ids)) == len(demos.similarities) <= wanted
        for name, shown in zip(demos.ids, demos.similarities, strict=True):
            sample, other = by_id[name]
            similarity = float(other @ vector)
            assert similarity <= limit
            assert shown == pytest.approx(similarity, abs=1e-4)
            assert sample.id != query.id
            if sample.query.target == query.target:
                assert not query.rows or sorted(sample.query.rows) != sorted(query.rows)
                assert sorted(map(str, sample.query.entities)) != sorted(map(str, query.entities))
    again = make(wanted, limit).retrieve(queries[::-1], query_vectors[::-1], corpus, vectors, seed)
    assert again[::-1] == found


@needs_bm25
@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.sampled_from(WORDS), max_size=6), max_size=8),
    query=st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=5),
    k1=st.sampled_from([0.5, 1.5]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
)
def test_bm25_is_the_formula(documents: list[list[str]], query: list[str], k1: float, b: float) -> None:
    expected = np.zeros(len(documents))
    mean = sum(map(len, documents)) / max(1, len(documents))
    for place, document in enumerate(documents):
        counts = Counter(document)
        for word in query:
            holding = sum(word in other for other in documents)
            if counts[word]:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                expected[place] += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(document) / mean))
    found = Bm25(documents, k1, b).scores(query)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@needs_bm25
def test_shared_rare_words_win_and_nothing_shared_is_not_retrieved() -> None:
    def sample(name: str, value: str) -> Sample:
        return Sample(Query(name, "d.di", "di", ({"a": value},), (), "t"), "x")

    corpus = [sample("common", "the the red"), sample("rare", "the zx-100"), sample("none", "pear")]
    corpus += [sample(f"more{i}", "the blue") for i in range(4)]
    query = Query("q", "d.di", "di", ({"a": "the ZX-100 thing"},), (), "t")
    assert query_words(query) == ["the", "zx", "100", "thing"]
    vectors = unit_vectors(np.random.default_rng(0), len(corpus))
    [demos] = Bm25Retriever(9, max_similarity=1.0).retrieve([query], vectors[:1] * 0, corpus, vectors, 0)
    assert demos.ids[0] == "rare"
    assert "none" not in demos.ids
    assert len(demos.ids) == 6
    [fused] = HybridRetriever(9, max_similarity=1.0).retrieve([query], vectors[:1], corpus, vectors, 0)
    assert len(fused.ids) == len(corpus)


@given(st.lists(st.permutations(range(6)).flatmap(lambda p: st.integers(0, 6).map(lambda k: p[:k])), max_size=3))
def test_fusion_against_a_plain_loop(rankings: list[list[int]]) -> None:
    expected = [0.0] * 6
    for ranking in rankings:
        for place, item in enumerate(ranking):
            expected[item] += 1 / (60 + place + 1)
    found = fuse([np.array(r, dtype=np.intp) for r in rankings], 6, 60.0)
    np.testing.assert_allclose(found, expected)


@needs_bm25
def test_hybrid_puts_first_what_both_rankings_like() -> None:
    texts = ["apple pear", "apple red", "green blue"]
    corpus = [Sample(Query(f"s{i}", "d.em", "em", ({"a": t},)), "x") for i, t in enumerate(texts)]
    angles = np.array([0.9, 0.2, 0.1])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    query = Query("q", "d.em", "em", ({"a": "apple red pie"},))
    here = np.array([[1.0, 0.0]], dtype=np.float32)
    ids = {
        name: retriever.retrieve([query], here, corpus, vectors, 0)[0].ids
        for name, retriever in (
            ("dense", DenseRetriever(3)), ("bm25", Bm25Retriever(3)), ("hybrid", HybridRetriever(3)),
        )
    }  # fmt: skip
    assert ids["dense"] == ("s2", "s1", "s0")
    assert ids["bm25"] == ("s1", "s0")
    assert ids["hybrid"] == ("s1", "s0", "s2")  # ranks 2+1, 3+2, and 1 alone


@needs_faiss
def test_the_graph_finds_nearly_all_true_neighbours() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit_vectors(rng, 3000, 16), unit_vectors(rng, 40, 16)
    index = ApproximateIndex(vectors)
    hits = 0
    for query in queries:
        true = set(np.argsort(-(vectors @ query))[:10].tolist())
        found = index.nearest(query, 10)
        assert len(set(found.tolist())) == len(found) == 10
        hits += len(true & set(found.tolist()))
    assert hits >= 0.97 * 400


@needs_faiss
def test_faiss_equals_exact_on_a_small_corpus() -> None:
    rng = np.random.default_rng(1)
    corpus = [Sample(asked(rng, f"s{i}", False), "x") for i in range(200)]
    queries = [asked(rng, f"q{i}", False) for i in range(20)]
    vectors, query_vectors = unit_vectors(rng, 200), unit_vectors(rng, 20)
    exact, graph = (
        DenseRetriever(5, True, 0.99, index).retrieve(queries, query_vectors, corpus, vectors, 0)  # type: ignore[arg-type]
        for index in ("exact", "faiss")
    )
    same = [a.ids == b.ids for a, b in zip(exact, graph, strict=True)]
    assert np.mean(same) >= 0.95


@pytest.mark.parametrize(
    ("package", "make", "extra"),
    [
        ("faiss", lambda: DenseRetriever(1, index="faiss"), "meld-dp[faiss]"),
        ("bm25s", lambda: Bm25Retriever(1), "meld-dp[bm25]"),
        ("bm25s", lambda: HybridRetriever(1), "meld-dp[bm25]"),
    ],
)
def test_a_missing_package_is_said_before_any_work(
    package: str, make: Callable[[], Retriever], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meld.retriever.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=package) as caught:
        make()
    assert extra in str(caught.value)
    DenseRetriever(1)  # needs nothing


def test_an_unknown_index_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retriever\.index"):
        DenseRetriever(1, index="annoy")  # type: ignore[arg-type]
