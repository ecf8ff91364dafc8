"""Lazy greedy (Minoux, 1978): old gains are upper bounds, so that only the most promising items are evaluated again."""

from __future__ import annotations

import numpy as np

from meld.errors import ConfigError
from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, picks, tie_floor


class Lazy:
    """Exact where gains cannot grow; refuses to run elsewhere.

    Stale items are evaluated in blocks that double while a pick is undecided: the same picks as one by one, in fewer
    calls.
    """

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`; nothing is random.

        Raises:
            DataError: If the budget does not fit the pool.
            ConfigError: If the objective's gains can grow (raw cosine).
        """
        del seed
        begin(objective, n_select)
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
