"""What every retriever offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meld.types import Query, Sample


@dataclass(frozen=True)
class Demonstrations:
    """What was retrieved for one query, most similar first.

    Attributes:
        ids: Sample ids.
        similarities: Cosine to the query.
    """

    ids: tuple[str, ...] = ()
    similarities: tuple[float, ...] = ()


class Retriever(Protocol):
    """Finds demonstrations among labelled samples."""

    def retrieve(
        self,
        queries: Sequence[Query],
        query_vectors: NDArray[np.float32],
        corpus: Sequence[Sample],
        corpus_vectors: NDArray[np.float32],
        seed: int,
    ) -> list[Demonstrations]:
        """Demonstrations for each query.

        Args:
            queries: What is asked.
            query_vectors: Shape (n, d), unit vectors.
            corpus: Samples of the training side whose labels may be shown.
            corpus_vectors: Shape (m, d), unit vectors.
            seed: For retrievers that draw.
        """
        ...


def twins(query: Query, sample: Sample) -> bool:
    """Whether a sample must not demonstrate a query: it is the same question, or about the same records or values."""
    if query.id == sample.query.id or sample.query.id.startswith(f"{query.id}>"):
        return True
    if query.id.partition(">")[0] == sample.query.id.partition(">")[0]:
        return True
    if query.target != sample.query.target:
        return False
    # A pair asked about the other way round is the same pair.
    if query.rows and sorted(query.rows) == sorted(sample.query.rows):
        return True
    theirs = list(map(dict, sample.query.entities))
    return list(map(dict, query.entities)) in (theirs, theirs[::-1])
