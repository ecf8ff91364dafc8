"""Several seeds as one number: by hand, at the extremes, and how often the interval holds the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.report.results import Row
from meld.report.seeds import over_seeds

ROW = Row("d", "em", "meld", "f1", 0.5, 100, 0.4, 0.6, True, "hash")


def rows(values: Sequence[float], half: float = 0.0) -> list[Row]:
    return [replace(ROW, value=v, ci_low=max(0.0, v - half), ci_high=min(1.0, v + half)) for v in values]


def test_one_run_keeps_its_interval() -> None:
    found = over_seeds([ROW])
    assert (found.mean, found.deviation, found.low, found.high, found.seeds, found.n) == (0.5, 0.0, 0.4, 0.6, 1, 100)


def test_mean_and_deviation_by_hand() -> None:
    found = over_seeds(rows([0.4, 0.5, 0.9]))
    assert found.mean == pytest.approx(0.6)
    assert found.deviation == pytest.approx(((0.04 + 0.01 + 0.09) / 2) ** 0.5)
    assert found.seeds == 3


def test_equal_seeds_leave_the_queries_uncertainty() -> None:
    found = over_seeds(rows([0.5] * 4, half=0.1))
    assert (found.low, found.high) == pytest.approx((0.4, 0.6), abs=0.01)


def test_certain_queries_leave_the_seeds_uncertainty() -> None:
    """Standard deviation of the mean is s / √m, so the interval is about 2 · 1.96 · s / √m wide."""
    values = np.random.default_rng(3).normal(0.5, 0.05, 60)
    found = over_seeds(rows(list(values)))
    assert found.high - found.low == pytest.approx(3.92 * values.std(ddof=1) / 60**0.5, rel=0.08)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 0.3))
def test_bounds_and_order(values: list[float], half: float) -> None:
    found = over_seeds(rows(values, half))
    assert 0 <= found.low <= found.high <= 1
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
    assert over_seeds(rows(values, half)) == found


def test_coverage() -> None:
    """Truth 0.6, seeds vary by 0.03 and one test set of 200 queries moves all of them by the same: nine in ten hold."""
    rng = np.random.default_rng(0)
    sampling = (0.6 * 0.4 / 200) ** 0.5
    held = 0
    for _ in range(200):
        values = 0.6 + rng.normal(0, sampling) + rng.normal(0, 0.03, 3)
        found = over_seeds(rows(list(values), half=1.96 * sampling))
        held += found.low <= 0.6 <= found.high
    assert held / 200 > 0.88


def test_rows_about_different_things_are_refused() -> None:
    with pytest.raises(ValueError, match="one metric"):
        over_seeds([ROW, replace(ROW, metric="recall")])
    with pytest.raises(ValueError, match="no row"):
        over_seeds([])
