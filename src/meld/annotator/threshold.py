"""The margin threshold that decides which pseudo-labels are kept, fitted on few-shot labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def fit_threshold(margins: Sequence[float], right: Sequence[bool], precision: float) -> float | None:
    """The smallest margin from which on pseudo-labels are right often enough.

    Args:
        margins: Margin of each labelled example.
        right: Whether its pseudo-label would be right.
        precision: Wanted share of right ones among all examples with at least the threshold's margin.

    Returns:
        The threshold; None if no margin reaches the precision, so that nothing should be kept.
    """
    ordered = sorted(zip(margins, right, strict=True), key=lambda pair: -pair[0])
    best = None
    hits = 0
    for count, (margin, ok) in enumerate(ordered, start=1):
        hits += ok
        tie = count < len(ordered) and ordered[count][0] == margin
        if not tie and hits / count >= precision:
            best = margin
    return best


def confidence(margin: float, margins: Sequence[float], right: Sequence[bool]) -> float:
    """Share of right pseudo-labels among labelled examples of at least this margin, smoothed towards one half.

    Args:
        margin: The example's margin.
        margins: Margins of the labelled examples.
        right: Whether they were right.
    """
    above = [ok for m, ok in zip(margins, right, strict=True) if m >= margin]
    return round((sum(above) + 1) / (len(above) + 2), 4)


def describe(margins: Sequence[float], right: Sequence[bool], threshold: float | None) -> dict[str, Any]:
    """What a threshold was fitted on and what it promises, for the report.

    Args:
        margins: Margins of the labelled examples.
        right: Whether their pseudo-labels would be right.
        threshold: The fitted threshold.

    Returns:
        ``threshold``, ``fitted_on`` (labelled examples with a pseudo-label), ``above`` (those that pass the threshold)
        and their ``few_shot_precision``; where nothing passes, ``reason``.
    """
    above = [] if threshold is None else [ok for m, ok in zip(margins, right, strict=True) if m >= threshold]
    found: dict[str, Any] = {"threshold": threshold, "fitted_on": len(margins), "above": len(above)}
    if above:
        return {**found, "few_shot_precision": round(sum(above) / len(above), 6)}
    if not margins:
        return {**found, "reason": "the evidence proposes no answer to any few-shot question"}
    return {**found, "reason": "no margin is precise enough on the few-shot labels"}
