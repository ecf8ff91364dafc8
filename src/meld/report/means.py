"""The mean over all sets of a sweep's table: one number for each row, as the papers compare their rows."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import mean

from meld.evaluate.paired import Difference


def mean_values(by_set: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean over sets, seed by seed.

    Args:
        by_set: For each set, one value for each seed.

    Returns:
        One value for each seed; empty if the sets differ in their number of seeds, as no mean would be of one sweep.
    """
    if not by_set or len({len(values) for values in by_set}) > 1:
        return ()
    return tuple(mean(values) for values in zip(*by_set, strict=True))


def mean_interval(intervals: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean of independent estimates with its 95 % interval.

    The sets' test queries are drawn apart, so the variances add up: half a width of ``sqrt(Σ half²) / m``, each half
    taken on its own side, because intervals of scores near a bound are not symmetric.

    Args:
        intervals: Value, lower and upper end for each of m sets.

    Raises:
        ValueError: If there is none.
    """
    if not intervals:
        raise ValueError("there is nothing to take the mean of")
    m = len(intervals)
    center = mean(value for value, _, _ in intervals)
    below = sqrt(sum((value - low) ** 2 for value, low, _ in intervals)) / m
    above = sqrt(sum((high - value) ** 2 for value, _, high in intervals)) / m
    return center, center - below, center + above


def mean_difference(deltas: Sequence[Difference | None]) -> Difference | None:
    """The mean of paired differences over sets; None if one of them is missing."""
    known = [delta for delta in deltas if delta is not None]
    if not known or len(known) < len(deltas):
        return None
    value, low, high = mean_interval([(delta.value, delta.low, delta.high) for delta in known])
    return Difference(value, low, high, sum(delta.groups for delta in known), min(delta.seeds for delta in known))
