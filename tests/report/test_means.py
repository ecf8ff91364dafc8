"""Means over the sets of a table: their formulas, and when a table has them."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.evaluate.paired import Difference
from meld.report.means import mean_difference, mean_interval, mean_values
from meld.report.paper import MEAN, paper_table
from meld.report.paper_text import frame, markdown
from meld.report.record import SweepRecord, write_job, write_record
from meld.report.results import rows_of, write_results
from meld.types import Score

share = st.floats(0, 1, allow_nan=False)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(share, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_values_are_taken_seed_by_seed(by_set: list[list[float]]) -> None:
    found = mean_values(by_set)
    assert found == pytest.approx([mean(values[seed] for values in by_set) for seed in range(len(by_set[0]))])
    assert mean_values([*by_set, [*by_set[0], 0.5]]) == ()
    assert mean_values([]) == ()


def test_the_interval_is_that_of_a_mean_of_independent_estimates() -> None:
    rng = np.random.default_rng(0)
    halves = (0.02, 0.1, 0.05)
    drawn = sum(rng.normal(0.5, half / 1.96, 200_000) for half in halves) / len(halves)
    value, low, high = mean_interval([(0.5, 0.5 - half, 0.5 + half) for half in halves])
    assert value == pytest.approx(0.5)
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-3)
    with pytest.raises(ValueError, match="nothing"):
        mean_interval([])


def test_a_lopsided_interval_stays_lopsided() -> None:
    value, low, high = mean_interval([(1.0, 0.9, 1.0), (0.5, 0.4, 0.7)])
    assert (value, low, high) == pytest.approx((0.75, 0.75 - 0.02**0.5 / 2, 0.75 + 0.1))


def test_a_difference_is_missing_if_one_of_them_is() -> None:
    one, other = Difference(0.1, 0.0, 0.2, 40, 3), Difference(-0.3, -0.4, -0.2, 60, 2)
    found = mean_difference([one, other])
    assert found is not None
    assert (found.value, found.groups, found.seeds) == (pytest.approx(-0.1), 100, 2)
    assert found.high == pytest.approx(-0.1 + 0.02**0.5 / 2)
    assert mean_difference([one, None]) is None
    assert mean_difference([]) is None


def _sweep(folder: Path, scores: dict[str, dict[str, float]]) -> Path:
    """A sweep over variants, each with scores by dataset."""
    paper = {"rows": ["variant"], "reference": "full"}
    write_record(folder, SweepRecord("meld", None, {"variant": tuple(scores)}, paper))
    for variant, by_set in scores.items():
        job = folder / f"variant={variant}"
        rows = []
        for dataset, value in by_set.items():
            own = [Score("f1", value, 10, value - 0.1, value + 0.1, main=True), Score("recall", 0.0, 10, 0.0, 0.1)]
            rows += rows_of(dataset, "em", "meld", own, "0" * 16)
            rows += rows_of(dataset, "em", "majority", [Score("f1", 0.0, 10, 0.0, 0.1, main=True)], "0" * 16)
        write_results(job, {"method": "meld", "synthetic": []}, "0" * 16, rows)
        write_job(job, {"variant": variant})
    return folder


def test_a_table_has_the_mean_over_the_sets_that_all_rows_have(tmp_path: Path) -> None:
    table = paper_table(_sweep(tmp_path, {"full": {"a": 0.5, "b": 0.7, "c": 0.9}, "wo_rag": {"a": 0.3, "b": 0.5}}))
    assert table is not None
    assert table.columns[-1] == MEAN
    full, without = table.cells["full", MEAN], table.cells["wo_rag", MEAN]
    assert (full.value, without.value) == (pytest.approx(60), pytest.approx(40))
    assert full.n == 20
    assert full.high - full.low == pytest.approx(100 * 2 * 0.02**0.5 / 2)
    line = next(line for line in markdown(table).splitlines() if "mean of sets" in line)
    assert "60.0 [52.9, 67.1]" in line
    assert set(frame(table)["dataset"]) >= {"mean of sets"}


@pytest.mark.parametrize("scores", [{"full": {"a": 0.5}, "x": {"a": 0.4}}, {"full": {"a": 0.5, "b": 0.2}}])
def test_one_set_or_one_row_has_no_mean(tmp_path: Path, scores: dict[str, dict[str, float]]) -> None:
    table = paper_table(_sweep(tmp_path, scores))
    assert table is not None
    assert MEAN not in table.columns
