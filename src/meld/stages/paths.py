"""The steps that a unit's meta-path can be made of, built from the artifacts of other units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from meld.metapath.steps import AttachCells, AttachPartners, FillMissing, Step
from meld.retriever.cells import FEATURES, CellEvidence, Evidence, evidence_of
from meld.retriever.detect import Detector
from meld.stages.unit import Unit
from meld.task.ed import ERROR
from meld.types import Query

Ask = Callable[[Unit, Sequence[Query]], Sequence[str | None]]
"""Answers queries with a unit's own initial expert."""


def possible_steps(unit: str, units: Sequence[str], llm_units: Sequence[str]) -> tuple[str, ...]:
    """Units that can be steps of a unit's path, as far as names tell: the pipeline declares them as inputs.

    Blocking of the same dataset for matching, error detection of the same table for cleaning, and imputation experts of
    any other unit; whether an imputation expert finds a gap to fill only the data tell.
    """
    dataset, _, task = unit.rpartition(".")
    found = []
    if task == "em":
        found += [u for u in units if u == f"{dataset}.blk"]
    if task in {"dc", "ed"}:
        found += [u for u in units if u == f"{dataset}.ed" and u != unit]
    found += [u for u in llm_units if u.endswith(".di") and u != unit]
    return tuple(found)


def build_steps(names: Sequence[str], unit: Unit, others: Mapping[str, Unit], ask: Ask | None) -> dict[str, Step]:
    """Make the steps.

    Args:
        names: Units, as :func:`possible_steps` gives them.
        unit: The unit whose path is made.
        others: The units behind the steps.
        ask: Asks an expert; None leaves steps that need a language model out.

    Returns:
        Steps by unit, in the given order.
    """
    steps: dict[str, Step] = {}
    dataset = unit.name.partition(".")[0]
    for name in names:
        other = others[name]
        if name.endswith(".blk") and unit.partners is not None:
            steps[name] = AttachPartners(name, dataset, unit.partners)
        elif name.endswith(".ed") and unit.cells is not None:
            detector = fit_detector(other, unit.cells)
            steps[name] = AttachCells(name, dataset, unit.cells, _probability(detector))
        elif name.endswith(".di") and ask is not None:
            targets = sorted({s.query.target or "" for s in other.data.train})
            steps[name] = FillMissing(name, targets, _asker(ask, other))
    return steps


def fit_detector(unit: Unit, cells: CellEvidence) -> Detector:
    """Fit error detection on a unit's few-shot cells and the corrupted cells of its annotation."""
    labelled = [*unit.data.train, *unit.data.dev]
    made = [s for s in unit.samples if s.provenance.startswith("transformed") and s.label == ERROR]
    return Detector().fit(
        labelled,
        _features([s.query for s in labelled], cells),
        made,
        _features([s.query for s in made], cells),
    )


def _features(queries: Sequence[Query], cells: CellEvidence) -> NDArray[np.float64]:
    found = [evidence.features for evidence in evidence_of(queries, cells)]
    return np.stack(found) if found else np.zeros((0, len(FEATURES)))


def _probability(detector: Detector) -> Callable[[Sequence[Evidence]], Sequence[float]]:
    return lambda found: [float(p) for p in detector.probability(np.stack([e.features for e in found]))]


def _asker(ask: Ask, other: Unit) -> Callable[[Sequence[Query]], Sequence[str | None]]:
    return lambda queries: ask(other, queries)
