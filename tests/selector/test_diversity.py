"""Diversity terms against double loops, and the properties that Theorem 5 claims."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.errors import ConfigError, DataError
from meld.selector.diversity.base import KERNELS
from meld.selector.diversity.facility_location import FacilityLocation
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.diversity.k_centre import KCentre


def embeddings(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def similarity(kernel: str, left: np.ndarray, right: np.ndarray, gamma: float) -> float:
    cosine = float(left @ right / np.sqrt((left @ left) * (right @ right)))
    if kernel == "shifted_cosine":
        return (1 + cosine) / 2
    if kernel == "cosine_clamped":
        return max(cosine, 0.0)
    if kernel == "rbf":
        distance = left / np.linalg.norm(left) - right / np.linalg.norm(right)
        return float(np.exp(-gamma * (distance @ distance)))
    return cosine


def graph_cut_value(
    x: np.ndarray, chosen: list[int], kernel: str, lambda1: float, lambda2: float, gamma: float
) -> float:
    x = x.astype(np.float64)
    represented = sum(similarity(kernel, x[i], x[j], gamma) for i in range(len(x)) for j in chosen)
    redundant = sum(similarity(kernel, x[i], x[j], gamma) for i in chosen for j in chosen)
    return lambda1 * represented - lambda2 * redundant


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("lambda1", "lambda2"), [(2.0, 1.0), (3.0, 0.5), (1.0, 0.0)])
def test_graph_cut_equals_double_loops(kernel: str, lambda1: float, lambda2: float) -> None:
    x = embeddings(9)
    term = GraphCut(lambda1, lambda2, kernel, gamma=0.7).start(x)
    chosen: list[int] = []
    for item in (4, 0, 7):
        before = graph_cut_value(x, chosen, kernel, lambda1, lambda2, 0.7)
        rest = np.array([i for i in range(9) if i not in chosen])
        expected = [graph_cut_value(x, [*chosen, i], kernel, lambda1, lambda2, 0.7) - before for i in rest]
        np.testing.assert_allclose(term.gains(rest), expected, atol=1e-9)
        np.testing.assert_allclose(term.gains()[rest], expected, atol=1e-9)
        term.add(item)
        chosen.append(item)
        assert term.value() == pytest.approx(graph_cut_value(x, chosen, kernel, lambda1, lambda2, 0.7), abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_graph_cut_quadratic_form_is_the_same_function(kernel: str) -> None:
    term = GraphCut(2.0, 1.0, kernel).start(embeddings(8))
    form = term.quadratic()
    chosen = [2, 5, 1]
    for item in chosen:
        term.add(item)
    value = form.linear[chosen].sum() - form.pairwise[np.ix_(chosen, chosen)].sum()
    assert term.value() == pytest.approx(value, abs=1e-9)


def test_blocks_do_not_show() -> None:
    x = embeddings(1100, d=3)  # more than two blocks
    units = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    w = np.maximum(units @ units.T, 0.0)
    np.testing.assert_allclose(
        GraphCut(2.0, 1.0, "cosine_clamped").start(x).gains(), 2 * w.sum(axis=0) - np.diag(w), rtol=1e-9
    )


@st.composite
def chains(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int], int]:
    """Embeddings, A inside B, and an item outside B."""
    n = draw(st.integers(3, 9))
    seed = draw(st.integers(0, 10_000))
    x = np.random.default_rng(seed).normal(size=(n, draw(st.integers(1, 4)))).astype(np.float32)
    order = draw(st.permutations(range(n)))
    large = draw(st.integers(1, n - 1))
    small = draw(st.integers(0, large))
    return x, order[:small], order[:large], order[large]


def gain_after(term_factory, x: np.ndarray, chosen: list[int], item: int) -> float:
    term = term_factory.start(x)
    for other in chosen:
        term.add(other)
    return float(term.gains(np.array([item]))[0])


@settings(max_examples=60, deadline=None)
@given(chains(), st.floats(0.0, 2.0), st.floats(0.0, 3.0), st.sampled_from(["shifted_cosine", "cosine_clamped", "rbf"]))
def test_graph_cut_is_monotone_and_submodular(chain, lambda2: float, extra: float, kernel: str) -> None:
    x, small, large, item = chain
    factory = GraphCut(2 * lambda2 + extra, lambda2, kernel)
    assert factory.start(x).diminishing
    gain_small, gain_large = gain_after(factory, x, small, item), gain_after(factory, x, large, item)
    assert gain_large >= -1e-9
    assert gain_small >= gain_large - 1e-9


@settings(max_examples=40, deadline=None)
@given(chains())
def test_facility_location_is_monotone_and_submodular(chain) -> None:
    x, small, large, item = chain
    gain_small = gain_after(FacilityLocation(), x, small, item)
    gain_large = gain_after(FacilityLocation(), x, large, item)
    assert gain_small >= gain_large - 1e-6
    assert gain_large >= -1e-6


def test_raw_cosine_is_neither_monotone_nor_submodular() -> None:
    """Theorem 5 needs w >= 0: below, cosines of -1 break both halves of Definition 5.1."""
    raw = GraphCut(2.0, 1.0, "cosine")
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    # {a} -> {a, b}: representing the pool adds nothing (1 - 1 = 0); the redundancy 2 * w_ab is negative and adds gain.
    assert gain_after(raw, opposite, [], 1) == pytest.approx(-1.0)  # not monotone
    assert gain_after(raw, opposite, [0], 1) == pytest.approx(1.0)  # more than before: not submodular
    assert not raw.start(opposite).diminishing
    shifted = GraphCut(2.0, 1.0, "shifted_cosine")
    assert gain_after(shifted, opposite, [], 1) >= gain_after(shifted, opposite, [0], 1) >= 0.0


def test_monotonicity_needs_lambda1_of_twice_lambda2() -> None:
    with pytest.raises(ConfigError, match="lambda1 >= 2 lambda2"):
        GraphCut(1.9, 1.0)
    with pytest.raises(ConfigError):
        GraphCut(2.0, -1.0)


@pytest.mark.parametrize("max_matrix_mb", [0.0, 10.0])
def test_facility_location_equals_loops(max_matrix_mb: float) -> None:
    x = embeddings(10)
    w = np.array(
        [[similarity("shifted_cosine", a, b, 1.0) for b in x.astype(np.float64)] for a in x.astype(np.float64)]
    )
    term = FacilityLocation(max_matrix_mb=max_matrix_mb).start(x)
    chosen: list[int] = []
    for item in (3, 8, 1):
        before = w[:, chosen].max(axis=1).sum() if chosen else 0.0
        expected = [w[:, [*chosen, i]].max(axis=1).sum() - before for i in range(10)]
        np.testing.assert_allclose(term.gains(), expected, atol=1e-5)
        np.testing.assert_allclose(term.gains(np.array([2, 5])), np.array(expected)[[2, 5]], atol=1e-5)
        term.add(item)
        chosen.append(item)
        assert term.value() == pytest.approx(w[:, chosen].max(axis=1).sum(), abs=1e-5)
    assert term.quadratic() is None


def test_facility_location_refuses_negative_similarities() -> None:
    with pytest.raises(ConfigError, match="can be negative"):
        FacilityLocation("cosine")


def test_k_centre_takes_the_farthest_item() -> None:
    angles = np.radians([0.0, 10.0, 20.0, 90.0, 180.0])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    term = KCentre().start(x)
    first = term.gains()
    assert first.argmax() == 2  # the item at 20 degrees is the most central
    assert first.min() >= 1.0
    term.add(2)
    np.testing.assert_allclose(term.gains(), (1 - np.cos(angles - angles[2])) / 2, atol=1e-6)
    assert term.gains().argmax() == 4
    term.add(4)
    expected = np.minimum(1 - np.cos(angles - angles[2]), 1 - np.cos(angles - angles[4])) / 2
    np.testing.assert_allclose(term.gains(), expected, atol=1e-6)
    assert term.value() == pytest.approx(first[2] + (1 - np.cos(np.radians(160))) / 2, abs=1e-6)


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="no kernel 'cos'"):
        GraphCut(kernel="cos")
    with pytest.raises(ConfigError, match="gamma"):
        GraphCut(kernel="rbf", gamma=0.0)
    x = embeddings(4)
    x[2, 1] = np.nan
    with pytest.raises(DataError, match="first is item 2"):
        GraphCut().start(x)
    with pytest.raises(DataError, match="shape"):
        GraphCut().start(np.zeros((0, 3), np.float32))


def test_a_row_of_zeros_is_unlike_everything_but_finite() -> None:
    x = embeddings(4)
    x[1] = 0.0
    gains = GraphCut().start(x).gains()
    assert gains[1] == pytest.approx(2 * 4 * 0.5 - 0.5)
