"""Several runs that differ in their seeds, summed up as one number with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from meld.report.results import Row

RESAMPLES = 2000
_WIDTHS = 3.92
"""Width of a 95 % interval of a normal distribution in standard deviations."""


@dataclass(frozen=True)
class Summary:
    """A metric over several seeds.

    Attributes:
        mean: Mean over the seeds.
        deviation: Sample standard deviation over the seeds; 0 for one.
        low: Lower end of the 95 % interval of the mean.
        high: Upper end.
        seeds: How many runs.
        n: Queries behind one run (the fewest, where they differ).
    """

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int
    n: int


def over_seeds(rows: Sequence[Row], seed: int = 0) -> Summary:
    """Sum up rows of one metric from runs that differ in their seeds.

    Two things are uncertain: which seeds were drawn, and which test queries. The mean is resampled on both levels:
    seeds with replacement, their deviations stretched by √(m / (m − 1)) because m values spread less around their own
    mean than around the true one; and one deviation that all seeds share, because they answer the same queries, with
    the spread that the runs' own bootstrap intervals show on average. One row keeps its interval. (Two-level bootstrap:
    Davison and Hinkley 1997, section 3.8. With three seeds it still covers less than 95 %: three values say little
    about a spread.)

    Args:
        rows: One row per run.
        seed: Seeds the resampling.

    Raises:
        ValueError: If there is no row, or the rows are about different things.
    """
    if not rows:
        raise ValueError("there is no row to sum up")
    about = {(row.unit, row.system, row.metric) for row in rows}
    if len(about) > 1:
        raise ValueError(f"rows of one metric are needed, not of {sorted(about)}")
    values = [row.value for row in rows]
    center, least = mean(values), min(row.n for row in rows)
    if len(rows) == 1:
        return Summary(center, 0.0, rows[0].ci_low, rows[0].ci_high, 1, least)
    m = len(rows)
    rng = np.random.default_rng(seed)
    deviations = (np.asarray(values) - center) * np.sqrt(m / (m - 1))
    drawn = deviations[rng.integers(m, size=(RESAMPLES, m))].mean(axis=1)
    shared = mean(row.ci_high - row.ci_low for row in rows) / _WIDTHS
    low, high = np.percentile(center + drawn + rng.normal(0.0, shared, RESAMPLES), [2.5, 97.5])
    return Summary(center, stdev(values), max(0.0, float(low)), min(1.0, float(high)), m, least)
