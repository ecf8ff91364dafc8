"""``retriever=random``: labelled samples drawn at random, the same for a query in every run of a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations
from meld.retriever.ranking import Corpus
from meld.seeds import generator
from meld.types import Query, Sample


class RandomRetriever:
    """Random demonstrations: the control that shows what similarity is worth.

    Args:
        n_demos: Demonstrations per query.
        max_similarity: Samples more similar than this count as near-duplicates of the query and are passed over.
    """

    def __init__(self, n_demos: int, max_similarity: float = 0.999) -> None:
        self.n_demos = n_demos
        self.max_similarity = max_similarity

    def retrieve(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
        seed: int,
    ) -> list[Demonstrations]:
        """``n_demos`` samples of each query, drawn without replacement; never the query itself or a near-duplicate."""
        base = Corpus(corpus, corpus_vectors, False, self.max_similarity)
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            similarity = base.similarity(vector)
            allowed = base.allowed(query, similarity)
            order = [int(i) for i in generator(seed, query.id).permutation(len(corpus)) if allowed[i]]
            found.append(base.first(query, order, similarity, self.n_demos))
        return found
