"""``retriever=random``: labelled samples drawn at random, the same for a query in every run of a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations, twins
from meld.seeds import generator
from meld.types import Query, Sample


class RandomRetriever:
    """Random demonstrations: the control that shows what similarity is worth.

    Args:
        n_demos: Demonstrations per query.
    """

    def __init__(self, n_demos: int) -> None:
        self.n_demos = n_demos

    def retrieve(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
        seed: int,
    ) -> list[Demonstrations]:
        """``n_demos`` samples of each query, drawn without replacement; never the query itself."""
        found = []
        for query in queries:
            order = generator(seed, query.id).permutation(len(corpus))
            kept = [corpus[i].id for i in order if not twins(query, corpus[i])][: self.n_demos]
            found.append(Demonstrations(tuple(kept), tuple(0.0 for _ in kept)))
        return found
