"""The steps that a unit's meta-path can be made of, built from the artifacts of other units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld.config.targets import nearest
from meld.errors import UserError
from meld.metapath.align import Aligner
from meld.metapath.asking import Ask, Asker
from meld.metapath.base import KINDS, Seeds, StepRules
from meld.metapath.edits import Step
from meld.metapath.extract import AddAttributes, telling_attributes, text_attribute
from meld.metapath.link import COLUMNS, AttachEntities
from meld.metapath.revise import ReviseCells
from meld.metapath.steps import TUPLES, AttachCells, AttachPartners, FillMissing
from meld.retriever.balance import reweigh
from meld.retriever.cells import FEATURES, CellEvidence, Evidence, evidence_of
from meld.retriever.detect import Detector
from meld.stages.balance import Odds
from meld.stages.unit import Unit
from meld.task.ed import CORRECT, ERROR
from meld.types import Prediction, Query, Sample

AskUnit = Callable[[Unit, Sequence[Query]], Sequence[Prediction]]
"""Answers queries with a unit's own initial expert."""

SERVES: dict[str, frozenset[str]] = {
    "blk": frozenset({"em"}),
    "ed": frozenset({"dc", "ed"}),
    "el": frozenset(COLUMNS),
    "di": TUPLES,
    "ave": frozenset({"em", "di", "ed", "dc", "ave"}),
    "dc": frozenset({"em", "di", "ed", "dc", "ave"}),
}
"""By kind of step: tasks whose queries it can change."""

SAME_TABLE = frozenset({"blk", "ed"})
"""Kinds that say something about the tables of their own dataset alone."""


def possible_steps(
    unit: str, units: Sequence[str], experts: Sequence[str], rules: StepRules, seeds: Seeds, llm: bool
) -> tuple[str, ...]:
    """Units that can be steps of a unit's path, as far as names tell: the pipeline declares them as inputs.

    Whatever they hold, their number is bounded, since each is an input of the unit's path: the other units of the same
    dataset, and for each kind the first ``rules.max_experts`` units of other datasets in the order of the suite. What
    the user's own paths for the unit name is always among them. Whether a step finds something to change only the data
    tell.

    Args:
        unit: The unit whose path is wanted.
        units: All units, in the order of the suite.
        experts: Those that are answered by a language model.
        rules: Which kinds of steps there are, and how many.
        seeds: The user's paths.
        llm: Whether steps may ask a language model.
    """
    dataset, _, task = unit.rpartition(".")
    found: dict[str, None] = {}
    for kind in KINDS:
        if kind not in rules.kinds or task not in SERVES[kind]:
            continue
        able = [u for u in units if u.endswith(f".{kind}") and u != unit and (llm or not _asks(u, experts))]
        # What a language model answers by default and the encoder answers here is not asked: it has no expert.
        able = [u for u in able if kind in {"blk", "ed", "el"} or u in experts]
        own = [u for u in able if u == f"{dataset}.{kind}"]
        others = [u for u in able if u not in own and kind not in SAME_TABLE]
        found |= dict.fromkeys((*own, *others[: rules.max_experts]))
    named = [step for step in seeds.named(unit) if step in units and (llm or not _asks(step, experts))]
    return tuple(found | dict.fromkeys(named))


def check_seeds(seeds: Seeds, units: Sequence[str], experts: Sequence[str]) -> None:
    """Refuse paths for units that there are not, and paths of units that cannot be their steps.

    Args:
        seeds: The user's paths.
        units: All units.
        experts: Those that are answered by a language model.

    Raises:
        UserError: Naming the first one.
    """
    for name in seeds.units if seeds.max_path else ():
        if name not in units:
            guess = nearest(name, list(units))
            raise UserError(
                f"A path is given for {name}, and there is no such unit.",
                where=f"metapath.seeds.{name}",
                fix=f"did you mean {guess}?" if guess else f"units are {', '.join(units)}",
            )
        for step in seeds.named(name):
            _check_seed(step, name, units, experts)


def _asks(step: str, experts: Sequence[str]) -> bool:
    """Whether a step asks a language model; blocking and detection attach what the encoder knows in any case."""
    return step in experts and step.rpartition(".")[2] not in SAME_TABLE


def _check_seed(step: str, unit: str, units: Sequence[str], experts: Sequence[str]) -> None:
    dataset, _, task = unit.rpartition(".")
    kind = step.rpartition(".")[2]
    place = f"metapath.seeds, path of {unit}"
    if step not in units:
        guess = nearest(step, list(units))
        raise UserError(
            f"The path names {step}, and there is no such unit.",
            where=place,
            fix=f"did you mean {guess}?" if guess else f"units are {', '.join(units)}",
        )
    fits = kind in SERVES and task in SERVES[kind] and step != unit
    fits = fits and (kind not in SAME_TABLE or step.rpartition(".")[0] == dataset)
    if not fits or (kind in {"di", "ave", "dc"} and step not in experts):
        serving = ", ".join(k for k in KINDS if task in SERVES[k]) or "no expert at all"
        raise UserError(
            f"{step} cannot be a step of {unit}.",
            where=place,
            fix=f"what changes queries of {task}: {serving} (blk and ed of the same dataset only)",
        )


def build_steps(
    names: Sequence[str],
    unit: Unit,
    others: Mapping[str, Unit],
    ask: AskUnit | None,
    rules: StepRules,
) -> dict[str, Step]:
    """Make the steps.

    Args:
        names: Units, as :func:`possible_steps` gives them.
        unit: The unit whose path is made.
        others: The units behind the steps.
        ask: Asks an expert; None leaves steps that need a language model out.
        rules: How steps act.

    Returns:
        Steps by unit, in the given order.
    """
    aligner = Aligner(unit.vectors_of, rules.align)
    steps: dict[str, Step] = {}
    dataset = unit.name.rpartition(".")[0]
    for name in names:
        other = others[name]
        kind = name.rpartition(".")[2]
        if kind == "blk" and unit.partners is not None:
            steps[name] = AttachPartners(name, dataset, unit.partners)
        elif kind == "ed" and unit.cells is not None:
            detector = fit_detector(other, unit.cells)
            steps[name] = AttachCells(name, dataset, unit.cells, _probability(detector))
        elif kind == "el" and (other.task.solver == "encoder" or ask is not None):
            steps[name] = _linking(other, _asker(ask if other.task.solver == "llm" else None, other, rules), rules)
        elif ask is not None and other.data.train:
            made = _asking(kind, other, _asker(ask, other, rules), aligner, rules)
            steps |= {} if made is None else {name: made}
    return steps


def _asking(kind: str, other: Unit, asker: Asker, aligner: Aligner, rules: StepRules) -> Step | None:
    """A step that asks a language model about tuples."""
    train = other.data.train
    schema = tuple(dict.fromkeys(name for s in train for name in s.query.entities[0]))
    if kind == "di":
        targets = sorted({s.query.target or "" for s in train})
        return FillMissing(other.name, targets, schema, asker, aligner, rules.min_confidence)
    if kind == "ave":
        targets = telling_attributes(train, rules.max_added)
        return AddAttributes(other.name, targets, schema, text_attribute(train), asker, aligner, rules.min_confidence)
    if kind == "dc" and other.cells is not None:
        detector = _repair_detector(other, other.cells)
        return ReviseCells(
            other.name,
            other.name.rpartition(".")[0],
            other.cells,
            _probability(detector),
            detector.threshold,
            asker,
            aligner,
            rules.min_confidence,
        )
    return None


def _linking(other: Unit, asker: Asker, rules: StepRules) -> AttachEntities:
    """Entities are those that the training side offers: candidates of labelled cells and of the pool."""
    queries = [*(s.query for s in (*other.data.train, *other.data.dev)), *other.data.pool]
    entities = {option for query in queries for option in query.options}
    target = next((query.target for query in queries if query.target), "cell")
    return AttachEntities(other.name, target, sorted(entities), asker, min_confidence=rules.min_confidence)


def _asker(ask: AskUnit | None, other: Unit, rules: StepRules) -> Asker:
    """Asks the unit's expert, or its encoder where it has none."""
    answers: Ask = (lambda queries: encoder_answers(other, queries)) if ask is None else _of_unit(ask, other)
    return Asker(answers, rules.max_queries)


def _of_unit(ask: AskUnit, other: Unit) -> Ask:
    return lambda queries: ask(other, queries)


def encoder_ranking(
    unit: Unit, queries: Sequence[Query], odds: Odds | None = None
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Candidates of each query with their probabilities by the retrieved evidence alone, best first.

    Args:
        unit: The unit.
        queries: What is asked.
        odds: What is added to the log-odds of an answer (:func:`meld.stages.balance.load_odds`).
    """
    ranked = []
    for query, found in zip(queries, unit.candidates(queries) if queries else [], strict=True):
        probabilities = np.exp(np.array(found.log_prior))
        if odds is not None:
            probabilities = reweigh(found.values, probabilities, odds.of(query))
        order = np.argsort(-probabilities, kind="stable")
        chances = tuple(round(float(probabilities[i]), 6) for i in order)
        ranked.append((tuple(found.values[i] for i in order), chances))
    return ranked


def encoder_answers(unit: Unit, queries: Sequence[Query], odds: Odds | None = None) -> list[Prediction]:
    """Answers by the retrieved evidence alone: the likeliest candidate, with all candidates best first."""
    return [
        Prediction(query.id, values[0], chances[0], options=values)
        if values
        else Prediction(query.id, None, 0.0, status="invalid")
        for query, (values, chances) in zip(queries, encoder_ranking(unit, queries, odds), strict=True)
    ]


def fit_detector(unit: Unit, cells: CellEvidence) -> Detector:
    """Fit error detection on a unit's few-shot cells and the corrupted cells of its annotation."""
    labelled = [*unit.data.train, *unit.data.dev]
    made = [s for s in unit.samples if s.provenance.startswith("transformed") and s.label == ERROR]
    return _fitted(labelled, made, cells)


def _repair_detector(unit: Unit, cells: CellEvidence) -> Detector:
    """Fit error detection on the labels of a cleaning unit: a cell is wrong if its repair differs from it."""
    labelled = [_as_detection(s) for s in (*unit.data.train, *unit.data.dev)]
    made = [_as_detection(s) for s in unit.samples if s.provenance.startswith("transformed")]
    return _fitted(labelled, [s for s in made if s.label == ERROR], cells)


def _as_detection(sample: Sample) -> Sample:
    wrong = sample.query.entities[0][sample.query.target or ""] != sample.label
    return replace(sample, label=ERROR if wrong else CORRECT)


def _fitted(labelled: Sequence[Sample], made: Sequence[Sample], cells: CellEvidence) -> Detector:
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


def step_counts(step: Step) -> dict[str, Any]:
    """What a step asked its expert, and what it left out because of the limit."""
    asker = getattr(step, "asker", None)
    return {"asked": asker.asked if asker else 0, "over": asker.over if asker else 0}
