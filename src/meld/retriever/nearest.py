"""Approximate nearest neighbours with faiss, for corpora that are too large to compare with one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINKS = 32
"""Neighbours of each node in the graph."""

_EFFORT = 128
"""Candidates kept while building and searching; more find more of the true neighbours."""


class ApproximateIndex:
    """A navigable small-world graph over unit vectors, searched by inner product (Malkov and Yashunin, 2018).

    Args:
        vectors: Shape (m, d), unit vectors.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        # The order in which several threads insert would change the graph, and with it what is found.
        faiss.omp_set_num_threads(1)
        self._index: Any = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _EFFORT
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def nearest(self, vector: NDArray[np.float32], depth: int) -> NDArray[np.intp]:
        """Rows near a vector, at most ``depth``, nearest first.

        Args:
            vector: Shape (d,).
            depth: How many.
        """
        self._index.hnsw.efSearch = max(_EFFORT, 2 * depth)
        _, rows = self._index.search(np.ascontiguousarray(vector[None], dtype=np.float32), depth)
        found: NDArray[np.intp] = rows[0][rows[0] >= 0].astype(np.intp)
        return found
