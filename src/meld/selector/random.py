"""Uniform random selection: the row every selector has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from meld.selector.base import Features, FloatArray, Selection, budget, check_budget, check_ratio


class RandomSelector:
    """Draws items without replacement.

    A larger budget with the same seed contains the smaller one, so that a sweep over ``c`` is nested.

    Args:
        c: Share of the pool to select.

    Raises:
        ConfigError: If ``c`` is not in (0, 1].
    """

    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = False

    def __init__(self, c: float) -> None:
        self.c = check_ratio(c)

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select at random; only the pool's size is read.

        Raises:
            DataError: If the budget does not fit the pool.
        """
        del influence
        check_budget(n_select, features.size)
        return Selection(np.random.default_rng(seed).permutation(features.size)[:n_select].astype(np.int64))
