"""No selection: the expert trains on the whole pool."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from meld.selector.base import Features, FloatArray, Selection, budget


class NoSelector:
    """Keeps every item, in the pool's order."""

    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = False

    def size(self, n_pool: int) -> int:
        """All of them.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(1.0, n_pool)

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select everything; only the pool's size is read."""
        del influence, n_select, seed
        return Selection(np.arange(budget(1.0, features.size), dtype=np.int64))
