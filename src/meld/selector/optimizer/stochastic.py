"""Stochastic greedy (Mirzasoleiman et al., 2015): each pick is the best of a random sample. For very large pools."""

from __future__ import annotations

import math

import numpy as np

from meld.errors import ConfigError
from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, picks, tie_floor


class Stochastic:
    """(1 - 1/e - epsilon) of the optimum in expectation, with n ln(1/epsilon) evaluations in all, whatever the budget.

    Args:
        epsilon: In (0, 1); smaller is closer to greedy.

    Raises:
        ConfigError: If epsilon is not in (0, 1).
    """

    def __init__(self, epsilon: float = 0.01) -> None:
        if not 0.0 < epsilon < 1.0:
            raise ConfigError(
                f"epsilon is {epsilon}; it must be in (0, 1).", where="selector.optimizer.epsilon", fix="0.01"
            )
        self.epsilon = epsilon

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`.

        Raises:
            DataError: If the budget does not fit the pool.
        """
        begin(objective, n_select)
        rng = np.random.default_rng(seed)
        # The free items fill the front of `order`; a pick is replaced by the last free one, so that a step costs
        # O(sample).
        order = np.arange(objective.n, dtype=np.int64)
        free = objective.n
        size = math.ceil(objective.n / n_select * math.log(1.0 / self.epsilon))
        for _ in range(n_select):
            places = rng.choice(free, size=min(size, free), replace=False, shuffle=False)
            items = order[places]
            gains = objective.gains(items)
            equals = np.flatnonzero(gains >= tie_floor(gains))
            winner = int(equals[np.argmin(items[equals])])
            objective.add(int(items[winner]))
            free -= 1
            order[places[winner]] = order[free]
        return picks(objective)
