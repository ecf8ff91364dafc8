"""Candidate answers to open questions, for ``decode=rank`` (method section 2, Inference).

Only labelled samples of the training side and the query's own table contribute: never the values of other queries'
masked cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from meld.retriever.cells import CellEvidence
from meld.task.di import value_text
from meld.text import normalise
from meld.types import Query, Sample


class ValueCandidates:
    """Candidates for an empty cell: labels of labelled samples that ask for the same attribute.

    Order: labels of the nearest samples first, then the others by similarity of value and query.

    Args:
        samples: Labelled samples.
        vectors: Shape (n, d), their query vectors.
        value_vectors: Normalised value text (``attribute: value``) to vector.
        limit: Candidates per query.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        vectors: NDArray[np.float32],
        value_vectors: Mapping[str, NDArray[np.float32]],
        limit: int,
    ) -> None:
        self.limit = limit
        self._by_target: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            self._by_target.setdefault(sample.query.target or "", []).append(index)
        self._samples = samples
        self._vectors = vectors
        self._value_vectors = value_vectors

    def of(self, query: Query, vector: NDArray[np.float32]) -> tuple[str, ...]:
        """Distinct candidates, best first; a sample never proposes its own label for its own query."""
        indices = [i for i in self._by_target.get(query.target or "", ()) if self._samples[i].id != query.id]
        if not indices:
            return ()
        similarity = self._vectors[indices] @ vector
        best: dict[str, float] = {}
        surface: dict[str, Counter[str]] = {}
        for index, score in zip(indices, similarity, strict=True):
            label = self._samples[index].label
            key = normalise(label)
            surface.setdefault(key, Counter())[label] += 1
            best[key] = max(best.get(key, -1.0), float(score))
        for key in best:
            value = self._value_vectors.get(value_text(query.target or "", key))
            if value is not None:
                best[key] += float(value @ vector)
        order = sorted(best, key=lambda key: (-best[key], key))
        return tuple(surface[key].most_common(1)[0][0] for key in order[: self.limit])


def repair_candidates(query: Query, cells: CellEvidence, limit: int) -> tuple[str, ...]:
    """Candidates for a suspicious cell: the value as it is, then what the table suggests.

    Args:
        query: About one cell.
        cells: The table's statistics.
        limit: Candidates at most, the value itself included.
    """
    value = query.entities[0][query.target or ""]
    suggestions = [suggestion for suggestion, _ in cells.of(query).suggestions]
    return tuple(dict.fromkeys([value, *suggestions][:limit]))
