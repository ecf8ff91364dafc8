"""F_div of Eq. 3: representativeness minus redundancy (a graph cut)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError
from meld.selector.base import FloatArray, IntArray
from meld.selector.diversity.base import Kernel, make_kernel, unit_rows
from meld.selector.objective import LowRank, Quadratic, Term

_BLOCK = 512


class GraphCut:
    """F_div(S) = lambda1 * sum_{i in X} sum_{j in S} w_ij - lambda2 * sum_{i,j in S} w_ij  (Eq. 3).

    With a non-negative kernel and lambda1 >= 2 lambda2 it is monotone and submodular (Theorem 5).

    Args:
        lambda1: Weight of representativeness.
        lambda2: Weight of redundancy.
        kernel: ``shifted_cosine`` (default), ``cosine_clamped``, ``rbf``, or ``cosine`` (as printed).
        gamma: Width of ``rbf``.

    Raises:
        ConfigError: If lambda2 < 0, lambda1 < 2 lambda2, or the kernel is unknown.
    """

    def __init__(
        self, lambda1: float = 2.0, lambda2: float = 1.0, kernel: str = "shifted_cosine", gamma: float = 1.0
    ) -> None:
        if lambda2 < 0.0 or lambda1 < 2.0 * lambda2:
            raise ConfigError(
                f"Eq. 3 needs lambda1 >= 2 lambda2 >= 0; lambda1 is {lambda1} and lambda2 is {lambda2}.",
                where="lambda1, lambda2",
                fix="lambda1=2 lambda2=1",
            )
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.kernel = kernel
        self.gamma = gamma
        self._kernel = make_kernel(kernel, gamma)

    def start(self, embeddings: NDArray[np.float32]) -> Term:
        """The term over a pool.

        Args:
            embeddings: Shape (n, d).

        Raises:
            DataError: If the pool is empty or an embedding is not finite.
        """
        rows = unit_rows(embeddings)
        if self._kernel.affine is not None:
            return _LinearGraphCut(rows, self.lambda1, self.lambda2, self._kernel, self._kernel.affine)
        return _GraphCut(rows, self.lambda1, self.lambda2, self._kernel)


class _LinearGraphCut:
    """Graph cut where w_ij = offset + slope <u_i, u_j>: sums of vectors replace the n x n matrix.

    Gains of m candidates cost O(m d), an addition O(d), memory is O(n d).

    Args:
        rows: Shape (n, d), unit vectors u.
        lambda1: Weight of representativeness.
        lambda2: Weight of redundancy.
        kernel: The similarity.
        affine: Its (offset, slope).
    """

    def __init__(
        self, rows: FloatArray, lambda1: float, lambda2: float, kernel: Kernel, affine: tuple[float, float]
    ) -> None:
        self.n = len(rows)
        self.diminishing = kernel.non_negative
        self._rows = rows
        self._lambda1, self._lambda2 = lambda1, lambda2
        self._kernel = kernel
        self._offset, self._slope = affine
        self._to_pool: FloatArray = self._offset * self.n + self._slope * (rows @ rows.sum(axis=0))  # (n,): sum_i w_ij
        diagonal = self._offset + self._slope * np.einsum("nd,nd->n", rows, rows)
        self._singleton = lambda1 * self._to_pool - lambda2 * diagonal
        self._sum = np.zeros(rows.shape[1])
        self._size = 0
        self._represented = 0.0

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """lambda1 sum_X w - 2 lambda2 sum_S w - lambda2 w_aa, shape (m,)."""
        rows = self._rows if candidates is None else self._rows[candidates]
        start = self._singleton if candidates is None else self._singleton[candidates]
        to_set = self._offset * self._size + self._slope * (rows @ self._sum)
        return np.asarray(start - 2.0 * self._lambda2 * to_set)

    def add(self, item: int) -> None:
        """Add an item."""
        self._sum += self._rows[item]
        self._size += 1
        self._represented += float(self._to_pool[item])

    def value(self) -> float:
        """F_div of the items added so far."""
        redundancy = self._offset * self._size**2 + self._slope * float(self._sum @ self._sum)
        return self._lambda1 * self._represented - self._lambda2 * redundancy

    def quadratic(self) -> Quadratic:
        """Explicit form; builds the n x n matrix."""
        pairwise = self._lambda2 * self._kernel.of_cosine(self._rows @ self._rows.T)
        return Quadratic(self._lambda1 * self._to_pool, pairwise)

    def low_rank(self) -> LowRank:
        """Sums of vectors: no matrix."""
        linear = self._lambda1 * self._to_pool
        return LowRank(linear, self._rows, self._lambda2 * self._slope, self._lambda2 * self._offset)


class _GraphCut:
    """Graph cut of any kernel, by blocks: O(n d) an addition, O(1) a gain, O(n d) memory.

    Args:
        rows: Shape (n, d), unit vectors.
        lambda1: Weight of representativeness.
        lambda2: Weight of redundancy.
        kernel: The similarity.
    """

    def __init__(self, rows: FloatArray, lambda1: float, lambda2: float, kernel: Kernel) -> None:
        self.n = len(rows)
        self.diminishing = kernel.non_negative
        self._rows = rows
        self._lambda1, self._lambda2 = lambda1, lambda2
        self._kernel = kernel
        blocks = [kernel.of_cosine(rows[at : at + _BLOCK] @ rows.T).sum(axis=1) for at in range(0, self.n, _BLOCK)]
        self._to_pool: FloatArray = np.concatenate(blocks)
        self._diagonal = kernel.of_cosine(np.einsum("nd,nd->n", rows, rows))
        self._to_set = np.zeros(self.n)
        self._value = 0.0

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """lambda1 sum_X w - 2 lambda2 sum_S w - lambda2 w_aa, shape (m,)."""
        gains = self._lambda1 * self._to_pool - self._lambda2 * (2.0 * self._to_set + self._diagonal)
        return gains if candidates is None else gains[candidates]

    def add(self, item: int) -> None:
        """Add an item."""
        self._value += float(self.gains(np.array([item]))[0])
        self._to_set += self._kernel.of_cosine(self._rows @ self._rows[item])

    def value(self) -> float:
        """F_div of the items added so far."""
        return self._value

    def quadratic(self) -> Quadratic:
        """Explicit form; builds the n x n matrix."""
        pairwise = self._lambda2 * self._kernel.of_cosine(self._rows @ self._rows.T)
        return Quadratic(self._lambda1 * self._to_pool, pairwise)

    def low_rank(self) -> None:
        """The kernel is not linear in vectors."""
        return
