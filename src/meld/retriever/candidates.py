"""Candidate answers to open questions, for ``decode=rank`` (method section 2, Inference).

Only labelled samples of the training side and the query's own table contribute: never the values of other queries'
masked cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld.retriever.cells import CellEvidence
from meld.retriever.prior import ConditionalLogit
from meld.task.di import value_text
from meld.text import normalise, words
from meld.types import Query, Sample

_SMOOTHING = 1.0
"""Pseudo-counts with which a token is spread over all values."""


@dataclass(frozen=True)
class Candidates:
    """Candidate answers with what retrieval makes of them.

    Attributes:
        values: Distinct candidates, best first.
        log_prior: Their log-probabilities by the evidence alone.
    """

    values: tuple[str, ...] = ()
    log_prior: tuple[float, ...] = ()


class ValueCandidates:
    """Candidates for an empty cell: labels of labelled samples that ask for the same attribute.

    A value is judged by the tokens it goes with (naive Bayes, and the best weighted overlap with one of its samples),
    by the most similar sample that has it, and by the similarity of value and query. How these count is fitted on the
    labelled samples themselves, each judged without its own label.

    Args:
        samples: Labelled samples.
        vectors: Shape (n, d), their query vectors.
        value_vectors: Normalised value text (``attribute: value``) to vector.
        limit: Candidates per query.
        domain: Answers that are candidates whether a sample has them or not (the dataset's column types or relations).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        vectors: NDArray[np.float32],
        value_vectors: Mapping[str, NDArray[np.float32]],
        limit: int,
        domain: Sequence[str] = (),
    ) -> None:
        self.limit = limit
        self._targets = {
            target: _Target(target, [samples[i] for i in rows], vectors[rows], value_vectors, domain)
            for target, rows in _rows_by_target(samples).items()
        }
        if domain:
            self._targets.setdefault("", _Target("", [], vectors[:0], value_vectors, domain))
        groups, chosen = [], []
        for index, sample in enumerate(samples):
            target = self._targets[sample.query.target or ""]
            values, features = target.judge(sample.query, vectors[index])
            label = normalise(sample.label)
            # A value that no other sample has cannot be learnt to be found.
            if label in values and len(values) > 1:
                groups.append(features)
                chosen.append(values.index(label))
        self._logit = ConditionalLogit().fit(groups, chosen, [1.0] * len(groups))

    def of(self, query: Query, vector: NDArray[np.float32]) -> Candidates:
        """Distinct candidates, best first; a sample never proposes its own label for its own query."""
        target = self._targets.get(query.target or "")
        if target is None:
            return Candidates()
        values, features = target.judge(query, vector)
        if not values:
            return Candidates()
        prior = self._logit.log_prior(features)
        similarity = features[:, _COSINE] + features[:, _VALUE_COSINE]
        order = sorted(range(len(values)), key=lambda i: (-prior[i], -similarity[i], values[i]))[: self.limit]
        return Candidates(
            tuple(target.surface(values[i], query.id) for i in order), tuple(float(prior[i]) for i in order)
        )


def _rows_by_target(samples: Sequence[Sample]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        rows.setdefault(sample.query.target or "", []).append(index)
    return rows


_COSINE, _VALUE_COSINE = 2, 3


class _Target:
    """Labelled samples that ask for one attribute."""

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        vectors: NDArray[np.float32],
        value_vectors: Mapping[str, NDArray[np.float32]],
        domain: Sequence[str],
    ) -> None:
        self.name = name
        self._domain = {normalise(option): option for option in domain}
        self._samples = list(samples)
        self._vectors = vectors
        self._value_vectors = value_vectors
        self._labels = [normalise(s.label) for s in samples]
        self._row = {s.id: i for i, s in enumerate(samples)}
        self._tokens = [tokens_of(s.query) for s in samples]
        self._with_token: dict[str, list[int]] = {}
        for row, tokens in enumerate(self._tokens):
            for token in sorted(tokens):
                self._with_token.setdefault(token, []).append(row)

    def surface(self, value: str, without: str) -> str:
        """The domain's way to write a normalised value, else the commonest one, the sample of one query aside."""
        if value in self._domain:
            return self._domain[value]
        counts: Counter[str] = Counter()
        for sample, label in zip(self._samples, self._labels, strict=True):
            if label == value and sample.id != without:
                counts[sample.label] += 1
        return counts.most_common(1)[0][0]

    def judge(self, query: Query, vector: NDArray[np.float32]) -> tuple[list[str], NDArray[np.float64]]:
        """Normalised values of the other samples and the domain, and the evidence for each, shape (n_values, 4)."""
        own = self._row.get(query.id)
        kept = [i for i in range(len(self._samples)) if i != own]
        count = Counter(self._labels[i] for i in kept)
        values = sorted(count.keys() | self._domain.keys())
        at = {value: j for j, value in enumerate(values)}
        n = len(kept)
        bayes = np.zeros(len(values))
        per_sample = np.zeros(len(self._samples))
        sizes = np.array([count[value] for value in values], dtype=np.float64)
        for token in sorted(tokens_of(query)):
            rows = [i for i in self._with_token.get(token, ()) if i != own]
            if not rows:
                continue
            share = len(rows) / n
            together = np.zeros(len(values))
            for row in rows:
                together[at[self._labels[row]]] += 1
            bayes += np.log((together + _SMOOTHING * share) / (sizes + _SMOOTHING) / share)
            per_sample[rows] += np.log((n + 1) / (len(rows) + 0.5))
        overlap = np.zeros(len(values))
        cosine = np.zeros(len(values))
        similarity = self._vectors @ vector
        for row in kept:
            j = at[self._labels[row]]
            overlap[j] = max(overlap[j], per_sample[row])
            cosine[j] = max(cosine[j], float(similarity[row]))
        value_cosine = np.zeros(len(values))
        for j, value in enumerate(values):
            known = self._value_vectors.get(value_text(self.name, value))
            if known is not None:
                value_cosine[j] = float(known @ vector)
        # No count of the value: left out of its own count, every sample would teach that rare values are right.
        return values, np.stack([bayes, overlap, cosine, value_cosine], axis=1)


def tokens_of(query: Query) -> frozenset[str]:
    """Word tokens of a query's tuples, and the first digits of its numbers (area and zip codes carry place)."""
    found = set()
    for entity in query.entities:
        for attribute, value in entity.items():
            if attribute == query.target:
                continue
            for token in words(value):
                found.add(token)
                if token.isdigit() and len(token) > 3:
                    found |= {token[:2] + "~", token[:3] + "~"}
    return frozenset(found)


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
