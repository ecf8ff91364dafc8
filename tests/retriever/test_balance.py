"""How common matches are, estimated without labels; and the decision that follows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.retriever.balance import FEWEST, balance, best_threshold, estimate_share, reweigh


def drawn(share: float, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the exact log-odds of a model that expects half of them to be positive: x ~ N(+-1, 1), so 2x."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    return positive, 2 * rng.normal(np.where(positive, 1.0, -1.0), 1.0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_the_share_is_found(share: float) -> None:
    positive, odds = drawn(share, 20_000)
    assert estimate_share(odds, 0.5) == pytest.approx(positive.mean(), abs=0.015)


def test_the_share_is_the_likeliest() -> None:
    """Expectation maximisation ends where no share makes the sample likelier (a grid beside it)."""
    _, odds = drawn(0.2, 2_000)
    ratio = np.exp(odds)  # of the two densities, as the labelled share is one half
    grid = np.linspace(0.01, 0.99, 981)
    likelihood = [np.log(pi * ratio + 1 - pi).sum() for pi in grid]
    assert estimate_share(odds, 0.5) == pytest.approx(grid[int(np.argmax(likelihood))], abs=2e-3)


def test_the_labelled_share_is_where_the_odds_start() -> None:
    _, odds = drawn(0.1, 5_000)
    assert estimate_share(odds + np.log(0.2 / 0.8), 0.2) == pytest.approx(estimate_share(odds, 0.5), abs=1e-6)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_threshold_maximises_the_expected_f1(values: list[float]) -> None:
    p = np.array(values)

    def expected(threshold: float) -> float:
        said = p >= threshold
        return 2 * p[said].sum() / max(said.sum() + p.sum(), 1e-12)

    best = max(expected(t) for t in p)
    assert expected(best_threshold(p) * (1 - 1e-9)) == pytest.approx(best)


def test_the_shift_raises_f1_where_labels_are_balanced_and_questions_are_not() -> None:
    positive, odds = drawn(0.1, 4_000)
    _, pool = drawn(0.1, 1_500, seed=1)
    found = balance(pool, 0.5)

    def f1(said: np.ndarray) -> float:
        return 2 * (said & positive).sum() / (said.sum() + positive.sum())

    assert found.share == pytest.approx(0.1, abs=0.02)
    assert f1(odds + found.shift > 0) > f1(odds > 0) + 0.05
    best = max(f1(odds > t) for t in np.linspace(-4, 6, 200))
    assert f1(odds + found.shift > 0) > best - 0.03


@pytest.mark.parametrize(("n", "labelled"), [(FEWEST - 1, 0.5), (0, 0.5), (500, 0.0), (500, 1.0)])
def test_nothing_is_shifted_where_nothing_can_be_known(n: int, labelled: float) -> None:
    found = balance(np.full(n, -3.0), labelled)
    assert found.shift == 0.0
    assert found.share == labelled


def test_a_pool_without_any_match_leaves_a_finite_shift() -> None:
    found = balance(np.full(100, -200.0), 0.5)
    assert found.share == pytest.approx(1e-3)
    assert np.isfinite(found.shift)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5), st.floats(-5, 5))
@settings(max_examples=60, deadline=None)
def test_reweighing_adds_log_odds(weights: list[float], added: float) -> None:
    p = np.array(weights) / sum(weights)
    options = [str(i) for i in range(len(p))]
    q = reweigh(options, p, {"0": added})
    assert q.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.log(q[0] / q[1:]) - np.log(p[0] / p[1:]), added, atol=1e-9)
    np.testing.assert_allclose(reweigh(options, p, {"other": added}), p)


def test_reweighing_takes_certainty() -> None:
    np.testing.assert_allclose(reweigh(["match", "mismatch"], np.array([1.0, 0.0]), {"match": -2.0}), [1.0, 0.0])
