"""Metrics as functions of summed counts, and their intervals by resampling whole groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meld.types import Score

RESAMPLES = 1000

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A metric that is a function of summed counts: ``Σ counts·top / Σ counts·bottom``.

    Attributes:
        metric: Name as printed.
        top: Weights of the count columns in the numerator.
        bottom: Weights of the count columns in the denominator.
        n: How many queries or cells it is computed over; by default the value of the denominator.
        main: Whether it is the task's headline metric.

    Weights that are left out at the end are zero.
    """

    metric: str
    top: tuple[float, ...]
    bottom: tuple[float, ...]
    n: int | None = None
    main: bool = False

    def of(self, sums: Values) -> Values:
        """Values of summed counts of shape ``(r, m)``, shape ``(r,)``."""
        above: Values = sums[:, : len(self.top)] @ np.asarray(self.top, dtype=np.float64)
        below: Values = sums[:, : len(self.bottom)] @ np.asarray(self.bottom, dtype=np.float64)
        values: Values = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return values

    def size(self, totals: Values) -> int:
        """How many queries or cells it is computed over, given the totals, shape ``(1, m)``."""
        if self.n is not None:
            return self.n
        return round(float(totals[0, : len(self.bottom)] @ np.asarray(self.bottom, dtype=np.float64)))


@dataclass(frozen=True)
class Macro:
    """The mean of the F1 of each class that gold has (in a resample: that the resample's gold has).

    Attributes:
        metric: Name as printed.
        start: The first of the count columns ``(right, said, owed)`` of class after class, up to the last column.
        n: How many queries it is computed over.
        main: Whether it is the task's headline metric.
    """

    metric: str
    start: int
    n: int
    main: bool = False

    def of(self, sums: Values) -> Values:
        """Values of summed counts of shape ``(r, m)``, shape ``(r,)``."""
        right, said, owed = np.moveaxis(sums[:, self.start :].reshape(len(sums), -1, 3), 2, 0)
        present = owed > 0
        f1 = np.divide(2 * right, said + owed, out=np.zeros_like(right), where=present)
        classes = present.sum(axis=1)
        mean: Values = np.divide(f1.sum(axis=1), classes, out=np.zeros(len(sums)), where=classes > 0)
        return mean

    def size(self, totals: Values) -> int:
        """How many queries it is computed over."""
        return self.n


@dataclass(frozen=True)
class Counted:
    """What a unit's metrics are computed from; sums over any set of groups give the metrics of that set.

    Attributes:
        groups: Group of each row: what is resampled together.
        counts: Shape ``(n, m)``, one row per query or cell.
        metrics: Functions of summed counts.
    """

    groups: tuple[str, ...]
    counts: Counts
    metrics: tuple[Ratio | Macro, ...]

    def by_group(self) -> dict[str, Values]:
        """The counts of each group, shape ``(m,)``."""
        sums: dict[str, Values] = {}
        for group, row in zip(self.groups, self.counts.astype(np.float64), strict=True):
            sums[group] = sums[group] + row if group in sums else row
        return sums

    def value(self, metric: str, sums: Values) -> Values:
        """A metric of summed counts of shape ``(r, m)``, shape ``(r,)``.

        Raises:
            KeyError: If the task has no such metric.
        """
        for known in self.metrics:
            if known.metric == metric:
                return known.of(sums)
        raise KeyError(metric)


def bootstrap(
    groups: Sequence[str], counts: Counts, metric: Callable[[Values], Values], seed: int, resamples: int = RESAMPLES
) -> tuple[Values, Values]:
    """95 % percentile intervals of functions of summed counts, resampling whole groups.

    Groups with equal counts are interchangeable, so a resample is a multinomial draw over the *distinct* count rows:
    the same distribution as drawing groups, at a cost that does not grow with their number, and independent of the
    order of the queries.

    Args:
        groups: Group of each row, length n.
        counts: Shape ``(n, m)``.
        metric: From sums, shape ``(r, m)``, to values, shape ``(r, metrics)``.
        seed: Seeds the draws.
        resamples: Number of resamples r.

    Returns:
        Lower and upper ends, each of shape ``(metrics,)``; equal to the point estimate when there is no row to
        resample.
    """
    if len(groups) == 0:
        point = metric(np.zeros((1, counts.shape[1])))[0]
        return point, point
    _, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    summed = np.zeros((int(index.max()) + 1, counts.shape[1]), dtype=np.int64)
    np.add.at(summed, index, counts)
    distinct, often = np.unique(summed, axis=0, return_counts=True)
    total = int(often.sum())
    draws = np.random.default_rng(seed).multinomial(total, often / total, size=resamples)
    # Floating point is exact for counts, and multiplies many classes' counts far faster than integers do.
    values = metric(draws.astype(np.float64) @ distinct.astype(np.float64))
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    return low, high


def measure(groups: Sequence[str], rows: Sequence[tuple[int, ...]], width: int, ratios: Sequence[Ratio]) -> Counted:
    """Counts with the metrics that are read off them.

    Args:
        groups: Group of each row.
        rows: The counts of each query or cell.
        width: How many each has.
        ratios: The metrics.
    """
    counts: Counts = np.asarray(rows, dtype=np.int64).reshape(len(rows), width)
    return Counted(tuple(groups), counts, tuple(ratios))


def evaluate(found: Counted, seed: int) -> list[Score]:
    """Every metric with its 95 % interval; ``seed`` seeds the resampling."""

    def values(sums: Values) -> Values:
        return np.stack([metric.of(sums) for metric in found.metrics], axis=1)

    totals: Values = found.counts.sum(axis=0, keepdims=True).astype(np.float64)
    point = values(totals)[0]
    low, high = bootstrap(found.groups, found.counts, values, seed)
    return [
        Score(
            metric=metric.metric,
            value=float(point[i]),
            n=metric.size(totals),
            low=float(low[i]),
            high=float(high[i]),
            main=metric.main,
        )
        for i, metric in enumerate(found.metrics)
    ]
