"""Maximisers against each other, brute force, and the guarantee of Theorem 4."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.errors import ConfigError, DataError
from meld.selector.diversity.facility_location import FacilityLocation
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.diversity.k_centre import KCentre
from meld.selector.objective import Modular, Objective, spread_factor
from meld.selector.optimizer.incremental import Incremental
from meld.selector.optimizer.lazy import Lazy
from meld.selector.optimizer.low_rank import low_rank_greedy
from meld.selector.optimizer.naive import Naive
from meld.selector.optimizer.stochastic import Stochastic
from meld.selector.optimizer.submodlib import Submodlib

WEIGHTS = {"diversity": 1.0, "quality": 1.0}


def objective(diversity=None, n: int = 40, seed: int = 0, normalize: str = "gains", d: int = 6) -> Objective:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    terms = {"diversity": (diversity or GraphCut()).start(x), "quality": Modular(rng.random(n))}
    return Objective(terms, WEIGHTS, normalize)


DIVERSITIES = [
    GraphCut(),
    GraphCut(kernel="cosine_clamped"),
    GraphCut(3.0, 1.0, kernel="rbf"),
    FacilityLocation(),
    KCentre(),
]


@pytest.mark.parametrize("normalize", ["gains", "none"])
@pytest.mark.parametrize("diversity", DIVERSITIES, ids=lambda x: f"{type(x).__name__}-{getattr(x, 'kernel', '')}")
def test_lazy_incremental_and_naive_agree(diversity, normalize: str) -> None:
    for seed in range(3):
        picks = [
            optimizer.maximize(objective(diversity, seed=seed, normalize=normalize), 15, 0).tolist()
            for optimizer in (Naive(), Incremental(), Lazy())
        ]
        assert picks[0] == picks[1] == picks[2]


@pytest.mark.parametrize("algorithm", ["LazyGreedy", "NaiveGreedy"])
@pytest.mark.parametrize("kernel", ["shifted_cosine", "cosine_clamped", "rbf"])
def test_submodlib_agrees(kernel: str, algorithm: str) -> None:
    for seed in range(3):
        expected = Incremental().maximize(objective(GraphCut(kernel=kernel), n=60, seed=seed), 18, 0)
        found = Submodlib(algorithm).maximize(objective(GraphCut(kernel=kernel), n=60, seed=seed), 18, 0)
        assert found.tolist() == expected.tolist()


def test_submodlib_without_diversity_and_with_the_whole_pool() -> None:
    scores = np.array([0.3, 0.9, 0.1, 0.5])
    only = Objective({"quality": Modular(scores)}, WEIGHTS)
    assert Submodlib().maximize(only, 2, 0).tolist() == [1, 3]
    assert sorted(Submodlib().maximize(objective(n=5), 5, 0).tolist()) == list(range(5))


def test_submodlib_says_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="no graph cut"):
        Submodlib().maximize(objective(FacilityLocation()), 3, 0)
    with pytest.raises(ConfigError, match="more than 10"):
        Submodlib(max_items=10).maximize(objective(n=11), 3, 0)
    with pytest.raises(ConfigError, match="no algorithm"):
        Submodlib("Greedy")
    with pytest.raises(ConfigError, match="gains cannot grow"):
        Submodlib().maximize(objective(GraphCut(kernel="cosine")), 3, 0)


class _Growing:
    """A term whose gains grow, and which is no sum of vectors."""

    n, diminishing = 5, False

    def low_rank(self):
        return None

    def gains(self, candidates=None):
        return np.ones(5 if candidates is None else len(candidates))


def test_lazy_refuses_what_it_would_get_wrong() -> None:
    with pytest.raises(ConfigError, match="gains cannot grow"):
        Lazy().maximize(Objective({"diversity": _Growing()}, WEIGHTS, "none"), 3, 0)


def test_lazy_needs_no_diminishing_gains_of_sums_of_vectors() -> None:
    """Its bounds hold both ways: raw cosine, as printed, is maximised exactly too."""
    raw = GraphCut(kernel="cosine")
    for seed in range(3):
        expected = Naive().maximize(objective(raw, seed=seed), 25, 0).tolist()
        assert Lazy().maximize(objective(raw, seed=seed), 25, 0).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(0, 10_000),
    st.floats(-1.0, 3.0),
    st.sampled_from(["shifted_cosine", "cosine"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_lazy_picks_what_naive_picks(n: int, seed: int, cone: float, kernel: str, copies: int, modular: bool) -> None:
    """Pools with and without a direction, with duplicates, zero vectors, and every budget."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32) + np.float32(cone)
    for _ in range(copies * (n // 4)):
        x[rng.integers(n)] = x[rng.integers(n)]
    x[rng.integers(n)] = 0.0
    scores = np.round(rng.random(n), 1)
    n_select = int(rng.integers(1, n + 1))

    def build() -> Objective:
        terms = {"diversity": GraphCut(2.0, 1.0, kernel).start(x)}
        return Objective({**terms, "quality": Modular(scores)} if modular else terms, WEIGHTS)

    assert Lazy().maximize(build(), n_select, 0).tolist() == Incremental().maximize(build(), n_select, 0).tolist()


def test_lazy_computes_all_gains_a_few_times_only() -> None:
    """On a pool in a cone, as encoders make them, with the kernel under which plain laziness collapses."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 24))
    x = (1.5 + centres[rng.integers(0, 12, 3000)] + 0.5 * rng.normal(size=(3000, 24))).astype(np.float32)
    form = Objective({"diversity": GraphCut().start(x)}, WEIGHTS).low_rank()
    assert form is not None

    class CountedRows(np.ndarray):
        passes = 0

        def __matmul__(self, other):
            CountedRows.passes += len(self) == 3000
            return np.asarray(self) @ np.asarray(other)

    counted = replace(form, vectors=form.vectors.view(CountedRows))
    found = list(low_rank_greedy(counted, 900))
    expected = Incremental().maximize(Objective({"diversity": GraphCut().start(x)}, WEIGHTS), 900, 0)
    assert found == expected.tolist()
    assert CountedRows.passes < 90  # a pass per ten picks; greedy needs 900


def test_the_sum_of_vectors_is_the_same_function() -> None:
    function = objective(n=12)
    form = function.low_rank()
    chosen = [3, 7, 1]
    for item in chosen:
        function.add(item)
    total = form.vectors[chosen].sum(axis=0)
    value = form.linear[chosen].sum() - form.curvature * (total @ total) - form.offset * 9
    assert function.value() == pytest.approx(value)
    assert objective(FacilityLocation()).low_rank() is None
    two = Objective({"diversity": GraphCut().start(np.eye(3, dtype=np.float32)), "quality": _cut(3)}, WEIGHTS)
    assert two.low_rank() is None


def _cut(n: int):
    return GraphCut().start(np.ones((n, 2), np.float32))


class _Counting:
    """A term that counts how many gains were asked for."""

    def __init__(self, term) -> None:
        self.term, self.n, self.diminishing, self.count = term, term.n, term.diminishing, 0

    def gains(self, candidates=None):
        self.count += self.n if candidates is None else len(candidates)
        return self.term.gains(candidates)

    def add(self, item: int) -> None:
        self.term.add(item)

    def low_rank(self):
        return self.term.low_rank()


def test_lazy_evaluates_less() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    term = _Counting(FacilityLocation().start(x))
    Lazy().maximize(Objective({"diversity": term}, WEIGHTS), 40, 0)
    assert term.count < 0.5 * 200 * 40


@pytest.mark.parametrize("optimizer", [Naive(), Incremental(), Lazy(), Stochastic(), Submodlib()])
def test_whole_pool_and_single_item(optimizer) -> None:
    assert sorted(optimizer.maximize(objective(n=7), 7, 0).tolist()) == list(range(7))
    assert len(optimizer.maximize(objective(n=7), 1, 0)) == 1
    one = Objective({"quality": Modular(np.array([0.5]))}, WEIGHTS)
    assert optimizer.maximize(one, 1, 0).tolist() == [0]
    for wrong in (0, 8):
        with pytest.raises(DataError, match=f"select {wrong} of 7"):
            optimizer.maximize(objective(n=7), wrong, 0)


@pytest.mark.parametrize("optimizer", [Naive(), Incremental(), Lazy()])
def test_duplicates_are_taken_in_order(optimizer) -> None:
    """Rounding must not decide between identical items."""
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 33)).astype(np.float32), 12, axis=0)
    terms = {"diversity": GraphCut().start(x), "quality": Modular(np.full(12, 0.7))}
    assert optimizer.maximize(Objective(terms, WEIGHTS), 6, 0).tolist() == list(range(6))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from(["shifted_cosine", "cosine_clamped", "rbf"]))
def test_greedy_reaches_its_guarantee(seed: int, n_select: int, kernel: str) -> None:
    n = 9

    def value(items) -> float:
        function = objective(GraphCut(kernel=kernel), n=n, seed=seed, d=3)
        for item in items:
            function.add(item)
        return function.value()

    optimum = max(value(items) for items in combinations(range(n), n_select))
    greedy = value(
        Incremental().maximize(objective(GraphCut(kernel=kernel), n=n, seed=seed, d=3), n_select, 0).tolist()
    )
    assert greedy >= (1 - 1 / math.e) * optimum - 1e-9


def test_stochastic_is_seeded_near_greedy_and_without_repeats() -> None:
    exact = objective(n=120)
    Incremental().maximize(exact, 30, 0)
    runs = []
    for seed in (0, 0, 1):
        function = objective(n=120)
        runs.append(Stochastic(0.01).maximize(function, 30, seed).tolist())
        assert len(set(runs[-1])) == 30
        assert function.value() >= 0.95 * exact.value()
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_stochastic_with_a_sample_of_everything_is_greedy() -> None:
    picks = Stochastic(1e-9).maximize(objective(n=20), 20, 3)
    assert picks.tolist() == Incremental().maximize(objective(n=20), 20, 0).tolist()
    with pytest.raises(ConfigError, match="epsilon"):
        Stochastic(0.0)


def test_factors_are_inverse_spreads_and_never_move() -> None:
    function = objective(n=30)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6)).astype(np.float32)
    scores = rng.random(30)
    assert function.factors["diversity"] == pytest.approx(1 / GraphCut().start(x).gains().std())
    assert function.factors["quality"] == pytest.approx(1 / scores.std())
    before = dict(function.factors)
    Incremental().maximize(function, 10, 0)
    assert function.factors == before
    assert objective(n=30, normalize="none").factors == {"diversity": 1.0, "quality": 1.0}


def test_objective_is_the_weighted_sum_and_keeps_history() -> None:
    rng = np.random.default_rng(0)
    x, scores = rng.normal(size=(12, 4)).astype(np.float32), rng.random(12)
    function = Objective(
        {"diversity": GraphCut().start(x), "quality": Modular(scores)}, {"diversity": 0.5, "quality": 3.0}, "none"
    )
    reference = GraphCut().start(x)
    for item in (3, 9):
        np.testing.assert_allclose(function.gains(), 0.5 * reference.gains() + 3.0 * scores)
        assert function.gains(np.array([item]))[0] == pytest.approx(function.gains()[item])
        reference.add(item)
        function.add(item)
    assert function.value() == pytest.approx(0.5 * reference.value() + 3.0 * scores[[3, 9]].sum())
    assert function.history["quality"] == pytest.approx(scores[[3, 9]].tolist())
    assert sum(function.history["diversity"]) == pytest.approx(reference.value())
    with pytest.raises(ValueError, match="added before"):
        function.add(3)


def test_unnormalised_diversity_drowns_quality() -> None:
    """Why `normalize: gains` is the default: as printed, quality hardly changes a pick of a pool in a cone."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 16)) + 1.0).astype(np.float32)
    scores = rng.random(400)

    def picks(normalize: str, **terms) -> set[int]:
        return set(Incremental().maximize(Objective(terms, WEIGHTS, normalize), 100, 0).tolist())

    alone = picks("none", diversity=GraphCut().start(x))
    overlap = {
        normalize: len(alone & picks(normalize, diversity=GraphCut().start(x), quality=Modular(scores)))
        for normalize in ("gains", "none")
    }
    assert overlap["none"] >= 98
    assert overlap["gains"] <= 60


def test_a_term_without_spread_is_not_blown_up() -> None:
    assert spread_factor(np.full(5, 3.0) + 1e-12 * np.arange(5)) == pytest.approx(1 / 3)
    assert spread_factor(np.zeros(5)) == 1.0
    assert spread_factor(np.array([0.0, 2.0])) == pytest.approx(1.0)


def test_bad_objectives_are_named() -> None:
    with pytest.raises(DataError, match=r"quality of 1 of 3 items is not a number; the first is item 1"):
        Modular(np.array([0.0, np.nan, 1.0]), "quality")
    with pytest.raises(ConfigError, match="no normalisation"):
        objective(normalize="max")
    with pytest.raises(ConfigError, match="weight"):
        Objective({"quality": Modular(np.zeros(2))}, {"quality": -1.0})
    with pytest.raises(ConfigError, match="no terms"):
        Objective({}, {})
