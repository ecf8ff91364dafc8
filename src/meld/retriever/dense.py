"""``retriever=dense``: the nearest labelled samples by M_RAG's cosine, found exactly or with faiss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError
from meld.retriever.base import Demonstrations
from meld.retriever.extras import need
from meld.retriever.nearest import ApproximateIndex
from meld.retriever.ranking import Corpus, ranked
from meld.types import Query, Sample


class DenseRetriever:
    """Nearest neighbours by cosine.

    Args:
        n_demos: Demonstrations per query.
        same_target: Only samples that ask about the same attribute demonstrate (imputation, cleaning).
        max_similarity: Samples more similar than this count as near-duplicates of the query and are passed over.
        index: ``exact`` compares every query with every sample. ``faiss`` searches a graph of the samples (HNSW), which
            pays from some hundred thousand samples on and may miss a neighbour; it needs the extra ``faiss``.

    Raises:
        ConfigError: For another index.
        UserError: If faiss is wanted and not installed.
    """

    def __init__(
        self,
        n_demos: int,
        same_target: bool = True,
        max_similarity: float = 0.999,
        index: Literal["exact", "faiss"] = "exact",
    ) -> None:
        if index not in ("exact", "faiss"):
            raise ConfigError(
                f"Unknown index {index!r}.",
                where="retriever.index",
                fix="retriever.index=exact or retriever.index=faiss",
            )
        if index == "faiss":
            need("faiss", "faiss", "retriever.index=exact")
        self.n_demos = n_demos
        self.same_target = same_target
        self.max_similarity = max_similarity
        self.index = index

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
        if self.index == "faiss":
            return self._search(queries, query_vectors, corpus, corpus_vectors)
        base = Corpus(corpus, corpus_vectors, self.same_target, self.max_similarity)
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            similarity = base.similarity(vector)
            order = ranked(similarity, base.allowed(query, similarity))
            found.append(base.first(query, order, similarity, self.n_demos))
        return found

    def _search(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
    ) -> list[Demonstrations]:
        """The same by an index for each attribute asked about, so that filtering by attribute costs no neighbours."""
        rows_of: dict[str, list[int]] = {}
        for row, sample in enumerate(corpus):
            rows_of.setdefault(sample.query.target or "" if self.same_target else "", []).append(row)
        indexes = {}
        for target, rows in rows_of.items():
            part = Corpus([corpus[r] for r in rows], corpus_vectors[rows], False, self.max_similarity)
            indexes[target] = (part, ApproximateIndex(part.vectors))
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            known = indexes.get((query.target or "") if self.same_target else "")
            found.append(Demonstrations() if known is None else self._widen(query, vector, *known))
        return found

    def _widen(
        self, query: Query, vector: NDArray[np.float32], part: Corpus, index: ApproximateIndex
    ) -> Demonstrations:
        """Search deeper until enough neighbours pass the filters, or all have been seen."""
        depth = 2 * self.n_demos + 8
        while True:
            rows = index.nearest(vector, depth)
            similarity = np.full(len(part.samples), -np.inf, dtype=np.float32)
            similarity[rows] = part.vectors[rows] @ vector
            order = [int(r) for r in rows[np.argsort(-similarity[rows], kind="stable")]]
            demos = part.first(
                query, [r for r in order if similarity[r] <= self.max_similarity], similarity, self.n_demos
            )
            if len(demos.ids) == self.n_demos or depth >= len(part.samples):
                return demos
            depth = min(4 * depth, len(part.samples))
