"""``retriever=none``: no demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations
from meld.types import Query, Sample


class NoRetriever:
    """Finds nothing."""

    def retrieve(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
        seed: int,
    ) -> list[Demonstrations]:
        """No demonstration for any query."""
        return [Demonstrations() for _ in queries]
