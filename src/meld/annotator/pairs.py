"""Pseudo-labels for entity matching: mutual nearest neighbours are matches, near and random others are mismatches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meld.annotator.base import forbidden_ids, take
from meld.annotator.threshold import confidence, describe, fit_threshold
from meld.dataset.few_shot import pair_id
from meld.retriever.partners import Partners, pair_links
from meld.task.em import MATCH, MISMATCH
from meld.types import Query, Sample, UnitData


def label_pairs(
    data: UnitData,
    partners: Partners,
    precision: float,
    max_pseudo: int,
    mismatches_per_match: float,
    rng: np.random.Generator,
) -> tuple[list[Sample], dict[str, Any]]:
    """Pseudo-label pairs of records.

    A pair is a *match* if each is the other's nearest neighbour with a margin that is precise enough on the few-shot
    labels; pairs of the pool that are not mutual neighbours are *mismatches*, and so are near but not nearest
    neighbours. Test and dev pairs are never used.

    Args:
        data: The unit.
        partners: Nearest neighbours across its tables.
        precision: Wanted precision of matches on the few-shot labels.
        max_pseudo: Pseudo-labelled pairs at most.
        mismatches_per_match: Ratio of the two labels.
        rng: Source of randomness.

    Returns:
        Samples, and a report of counts and the threshold.
    """
    few_shot = [*data.train, *data.dev]
    links = pair_links([s.query for s in few_shot], partners)
    known = [(link, s) for link, s in zip(links, few_shot, strict=True) if link]
    mutual = [(link.margin, s.label == MATCH) for link, s in known if link.mutual]
    margins, right = [m for m, _ in mutual], [ok for _, ok in mutual]
    threshold = fit_threshold(margins, right, precision)
    report = describe(margins, right, threshold)
    if threshold is None:
        return [], report
    barred = forbidden_ids(data) | {s.query.rows for s in data.train}
    matches: list[Sample] = []
    near: list[tuple[str, str]] = []
    for a, b, link in partners.neighbours():
        if (a, b) in barred:
            continue
        if link.mutual:
            if link.margin >= threshold:
                matches.append(_sample(data, a, b, MATCH, confidence(link.margin, margins, right)))
        elif link.margin < 0:
            near.append((a, b))
    pool = [q.rows for q in data.pool if q.rows not in barred]
    pooled = _unlinked(pool, partners)
    n_match = min(len(matches), max_pseudo, max(1, round(max_pseudo / (1 + mismatches_per_match))))
    matches = take(matches, n_match, rng)
    n_mismatch = min(round(len(matches) * mismatches_per_match), max_pseudo - len(matches))
    half = take(sorted(set(pooled)), (n_mismatch + 1) // 2, rng)
    rest = take(sorted(set(near) - set(half)), n_mismatch - len(half), rng)
    mismatches = [_sample(data, a, b, MISMATCH, 0.9) for a, b in [*half, *rest]]
    return [*matches, *mismatches], {**report, "matches": len(matches), "mismatches": len(mismatches)}


def _unlinked(pairs: Sequence[tuple[str, ...]], partners: Partners) -> list[tuple[str, str]]:
    """Pairs that are behind somebody else on a side: mismatches as far as the encoder can tell."""
    kept = []
    for a, b in pairs:
        link = partners.link(a, b)
        if not link.mutual and link.margin < 0:
            kept.append((a, b))
    return kept


def _sample(data: UnitData, a: str, b: str, label: str, sure: float) -> Sample:
    (left_table, _, left), (right_table, _, right) = a.partition(":"), b.partition(":")
    query = Query(
        id=f"{data.unit}/pseudo/{pair_id(left, right)}",
        unit=data.unit,
        task=data.task,
        entities=(data.tables[left_table].rows[left], data.tables[right_table].rows[right]),
        rows=(a, b),
        title=data.tables[left_table].title,
    )
    return Sample(query, label, "pseudo", sure)
