"""``retriever=hybrid``: cosine and BM25 together, by reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations
from meld.retriever.bm25 import Bm25, query_words
from meld.retriever.extras import need
from meld.retriever.ranking import Corpus, ranked
from meld.types import Query, Sample


class HybridRetriever:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a sample scores the sum of 1 / (constant + rank).

    Ranks are compared, not scores, so that a cosine and a BM25 score need no common scale. A sample without a shared
    word has a dense rank only.

    Args:
        n_demos: Demonstrations per query.
        constant: Damps the first ranks; 60 in the paper.
        k1: BM25's saturation of repeated words.
        b: BM25's discount of long texts, 0 to 1.
        same_target: Only samples that ask about the same attribute demonstrate (imputation, cleaning).
        max_similarity: Samples more similar than this count as near-duplicates of the query and are passed over.

    Raises:
        UserError: If bm25s is not installed.
    """

    def __init__(
        self,
        n_demos: int,
        constant: float = 60.0,
        k1: float = 1.5,
        b: float = 0.75,
        same_target: bool = True,
        max_similarity: float = 0.999,
    ) -> None:
        need("bm25s", "bm25", "retriever=dense")
        self.n_demos = n_demos
        self.constant = constant
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
        """The ``n_demos`` best samples of each query by both rankings, without the query itself or a near-duplicate."""
        if not corpus or not self.n_demos:
            return [Demonstrations() for _ in queries]
        base = Corpus(corpus, corpus_vectors, self.same_target, self.max_similarity)
        index = Bm25([query_words(sample.query) for sample in corpus], self.k1, self.b)
        found = []
        for query, vector in zip(queries, query_vectors, strict=True):
            similarity = base.similarity(vector)
            allowed = base.allowed(query, similarity)
            lexical = index.scores(query_words(query))
            rankings = [ranked(similarity, allowed), ranked(lexical, allowed & (lexical > 0))]
            fused = fuse(rankings, len(corpus), self.constant)
            found.append(base.first(query, ranked(fused, allowed), similarity, self.n_demos))
        return found


def fuse(rankings: Sequence[NDArray[np.intp]], n: int, constant: float) -> NDArray[np.float64]:
    """Reciprocal rank fusion of rankings over n items, shape (n,); an item that a ranking lacks gets nothing from it.

    Args:
        rankings: Indices, best first.
        n: Number of items.
        constant: Added to every rank; ranks start at 1.
    """
    fused = np.zeros(n)
    for ranking in rankings:
        fused[ranking] += 1.0 / (constant + np.arange(1, len(ranking) + 1))
    return fused
