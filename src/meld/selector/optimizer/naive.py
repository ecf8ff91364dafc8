"""Greedy as in the textbook: every remaining item is evaluated alone in every step. The reference; for small pools."""

from __future__ import annotations

import numpy as np

from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, best, picks


class Naive:
    """n * n_select single evaluations."""

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`; nothing is random.

        Raises:
            DataError: If the budget does not fit the pool.
        """
        del seed
        taken = begin(objective, n_select)
        for _ in range(n_select):
            gains = np.full(objective.n, -np.inf)
            for item in np.flatnonzero(~taken):
                gains[item] = objective.gains(np.array([item]))[0]
            chosen = best(gains, taken)
            objective.add(chosen)
            taken[chosen] = True
        return picks(objective)
