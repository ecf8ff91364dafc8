"""Candidates inside a text: which span of a title is the value of an attribute, or is it not there?

For attribute value extraction with ``decode=rank`` (method section 2, Inference). Only labelled samples of the training
side say what an attribute's values look like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from meld.retriever.candidates import Candidates
from meld.retriever.prior import ConditionalLogit
from meld.task.ave import ABSENT
from meld.text import normalise, pattern
from meld.types import Query, Sample

_MAX_WORDS = 5
_EDGE = ",;:()[]|/!?\"'"


class SpanCandidates:
    """Spans of a query's text, known values of the attribute that occur in it, and ``n/a``.

    A candidate is judged by how often labelled samples have it for this attribute, how alike it is to their values in
    spelling, shape and length, and by how often the attribute is absent. How these count is fitted on the labelled
    samples themselves, each judged without its own label.

    Args:
        samples: Labelled samples.
        limit: Candidates per query.
    """

    def __init__(self, samples: Sequence[Sample], limit: int) -> None:
        self.limit = limit
        self._labels: dict[str, dict[str, str]] = {}
        for sample in samples:
            self._labels.setdefault(sample.query.target or "", {})[sample.id] = normalise(sample.label)
        groups, chosen = [], []
        for sample in samples:
            values, features = self._judge(sample.query)
            label = normalise(sample.label)
            place = next((i for i, value in enumerate(values) if normalise(value) == label), None)
            if place is not None:
                groups.append(features)
                chosen.append(place)
        self._logit = ConditionalLogit().fit(groups, chosen, [1.0] * len(groups))

    def of(self, query: Query) -> Candidates:
        """Distinct candidates, best first; a sample never proposes its own label for its own query."""
        values, features = self._judge(query)
        prior = self._logit.log_prior(features)
        order = sorted(range(len(values)), key=lambda i: (-prior[i], i))[: self.limit]
        return Candidates(tuple(values[i] for i in order), tuple(float(prior[i]) for i in order))

    def _judge(self, query: Query) -> tuple[list[str], NDArray[np.float64]]:
        """Candidates as they are written, and the evidence for each, shape (n, 7)."""
        own = query.id
        known = Counter(label for id_, label in self._labels.get(query.target or "", {}).items() if id_ != own)
        total = max(1, known.total())
        absent = known.pop(ABSENT, 0)
        distinct = sorted(known)
        shapes = Counter(pattern(value) for value in known.elements())
        sizes = Counter(len(value.split()) for value in known.elements())
        text = " ".join(value for name, value in query.entities[0].items() if name != query.target)
        values = spans(text)
        rows = [[1.0, absent / total, 0.0, 0.0, 0.0, 0.0, 0.0]]
        for value in values:
            low = normalise(value)
            alike = process.extractOne(low, distinct, scorer=fuzz.ratio)
            rows.append(
                [
                    0.0,
                    0.0,
                    float(np.log1p(known[low])),
                    alike[1] / 100 if alike else 0.0,
                    shapes[pattern(low)] / total,
                    sizes[len(low.split())] / total,
                    1.0,
                ]
            )
        return [ABSENT, *values], np.array(rows, dtype=np.float64)


def spans(text: str) -> list[str]:
    """Runs of one to five words, punctuation at the ends removed; each spelling once, in the order of the text."""
    tokens = text.split()
    found: dict[str, None] = {}
    for start in range(len(tokens)):
        for stop in range(start + 1, min(start + _MAX_WORDS, len(tokens)) + 1):
            span = " ".join(tokens[start:stop]).strip(_EDGE).strip()
            if span and normalise(span) != ABSENT:
                found.setdefault(span)
    return list(found)


def choice_features(
    mention: str, context: str, options: Sequence[str], cosines: Sequence[float]
) -> NDArray[np.float64]:
    """Evidence for each candidate entity of a cell, shape (n_options, 5).

    Args:
        mention: The cell.
        context: The rest of its row.
        options: Candidate entities, perhaps with a description after `` - ``.
        cosines: Cosine of the query's vector and each candidate's.
    """
    low, around = mention.lower(), set(context.lower().split())
    rows = []
    for option, cosine in zip(options, cosines, strict=True):
        name, _, description = option.lower().partition(" - ")
        words = set(description.split())
        shared = len(words & around) / max(1, len(words))
        rows.append(
            [cosine, fuzz.ratio(low, name) / 100, fuzz.token_set_ratio(low, name) / 100, float(low == name), shared]
        )
    return np.array(rows, dtype=np.float64).reshape(len(options), 5)
