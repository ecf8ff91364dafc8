"""``retriever=dense``: the nearest labelled samples by M_RAG's cosine, found exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations, twins
from meld.types import Query, Sample


class DenseRetriever:
    """Exact nearest neighbours.

    Args:
        n_demos: Demonstrations per query.
        same_target: Only samples that ask about the same attribute demonstrate (imputation, cleaning).
        max_similarity: Samples more similar than this count as near-duplicates of the query and are passed over.
    """

    def __init__(self, n_demos: int, same_target: bool = True, max_similarity: float = 0.999) -> None:
        self.n_demos = n_demos
        self.same_target = same_target
        self.max_similarity = max_similarity

    def retrieve(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
        seed: int,
    ) -> list[Demonstrations]:
        """The ``n_demos`` nearest samples of each query that are not the query itself or a near-duplicate of it."""
        if not corpus or not self.n_demos:
            return [Demonstrations() for _ in queries]
        targets = np.array([sample.query.target or "" for sample in corpus])
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            similarity = corpus_vectors @ vector
            if self.same_target:
                similarity = np.where(targets == (query.target or ""), similarity, -np.inf)
            ids: list[str] = []
            scores: list[float] = []
            for index in np.argsort(-similarity, kind="stable"):
                if len(ids) == self.n_demos or similarity[index] == -np.inf:
                    break
                if similarity[index] > self.max_similarity or twins(query, corpus[index]):
                    continue
                ids.append(corpus[index].id)
                scores.append(round(float(similarity[index]), 4))
            found.append(Demonstrations(tuple(ids), tuple(scores)))
        return found
