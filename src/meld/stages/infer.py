"""infer: route every test query, mix its experts, answer. k enters here and nowhere before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_predictions, save_predictions
from meld.engine.base import Engine
from meld.metapath.base import StepRules
from meld.metapath.edits import Walk
from meld.metapath.record import Asked, save_asked
from meld.retriever.cells import CellEvidence, cell_facts, evidence_of
from meld.retriever.detect import Detector
from meld.retriever.partners import Partners
from meld.router.base import Router
from meld.stages.answering import Answered
from meld.stages.balance import Odds, load_odds
from meld.stages.base import Context, read_json, write_json
from meld.stages.metapath import load_path
from meld.stages.panel import Mixer, Panel, follow_path, step_experts
from meld.stages.paths import encoder_answers, encoder_ranking, fit_detector
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.task.ed import CORRECT, ERROR
from meld.types import Prediction, Query

VERSION = 5


def run_llm(
    context: Context,
    questions: Mapping[str, Questions],
    others: Mapping[str, Unit],
    name: str,
    rules: StepRules,
    router: Router,
    mixer: Mixer,
    engine: Engine,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    exclude: Sequence[str] = (),
) -> None:
    """Write ``predictions.parquet``, ``asked.parquet`` (what each question became on the way) and ``routing.json``.

    Args:
        context: Inputs ``refine:<unit>`` (all experts), ``route``, ``register:<name>`` (registered experts),
            ``metapath``, ``init:<unit>`` (experts that are steps of the path), ``balance`` (of matching) and, for data
            cleaning of flagged cells, ``flags`` (predictions of error detection).
        questions: Questions of the unit and of the units whose experts are steps.
        others: Units that are steps.
        name: The unit.
        rules: How steps act.
        router: Opens the trained router.
        mixer: Makes gates from weights.
        engine: Runs mixtures.
        backbone: For batch size and answer length.
        lm: The frozen base model.
        exclude: Experts that answer nothing, neither a test query nor a step of the path.
    """
    own = questions[name]
    unit = own.unit
    asked, skipped = split_queries(unit, context.inputs.get("flags"))
    path = tuple(step for step in load_path(context.inputs["metapath"]) if step not in exclude)
    texts = [unit.query_text(query) for query in asked]
    walked = follow_path(
        path,
        unit,
        others,
        questions,
        {step: folder / "adapter" for step, folder in context.group("init").items()},
        asked,
        rules,
        backbone,
        partial(step_experts, lm),
        context.progress,
    )
    adapters, added = _roster(context)
    panel = Panel(router, context.inputs["route"] / "router", adapters, added, mixer, engine, lm, exclude)
    try:
        odds = load_odds(context.inputs.get("balance"))
        found = panel.answer(own, texts, walked.queries, backbone, context.progress, odds)
    finally:
        panel.close()
    save_asked(asked_of(walked, found.answers), context.out / "asked.parquet")
    predictions = sorted([*found.predictions, *skipped], key=lambda p: p.query_id)
    save_predictions(predictions, context.out / "predictions.parquet")
    write_json(context.out / "routing.json", found.usage(path))


def _roster(context: Context) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Adapters in the order of the router's columns, registered ones last, and what the router knows about those."""
    refined, registered = context.group("refine"), context.group("register")
    experts = read_json(context.inputs["route"] / "experts.json")
    adapters = {expert: refined[expert] / "adapter" for expert in experts}
    adapters |= {name: folder / "adapter" for name, folder in sorted(registered.items())}
    return adapters, tuple(folder / "row" for _, folder in sorted(registered.items()))


def asked_of(walked: Walk, answers: Sequence[Answered]) -> list[Asked]:
    """What each question became on the way: what its path changed, and what the experts read."""
    return [
        Asked(
            query,
            edits,
            found.prompt.text,
            found.prompt.n_demos,
            found.prompt.shortened,
            found.prediction.options,
            found.probabilities,
            found.evidence,
        )
        for query, edits, found in zip(walked.queries, walked.edits, answers, strict=True)
    ]


def split_queries(unit: Unit, flags: Path | None) -> tuple[list[Query], list[Prediction]]:
    """Which test queries are asked, and the default answers of those that are not.

    Data cleaning asks about flagged cells only; every other cell keeps its value.

    Args:
        unit: The unit.
        flags: Artifact of error detection on the same table; None asks everything.
    """
    queries = list(unit.data.test)
    if flags is None:
        return queries, []
    flagged = {
        p.query_id.partition("/")[2] for p in load_predictions(flags / "predictions.parquet") if p.output == ERROR
    }
    asked = [q for q in queries if q.id.partition("/")[2] in flagged]
    return asked, [kept_as_it_is(q) for q in queries if q.id.partition("/")[2] not in flagged]


def kept_as_it_is(query: Query) -> Prediction:
    """The answer to data cleaning's question about a cell that error detection has not flagged."""
    return Prediction(query.id, query.entities[0][query.target or ""], 1.0, status="skipped")


def run_encoder(context: Context, unit: Unit, depth: int = 10) -> None:
    """Answer an encoder-only unit: blocking by nearest neighbours, error detection by the fitted detector.

    Writes ``predictions.parquet`` and ``asked.parquet``.

    Args:
        context: Input ``balance`` (of matching).
        unit: The unit, annotated.
        depth: Ranked partners per blocking query.
    """
    queries = list(unit.data.test)
    context.progress.begin(f"answer {unit.name}", len(queries))
    detector = detector_of(unit)
    if detector is not None:
        write_json(context.out / "detector.json", {"threshold": round(detector.threshold, 6)})
    predictions, asked = answer_encoder(unit, queries, detector, load_odds(context.inputs.get("balance")), depth)
    save_asked(asked, context.out / "asked.parquet")
    save_predictions(sorted(predictions, key=lambda p: p.query_id), context.out / "predictions.parquet")


def detector_of(unit: Unit) -> Detector | None:
    """The fitted detector of an error-detection unit over one table; None for every other unit."""
    return fit_detector(unit, unit.cells) if unit.task.name == "ed" and unit.cells is not None else None


def answer_encoder(
    unit: Unit,
    queries: Sequence[Query],
    detector: Detector | None = None,
    odds: Odds | None = None,
    depth: int = 10,
) -> tuple[list[Prediction], list[Asked]]:
    """Answers of an encoder-only unit.

    Args:
        unit: The unit, annotated.
        queries: What is asked.
        detector: Of an error-detection unit (:func:`detector_of`).
        odds: What is added to the log-odds of an answer (:func:`meld.stages.balance.load_odds`).
        depth: Ranked partners per blocking query.

    Returns:
        One prediction per query, in order, and what each question became.
    """
    if unit.task.name == "blk" and unit.partners is not None:
        return _block(unit.partners, queries, depth)
    if detector is not None and unit.cells is not None:
        return _detect(detector, unit.cells, queries)
    predictions = encoder_answers(unit, queries, odds)
    asked = [
        Asked(query, options=values, probabilities=chances)
        for query, (values, chances) in zip(queries, encoder_ranking(unit, queries, odds), strict=True)
    ]
    return predictions, asked


def _block(partners: Partners, queries: Sequence[Query], depth: int) -> tuple[list[Prediction], list[Asked]]:
    """Nearest neighbours of each tuple in the other table."""
    predictions, asked = [], []
    for query in queries:
        found = partners.nearest(query.rows[0])[:depth]
        scores = tuple(round((1 + cosine) / 2, 6) for _, cosine in found)
        options = tuple(ref for ref, _ in found)
        predictions.append(
            Prediction(query.id, options[0] if found else None, scores[0] if found else 0.0, options=options)
        )
        asked.append(Asked(query, options=options, probabilities=scores))
    return predictions, asked


def _detect(detector: Detector, cells: CellEvidence, queries: Sequence[Query]) -> tuple[list[Prediction], list[Asked]]:
    """The fitted detector's verdict on each cell."""
    evidence = evidence_of(queries, cells)
    probabilities = detector.probability(np.stack([e.features for e in evidence])) if queries else np.zeros(0)
    predictions, asked = [], []
    for query, found, p in zip(queries, evidence, probabilities, strict=True):
        label = detector.label(float(p))
        score = float(p) if label == ERROR else 1.0 - float(p)
        predictions.append(Prediction(query.id, label, round(min(1.0, max(0.0, score)), 6)))
        options = (ERROR, CORRECT) if label == ERROR else (CORRECT, ERROR)
        chances = (float(p), 1.0 - float(p)) if label == ERROR else (1.0 - float(p), float(p))
        shown = replace(query, context=(*query.context, *cell_facts(found, float(p))))
        asked.append(Asked(shown, options=options, probabilities=tuple(round(c, 6) for c in chances)))
    return predictions, asked
