"""What a maximiser is, and how ties are broken."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meld.selector.base import FloatArray, IntArray, check_budget
from meld.selector.objective import Objective

TIE = 1e-10
"""Gains closer than this (relative to the largest) are equal: rounding must not decide between duplicates."""


class Optimizer(Protocol):
    """A greedy maximiser."""

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """Add ``n_select`` items to an objective that has none yet.

        Args:
            objective: What to maximise; it holds the picks afterwards.
            n_select: How many items.
            seed: Seeds whatever is random.

        Returns:
            Shape (n_select,), the items in the order of picking.
        """
        ...


def tie_floor(gains: FloatArray) -> float:
    """The smallest gain that counts as equal to the largest."""
    top = float(gains.max())
    return top - TIE * max(1.0, abs(top))


def best(gains: FloatArray, taken: NDArray[np.bool_]) -> int:
    """The item with the largest gain among those not taken; of equals the first.

    Args:
        gains: Shape (n,).
        taken: Shape (n,).
    """
    free = np.where(taken, -np.inf, gains)
    return int(np.flatnonzero(free >= tie_floor(free))[0])


def begin(objective: Objective, n_select: int) -> NDArray[np.bool_]:
    """Check the budget and return the mask of taken items, all False.

    Raises:
        DataError: If the budget does not fit the pool.
        ValueError: If items were added to the objective before.
    """
    check_budget(n_select, objective.n)
    if objective.picked:
        raise ValueError("the objective holds items already")
    return np.zeros(objective.n, dtype=bool)


def picks(objective: Objective) -> IntArray:
    """The items an objective holds, in order."""
    return np.array(objective.picked, dtype=np.int64)
