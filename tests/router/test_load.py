"""How evenly experts are used: hand-computed cases and what must hold for any weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.router.load import balance, entropy, restrict, suite_usage, usage

loads = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=8).filter(lambda found: sum(found) > 0.1)


def test_entropy_by_hand() -> None:
    assert entropy(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(math.log(2) / 2)
    assert entropy(np.zeros((0, 3))) == 0.0


def test_balance_by_hand() -> None:
    assert balance([5, 5, 5]) == {"normalised_entropy": 1.0, "cv": 0.0}
    assert balance([9, 0, 0, 0]) == {"normalised_entropy": 0.0, "cv": pytest.approx(math.sqrt(3), abs=1e-5)}
    assert balance([3, 1])["cv"] == pytest.approx(0.5)
    assert balance([7]) == {"normalised_entropy": 1.0, "cv": 0.0}
    assert balance([0, 0]) == {"normalised_entropy": 0.0, "cv": 0.0}


@given(loads, st.floats(0.5, 20.0))
def test_balance_has_bounds_and_no_unit(load: list[float], factor: float) -> None:
    found = balance(load)
    assert -1e-9 <= found["normalised_entropy"] <= 1 + 1e-6
    assert 0 <= found["cv"] <= math.sqrt(max(0, len(load) - 1)) + 1e-5
    scaled = balance([factor * share for share in load])
    assert scaled["cv"] == pytest.approx(found["cv"], abs=1e-5)


def test_usage_counts_queries() -> None:
    weights = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4], [0.1, 0.8, 0.1]])
    gates = np.array([[0.7, 0.3, 0], [0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    found = usage(("a.em", "b.di", "c.dc"), weights, gates, ["x.blk"])
    assert found["share_first"] == [0.5, 0.5, 0.0]
    assert found["share_of_queries"] == [0.5, 0.75, 0.25]
    assert found["mean_gates"] == [0.3, 0.575, 0.125]
    assert found["mean_weights"] == [0.35, 0.475, 0.175]
    assert (found["queries"], found["path"]) == (4, ["x.blk"])
    nothing = usage(("a.em",), np.zeros((0, 1)), np.zeros((0, 1)), [])
    assert (nothing["share_first"], nothing["entropy"]) == ([0.0], 0.0)


def test_load_of_a_suite_weighs_units_by_their_queries() -> None:
    one = usage(("a.em", "b.di"), np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), [])
    three = usage(("a.em", "b.di"), np.array([[0.0, 1.0]] * 3), np.array([[0.0, 1.0]] * 3), [])
    found = suite_usage({"a.em": one, "b.di": three})
    assert found["load"] == [0.25, 0.75]
    assert found["balance"] == balance([1, 3])
    assert found["per_query"]
    assert found["units"]["a.em"]["mean_weights"] == [1.0, 0.0]


def test_a_router_without_weights_is_listed_and_says_so() -> None:
    found = suite_usage({"a.em": {"experts": ["a.em", "b.di"], "queries": 4, "path": []}})
    assert found["per_query"] is False
    assert found["units"] == {"a.em": {"queries": 4, "path": []}}
    assert "load" not in found


@given(st.integers(0, 1000), st.integers(2, 6))
def test_restricting_is_the_softmax_without_those_experts(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (4, n))
    experts = [f"e{i}" for i in range(n)]
    exclude = experts[: int(rng.integers(1, n))]
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = restrict(weights, experts, exclude)
    kept = [i for i, expert in enumerate(experts) if expert not in exclude]
    expected = np.exp(logits[:, kept]) / np.exp(logits[:, kept]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, kept], expected, atol=1e-9)
    assert not found[:, : len(exclude)].any()


def test_queries_that_only_asked_an_excluded_expert_are_spread() -> None:
    found = restrict(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), ("a", "b", "c"), ("a",))
    np.testing.assert_allclose(found, [[0, 0.5, 0.5], [0, 1, 0]])
