"""``retriever=bm25``: the labelled samples that share the most telling words with the query."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations
from meld.retriever.extras import need
from meld.retriever.ranking import Corpus, ranked
from meld.text import words
from meld.types import Query, Sample


class Bm25Retriever:
    """BM25 over the words of the tuples (Robertson and Zaragoza, 2009), in Lucene's variant.

    Samples that share no word with the query are not retrieved, so there may be fewer than ``n_demos``.

    Args:
        n_demos: Demonstrations per query.
        k1: How fast a repeated word stops counting.
        b: How much a long text is discounted, 0 to 1.
        same_target: Only samples that ask about the same attribute demonstrate (imputation, cleaning).
        max_similarity: Samples whose vectors are more similar than this count as near-duplicates and are passed over.

    Raises:
        UserError: If bm25s is not installed.
    """

    def __init__(
        self, n_demos: int, k1: float = 1.5, b: float = 0.75, same_target: bool = True, max_similarity: float = 0.999
    ) -> None:
        need("bm25s", "bm25", "retriever=dense")
        self.n_demos = n_demos
        self.k1 = k1
        self.b = b
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
        """The ``n_demos`` best samples of each query by BM25 that are not the query itself or a near-duplicate."""
        if not corpus or not self.n_demos:
            return [Demonstrations() for _ in queries]
        base = Corpus(corpus, corpus_vectors, self.same_target, self.max_similarity)
        index = Bm25([query_words(sample.query) for sample in corpus], self.k1, self.b)
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            similarity = base.similarity(vector)
            scores = index.scores(query_words(query))
            order = ranked(scores, base.allowed(query, similarity) & (scores > 0))
            found.append(base.first(query, order, similarity, self.n_demos))
        return found


class Bm25:
    """Scores of documents for a query, by the library bm25s.

    Args:
        documents: Words of each document.
        k1: Saturation of repeated words.
        b: Discount of long documents.
    """

    def __init__(self, documents: Sequence[Sequence[str]], k1: float, b: float) -> None:
        import bm25s

        # The library sets its own logger to debug level when it is imported.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._n = len(documents)
        self._known = {word for document in documents for word in document}
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        if self._known:
            self._index.index([list(document) for document in documents], show_progress=False)

    def scores(self, query: Sequence[str]) -> NDArray[np.float64]:
        """Score of each document, shape (n,); zero where no word is shared.

        Args:
            query: Words; those that occur twice count twice.
        """
        asked = [word for word in query if word in self._known]
        if not asked:
            return np.zeros(self._n)
        scores: NDArray[np.float64] = np.asarray(self._index.get_scores(asked), dtype=np.float64)
        return scores


def query_words(query: Query) -> list[str]:
    """Words of a query's tuples, in order; a word that both tuples of a pair have comes twice."""
    return [word for entity in query.entities for value in entity.values() for word in words(value)]
