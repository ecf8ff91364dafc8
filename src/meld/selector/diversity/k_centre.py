"""k-centre: the next item is the one farthest from all selected (Gonzalez, 1985)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meld.selector.base import FloatArray, IntArray
from meld.selector.diversity.base import unit_rows
from meld.selector.objective import Term


class KCentre:
    """Farthest-first traversal with the distance (1 - cosine) / 2.

    An item's gain is its distance to the nearest selected item; from the empty set it is 1 + the item's mean
    similarity to the pool, so that the first pick is the most central item. Gains only shrink, but their sum depends
    on the order: this is a rule for picking rather than a set function, and the (1 - 1/e) bound says nothing about it.
    """

    def start(self, embeddings: NDArray[np.float32]) -> Term:
        """The term over a pool.

        Args:
            embeddings: Shape (n, d).

        Raises:
            DataError: If the pool is empty or an embedding is not finite.
        """
        return _KCentre(unit_rows(embeddings))


class _KCentre:
    def __init__(self, rows: FloatArray) -> None:
        self.n = len(rows)
        self.diminishing = True
        self._rows = rows
        # (1 + cos) / 2 averaged over the pool, plus one, is above any distance that can follow.
        self._gain: FloatArray = 1.5 + 0.5 * (rows @ rows.mean(axis=0))
        self._empty = True
        self._value = 0.0

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """Distance to the nearest selected item, shape (m,)."""
        return self._gain.copy() if candidates is None else self._gain[candidates]

    def add(self, item: int) -> None:
        """Add an item."""
        self._value += float(self._gain[item])
        distance = np.maximum(0.5 - 0.5 * (self._rows @ self._rows[item]), 0.0)
        self._gain = distance if self._empty else np.minimum(self._gain, distance)
        self._empty = False

    def value(self) -> float:
        """Sum of the gains of the items in the order they were added."""
        return self._value

    def quadratic(self) -> None:
        """k-centre is not quadratic."""
        return

    def low_rank(self) -> None:
        """k-centre is no sum of vectors."""
        return
