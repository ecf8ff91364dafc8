"""Differences between two systems on the same queries: paired bootstrap over queries, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meld.evaluate.counting import RESAMPLES, Counted, Values

_CHUNK = 4_000_000
"""Draws held at once, resamples times groups."""


@dataclass(frozen=True)
class Difference:
    """A metric of one system minus that of another.

    Attributes:
        value: The difference over all queries, averaged over seeds.
        low: Lower end of the 95 % interval.
        high: Upper end.
        groups: What was resampled: queries, or tuples of cell tasks.
        seeds: Pairs of runs behind it.
    """

    value: float
    low: float
    high: float
    groups: int
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(
    reference: Sequence[Counted], other: Sequence[Counted], metric: str, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """``other`` minus ``reference``.

    Every resample draws the same queries for both systems and for all seeds, so that what is hard for both cancels out
    (paired bootstrap, Koehn 2004). The interval is about the choice of test queries; the seeds are those there are.

    Args:
        reference: One for each seed.
        other: The same seeds in the same order.
        metric: Name of the metric.
        seed: Seeds the draws.
        resamples: Number of resamples.

    Raises:
        ValueError: If there is no pair, or the systems were not asked the same.
        KeyError: If the task has no such metric.
    """
    if not reference or len(reference) != len(other):
        raise ValueError(f"{len(reference)} runs cannot be paired with {len(other)}")
    sides = [[found.by_group() for found in side] for side in (reference, other)]
    names = sorted(sides[0][0])
    if any(sorted(groups) != names for side in sides for groups in side):
        raise ValueError("the runs were not asked the same queries")
    if not names:
        raise ValueError("there is no query")
    stacked = [[np.stack([groups[name] for name in names]) for groups in side] for side in sides]

    def differences(weights: Values) -> Values:
        """Mean difference under weights of the groups, shape ``(r, groups)``."""
        found = np.zeros(len(weights))
        for mine, theirs, base, new in zip(reference, other, *stacked, strict=True):
            found += theirs.value(metric, weights @ new) - mine.value(metric, weights @ base)
        mean: Values = found / len(reference)
        return mean

    n = len(names)
    rng = np.random.default_rng(seed)
    drawn = []
    left = resamples
    while left:
        part = min(left, max(1, _CHUNK // n))
        drawn.append(differences(rng.multinomial(n, np.full(n, 1 / n), size=part).astype(np.float64)))
        left -= part
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return Difference(float(differences(np.ones((1, n)))[0]), float(low), float(high), n, len(reference))
