"""Exact greedy that recomputes all gains at once after every pick.

It assumes nothing about the objective; lazy evaluation picks the same in less time where it applies.
"""

from __future__ import annotations

from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, best, picks


class Incremental:
    """n_select vectorised evaluations of the whole pool."""

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`; nothing is random.

        Raises:
            DataError: If the budget does not fit the pool.
        """
        del seed
        taken = begin(objective, n_select)
        for _ in range(n_select):
            chosen = best(objective.gains(), taken)
            objective.add(chosen)
            taken[chosen] = True
        return picks(objective)
