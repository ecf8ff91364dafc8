"""Facility location: every item of the pool is represented by its most similar selected item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError
from meld.selector.base import FloatArray, IntArray
from meld.selector.diversity.base import Kernel, make_kernel, unit_rows
from meld.selector.objective import Term

_BLOCK = 512


class FacilityLocation:
    """F(S) = sum_{i in X} max_{j in S} w_ij: monotone and submodular for w >= 0.

    A gain costs O(n) with the similarities at hand and O(n d) without; use ``optimizer=lazy``.

    Args:
        kernel: ``shifted_cosine``, ``cosine_clamped`` or ``rbf``.
        gamma: Width of ``rbf``.
        max_matrix_mb: Up to this size the n x n similarities are kept (in single precision), above it they are
            computed anew.

    Raises:
        ConfigError: If the kernel is unknown or can be negative.
    """

    def __init__(self, kernel: str = "shifted_cosine", gamma: float = 1.0, max_matrix_mb: float = 512.0) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.max_matrix_mb = max_matrix_mb
        self._kernel = make_kernel(kernel, gamma)
        if not self._kernel.non_negative:
            raise ConfigError(
                f"Facility location needs similarities of at least 0, and '{kernel}' can be negative.",
                where="selector.diversity.kernel",
                fix="selector.diversity.kernel=shifted_cosine",
            )

    def start(self, embeddings: NDArray[np.float32]) -> Term:
        """The term over a pool.

        Args:
            embeddings: Shape (n, d).

        Raises:
            DataError: If the pool is empty or an embedding is not finite.
        """
        return _FacilityLocation(unit_rows(embeddings), self._kernel, self.max_matrix_mb)


class _FacilityLocation:
    def __init__(self, rows: FloatArray, kernel: Kernel, max_matrix_mb: float) -> None:
        self.n = len(rows)
        self.diminishing = True
        self._rows = rows
        self._kernel = kernel
        self._best = np.zeros(self.n)
        self._matrix: NDArray[np.float32] | None = None
        if self.n * self.n * 4 <= max_matrix_mb * 2**20:
            self._matrix = np.empty((self.n, self.n), np.float32)
            for at in range(0, self.n, _BLOCK):
                self._matrix[at : at + _BLOCK] = kernel.of_cosine(rows[at : at + _BLOCK] @ rows.T)

    def _similarities(self, items: IntArray) -> FloatArray:
        """Shape (len(items), n)."""
        if self._matrix is not None:
            return self._matrix[items].astype(np.float64)
        return self._kernel.of_cosine(self._rows[items] @ self._rows.T)

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """sum_i max(0, w_ia - max_{j in S} w_ij), shape (m,)."""
        items = np.arange(self.n) if candidates is None else candidates
        blocks = [
            np.maximum(self._similarities(items[at : at + _BLOCK]) - self._best, 0.0).sum(axis=1)
            for at in range(0, len(items), _BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def add(self, item: int) -> None:
        """Add an item."""
        self._best = np.maximum(self._best, self._similarities(np.array([item]))[0])

    def value(self) -> float:
        """F of the items added so far."""
        return float(self._best.sum())

    def quadratic(self) -> None:
        """Facility location is not quadratic."""
        return

    def low_rank(self) -> None:
        """Facility location is no sum of vectors."""
        return
