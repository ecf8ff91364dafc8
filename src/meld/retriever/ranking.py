"""What every retriever may show: rankings filtered so that no demonstration is the query in disguise.

Demonstrations come from the training side. A sample is passed over if it asks about another attribute (where that
matters), if it is more similar to the query than a limit, or if it is about the same records or values (:func:`twins`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.base import Demonstrations, twins
from meld.types import Query, Sample


class Corpus:
    """Labelled samples with their vectors, ready to be filtered for one query after another.

    Args:
        samples: Samples whose labels may be shown.
        vectors: Shape (m, d), their unit vectors.
        same_target: Only samples that ask about the query's attribute demonstrate (imputation, cleaning).
        max_similarity: Samples of a higher cosine count as near-duplicates of the query.
    """

    def __init__(
        self, samples: Sequence[Sample], vectors: NDArray[np.float32], same_target: bool, max_similarity: float
    ) -> None:
        self.samples = samples
        self.vectors = vectors
        self.same_target = same_target
        self.max_similarity = max_similarity
        self._targets = np.array([sample.query.target or "" for sample in samples], dtype=object)

    def similarity(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of every sample to a query, shape (m,)."""
        found: NDArray[np.float32] = self.vectors @ vector
        return found

    def allowed(self, query: Query, similarity: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which samples may demonstrate as far as attribute and similarity tell, shape (m,).

        Args:
            query: What is asked.
            similarity: Shape (m,), as :meth:`similarity` gives it.
        """
        allowed: NDArray[np.bool_] = similarity <= self.max_similarity
        if self.same_target:
            allowed &= self._targets == (query.target or "")
        return allowed

    def first(self, query: Query, order: Iterable[int], similarity: NDArray[np.float32], n: int) -> Demonstrations:
        """The first ``n`` samples of a ranking that are no twins of the query.

        Args:
            query: What is asked.
            order: Indices of allowed samples, best first.
            similarity: Shape (m,), reported with the demonstrations.
            n: How many.
        """
        picked: list[int] = []
        for index in order:
            if len(picked) >= n:
                break
            if not twins(query, self.samples[index]):
                picked.append(int(index))
        return Demonstrations(
            tuple(self.samples[i].id for i in picked), tuple(round(float(similarity[i]), 4) for i in picked)
        )


def ranked(scores: NDArray[np.floating], allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices of allowed items, best score first; the earlier item wins ties.

    Args:
        scores: Shape (m,).
        allowed: Shape (m,).
    """
    places = np.flatnonzero(allowed)
    order: NDArray[np.intp] = places[np.argsort(-scores[places], kind="stable")]
    return order
