"""How right the annotated samples are: their labels against the hidden ones of the pool. For the report only.

Nothing reads the result but people. A sample that no published label covers stays unchecked: a pair of records that the
training split does not have, or a sample made by corrupting or masking a labelled one, which is right by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld.evaluate.metrics import is_correct
from meld.types import Gold, Prediction, Query, Sample


def annotation_quality(task: str, samples: Sequence[Sample], pool: Sequence[Query], gold: Gold) -> dict[str, Any]:
    """Counts and precision of a unit's annotated samples, by provenance and, for closed tasks, by label.

    Args:
        task: The unit's task.
        samples: X_i.
        pool: The unlabelled queries, by which pairs of records are recognised.
        gold: Hidden labels of the pool.

    Returns:
        By provenance (``labelled`` is left out): ``count``, ``checked`` (those a hidden label covers), ``right``,
        ``precision`` (None if none is checked), mean ``confidence``, and for binary tasks ``by_label`` with the same of
        each label.
    """
    by_rows = {query.rows: gold[query.id] for query in pool if task == "em" and query.id in gold}
    parts: dict[str, list[tuple[Sample, bool | None]]] = {}
    for sample in samples:
        if sample.provenance != "labelled":
            parts.setdefault(sample.provenance, []).append((sample, _right(task, sample, gold, by_rows)))
    return {provenance: _summary(found, task in {"em", "sm", "ed"}) for provenance, found in sorted(parts.items())}


def _right(task: str, sample: Sample, gold: Gold, by_rows: Mapping[tuple[str, ...], tuple[str, ...]]) -> bool | None:
    """Whether a sample's label is right; None where no hidden label says so."""
    answers = gold.get(sample.id) or (by_rows.get(sample.query.rows) if sample.query.rows else None)
    return None if answers is None else is_correct(task, Prediction(sample.id, sample.label, 1.0), answers)


def _summary(found: Sequence[tuple[Sample, bool | None]], detailed: bool) -> dict[str, Any]:
    known = [right for _, right in found if right is not None]
    labels = sorted({sample.label for sample, _ in found})
    summary: dict[str, Any] = {
        "count": len(found),
        "checked": len(known),
        "right": sum(known),
        "precision": round(sum(known) / len(known), 6) if known else None,
        "confidence": round(sum(sample.confidence for sample, _ in found) / len(found), 6),
    }
    if detailed and len(labels) > 1:
        summary["by_label"] = {
            label: _summary([pair for pair in found if pair[0].label == label], detailed=False) for label in labels
        }
    return summary
