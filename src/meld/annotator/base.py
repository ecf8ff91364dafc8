"""What every annotator offers, and what it may look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meld.retriever.cells import CellEvidence
from meld.retriever.partners import Partners
from meld.types import Sample, UnitData


@dataclass(frozen=True)
class Surroundings:
    """What the encoder knows about a unit.

    Attributes:
        partners: Nearest neighbours across the dataset's two tables, if it has two.
        cells: Statistics of the dataset's table, if it has one and its cells are asked about.
        vectors: Query id to unit vector, for few-shot and pool queries.
    """

    partners: Partners | None = None
    cells: CellEvidence | None = None
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotated:
    """The result X_i of annotating a unit.

    Attributes:
        samples: Few-shot training samples first, then pseudo-labelled and transformed ones.
        report: Counts, thresholds and what was dropped, for people.
    """

    samples: tuple[Sample, ...]
    report: Mapping[str, Any]


class Annotator(Protocol):
    """Enlarges the few-shot samples of a unit."""

    def annotate(self, data: UnitData, around: Surroundings, donated: Sequence[Sample], seed: int) -> Annotated:
        """Enlarge.

        Args:
            data: The unit; only its few-shot training labels are used for making samples, all few-shot labels for
                thresholds.
            around: What the encoder knows.
            donated: Samples for this unit's task that other units' transforms made.
            seed: Seeds every draw.
        """
        ...


def forbidden_ids(data: UnitData) -> set[tuple[str, ...]]:
    """Record tuples that no annotated sample may be about: those of test and dev queries of pair tasks."""
    return {query.rows for query in data.test if len(query.rows) == 2} | {
        sample.query.rows for sample in data.dev if len(sample.query.rows) == 2
    }


def take(items: Sequence[Any], limit: int | None, rng: np.random.Generator) -> list[Any]:
    """At most ``limit`` items drawn without replacement, in their order."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i] for i in np.sort(rng.permutation(len(items))[:limit])]


def nothing_added(data: UnitData, annotated: Annotated) -> str | None:
    """What to tell users where annotation found nothing; None where it added samples or was not asked to.

    Args:
        data: The unit.
        annotated: What the annotator made of it.
    """
    reason = annotated.report.get("pseudo", {}).get("reason")
    if reason is None or len(annotated.samples) > len(data.train):
        return None
    return (
        f"{data.unit}: annotation adds nothing ({reason}); its expert trains on the {len(data.train)} few-shot samples "
        "alone"
    )
