"""Pseudo-labels for imputation and cleaning: what the nearest labelled tuples and the table itself say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meld.annotator.base import Surroundings, take
from meld.annotator.threshold import confidence, describe, fit_threshold
from meld.retriever.candidates import Candidates, ValueCandidates
from meld.retriever.cells import CellEvidence
from meld.retriever.spans import SpanCandidates
from meld.text import normalise
from meld.types import Query, Sample, UnitData


def label_values(
    data: UnitData, around: Surroundings, precision: float, max_pseudo: int, rng: np.random.Generator
) -> tuple[list[Sample], dict[str, Any]]:
    """Pseudo-label open questions of the pool with the answer for which the few-shot samples speak most clearly.

    Args:
        data: A unit of imputation, column types, relations or attribute values.
        around: Vectors of few-shot and pool queries.
        precision: Wanted precision on the few-shot labels, training samples left out one by one.
        max_pseudo: Pseudo-labels at most.
        rng: Source of randomness.

    Returns:
        Samples, and a report of counts and the threshold.
    """
    if not data.train:
        return [], {"reason": "there are no few-shot labels"}
    judge = _judge(data, around)
    margins: list[float] = []
    right: list[bool] = []
    # A training sample is judged without itself, and a dev sample by the training samples: both are out of fold.
    for sample in (*data.train, *data.dev):
        label, margin = _clearest(judge(sample.query))
        if label is not None:
            margins.append(margin)
            right.append(normalise(label) == normalise(sample.label))
    threshold = fit_threshold(margins, right, precision)
    report = describe(margins, right, threshold)
    if threshold is None:
        return [], report
    made = []
    for query in data.pool:
        label, margin = _clearest(judge(query))
        if label is not None and margin >= threshold:
            made.append(Sample(query, label, "pseudo", confidence(margin, margins, right)))
    made = take(made, max_pseudo, rng)
    return made, {**report, "kept": len(made), "pool": len(data.pool)}


def _judge(data: UnitData, around: Surroundings) -> Callable[[Query], Candidates]:
    """Candidates of a query with their probabilities, from the few-shot training samples."""
    if data.task == "ave":
        return SpanCandidates(data.train, limit=2).of
    vectors = np.stack([around.vectors[sample.id] for sample in data.train])
    values = ValueCandidates(data.train, vectors, {}, 2, data.options)
    return lambda query: values.of(query, around.vectors[query.id])


def _clearest(found: Candidates) -> tuple[str | None, float]:
    """The most probable value and its lead over the runner-up."""
    if not found.values:
        return None, 0.0
    p = np.exp(found.log_prior)
    return found.values[0], float(p[0] - (p[1] if len(p) > 1 else 0.0))


def label_repairs(
    data: UnitData, cells: CellEvidence, precision: float, max_pseudo: int, rng: np.random.Generator
) -> tuple[list[Sample], dict[str, Any]]:
    """Pseudo-label cells of the pool: what the table contradicts with its suggestion, the undisputed with themselves.

    Args:
        data: A data-cleaning unit.
        cells: Statistics of its table.
        precision: Wanted precision of the repairs on the few-shot labels.
        max_pseudo: Pseudo-labels at most; a quarter of them are undisputed cells.
        rng: Source of randomness.

    Returns:
        Samples, and a report of counts and the threshold.
    """
    margins, right = [], []
    for sample in (*data.train, *data.dev):
        suggestion, weight = _suggestion(sample.query, cells)
        if suggestion is not None:
            margins.append(weight)
            right.append(suggestion == sample.label)
    threshold = fit_threshold(margins, right, precision)
    report = describe(margins, right, threshold)
    if threshold is None:
        return [], report
    repairs, kept = [], []
    for query in take(data.pool, 20 * max_pseudo, rng):
        suggestion, weight = _suggestion(query, cells)
        value = query.entities[0][query.target or ""]
        if suggestion is not None and weight >= threshold:
            repairs.append(Sample(query, suggestion, "pseudo", confidence(weight, margins, right)))
        elif suggestion is None and value:
            kept.append(Sample(query, value, "pseudo", 0.95))
    repairs = take(repairs, max_pseudo - max_pseudo // 4, rng)
    kept = take(kept, min(max_pseudo // 4, len(repairs)), rng)
    return [*repairs, *kept], {**report, "repairs": len(repairs), "kept_as_they_are": len(kept)}


def _suggestion(query: Query, cells: CellEvidence) -> tuple[str | None, float]:
    evidence = cells.of(query)
    if not evidence.suggestions:
        return None, 0.0
    own = evidence.features[2] + evidence.features[4]
    value, weight = evidence.suggestions[0]
    return value, float(weight - own)
