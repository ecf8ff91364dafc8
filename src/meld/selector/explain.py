"""Why an item was taken or dropped: its terms, its rank, and the term that decided against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meld.selector.base import FloatArray, Selection

REASONS: Mapping[str, str] = {
    "diversity": "redundant or peripheral",
    "quality": "low quality",
    "complexity": "little influence",
}
"""What it means when a term of Eq. 9 speaks against an item; other scores are named as they are."""
WORTHLESS = "quality 0: its demonstrations make the label less likely"
NOT_DRAWN = "not drawn"


@dataclass(frozen=True, eq=False)
class Explanation:
    """A selection, item by item.

    Attributes:
        columns: Each of length n: ``rank`` (from 1, None for dropped items), one column per term (what the item added
            when it was picked, or would add now), and ``reason`` (empty for selected items).
        reasons: How many items were dropped for which reason.
    """

    columns: Mapping[str, Sequence[object]]
    reasons: Mapping[str, int]


def explain(selection: Selection, n_pool: int) -> Explanation:
    """Explain a selection.

    An item is said to be dropped for the term in which it falls furthest behind the mean of the selected items, each
    term weighted as in the objective.

    Args:
        selection: What was selected.
        n_pool: Size of the pool.
    """
    rank: list[int | None] = [None] * n_pool
    for position, item in enumerate(selection.indices):
        rank[int(item)] = position + 1
    terms: dict[str, FloatArray] = {}
    for name, now in selection.every.items():
        values = now.copy()
        values[selection.indices] = selection.terms[name]
        terms[name] = values
    reasons = _reasons(selection, terms, n_pool)
    for item in selection.indices:
        reasons[int(item)] = ""
    counts = Counter(reason for reason in reasons if reason)
    columns: dict[str, Sequence[object]] = {"rank": rank}
    columns |= {name: values.tolist() for name, values in terms.items()}
    return Explanation({**columns, "reason": reasons}, dict(sorted(counts.items())))


def _reasons(selection: Selection, terms: Mapping[str, FloatArray], n_pool: int) -> list[str]:
    if not terms:
        return [NOT_DRAWN] * n_pool
    names = list(terms)
    behind = np.stack(
        [
            selection.factors.get(name, 1.0) * (values - float(values[selection.indices].mean()))
            for name, values in terms.items()
        ]
    )
    worst = behind.argmin(axis=0)
    reasons = [REASONS.get(names[int(term)], f"{names[int(term)]} below the cut") for term in worst]
    if "quality" in terms:
        for item in np.flatnonzero(terms["quality"] <= 0.0):
            reasons[int(item)] = WORTHLESS
    return reasons
