"""Greedy by the package submodlib, as published work runs it: graph cut over a given n x n kernel."""

from __future__ import annotations

import numpy as np

from meld.errors import ConfigError
from meld.selector.base import IntArray
from meld.selector.objective import Objective
from meld.selector.optimizer.base import begin, picks

ALGORITHMS = ("LazyGreedy", "NaiveGreedy")


class Submodlib:
    """Maximises the objective with ``submodlib.GraphCutFunction``, in single precision.

    The linear part (representativeness, quality, complexity) is one represented row, the redundancy its ground kernel,
    so that the package maximises exactly the same function.

    Args:
        algorithm: ``LazyGreedy`` or ``NaiveGreedy``.
        max_items: Above this pool size the package's Python lists would fill the memory; refuse.

    Raises:
        ConfigError: If the algorithm is unknown.
    """

    def __init__(self, algorithm: str = "LazyGreedy", max_items: int = 8000) -> None:
        if algorithm not in ALGORITHMS:
            raise ConfigError(
                f"There is no algorithm '{algorithm}'.",
                where="selector.optimizer.algorithm",
                fix=f"one of {', '.join(ALGORITHMS)}",
            )
        self.algorithm = algorithm
        self.max_items = max_items

    def maximize(self, objective: Objective, n_select: int, seed: int) -> IntArray:
        """See :class:`meld.selector.optimizer.base.Optimizer`; nothing is random.

        Raises:
            DataError: If the budget does not fit the pool.
            ConfigError: If the objective is no graph cut, its gains can grow under LazyGreedy, or the pool is too
                large.
        """
        del seed
        begin(objective, n_select)
        n = objective.n
        if n > self.max_items:
            raise ConfigError(
                f"submodlib needs an n x n kernel as Python lists; {n} items are more than {self.max_items}.",
                where="selector.optimizer.max_items",
                fix="selector/optimizer=incremental, which gives the same set",
            )
        if self.algorithm == "LazyGreedy" and not objective.diminishing:
            raise ConfigError(
                "Lazy greedy is exact only where gains cannot grow, and this objective's can.",
                where="selector.optimizer.algorithm",
                fix="selector.optimizer.algorithm=NaiveGreedy",
            )
        parts = objective.quadratic()
        if parts is None:
            raise ConfigError(
                "submodlib cannot maximise this objective: its diversity term is no graph cut.",
                where="selector.optimizer",
                fix="selector/optimizer=lazy, or selector/diversity=graph_cut",
            )
        if n_select < n:
            import submodlib

            pairwise = np.zeros((n, n)) if parts.pairwise is None else parts.pairwise
            function = submodlib.GraphCutFunction(
                n=n,
                mode="dense",
                lambdaVal=1.0,
                separate_rep=True,
                n_rep=1,
                mgsijs=parts.linear[None, :].astype(np.float32),
                ggsijs=pairwise.astype(np.float32),
            )
            for item, _ in function.maximize(budget=n_select, optimizer=self.algorithm, show_progress=False):
                objective.add(int(item))
        else:
            # The package refuses a budget that is the whole pool: there is nothing to choose.
            for item in range(n):
                objective.add(item)
        return picks(objective)
