"""No quality term: every item scores 0."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from meld.selector.base import FloatArray


class NoQuality:
    """Costs nothing and says nothing."""

    needs_losses: ClassVar[bool] = False

    def scores(self, loss_cond: FloatArray, loss_prior: FloatArray) -> FloatArray:
        """Zeros, shape (n,)."""
        del loss_prior
        return np.zeros(len(loss_cond))
