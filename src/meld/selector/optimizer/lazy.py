"""Lazy greedy: bounds decide which few items have to be evaluated again after a pick. The default.

Objectives that are sums of vectors (graph cut with a linear kernel) have bounds of their own, see
:mod:`meld.selector.optimizer.low_rank`. For all others old gains are the bounds (Minoux, 1978).
"""

from __future__ import annotations

import numpy as np

from meld.errors import ConfigError
from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, picks, tie_floor
from meld.selector.optimizer.low_rank import low_rank_greedy


class Lazy:
    """The picks of greedy, in a fraction of its evaluations. Refuses objectives for which it has no bounds.

    Where there are no sums of vectors, stale items are evaluated in blocks that double while a pick is undecided: the
    same picks as one by one, in fewer calls.
    """

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`; nothing is random.

        Raises:
            DataError: If the budget does not fit the pool.
            ConfigError: If the objective is no sum of vectors and its gains can grow.
        """
        del seed
        begin(objective, n_select)
        form = objective.low_rank()
        if form is not None:
            for item in low_rank_greedy(form, n_select):
                objective.add(item)
            return picks(objective)
        if not objective.diminishing:
            raise ConfigError(
                "Lazy greedy is exact only where gains cannot grow, and this objective's can.",
                where="selector.optimizer",
                fix="selector/optimizer=incremental, or a non-negative kernel",
            )
        bounds = objective.gains()
        evaluated = np.zeros(objective.n, dtype=np.int64)  # the step in which the bound was computed
        for step in range(n_select):
            block = 1
            while True:
                near = np.flatnonzero(bounds >= tie_floor(bounds))
                if (evaluated[near] == step).all():
                    break
                # Beyond those that may be best now, refresh the next most promising ones in the same call.
                block = min(max(2 * block, len(near)), objective.n)
                top = np.argpartition(-bounds, block - 1)[:block]
                items = np.union1d(near, top)
                items = items[(evaluated[items] < step) & np.isfinite(bounds[items])]
                bounds[items] = objective.gains(items)
                evaluated[items] = step
            chosen = int(near[0])
            objective.add(chosen)
            bounds[chosen] = -np.inf
        return picks(objective)
