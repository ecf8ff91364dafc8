"""infer: route every test query, mix its experts, answer. k enters here and nowhere before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_predictions, save_predictions
from meld.engine.base import Engine
from meld.retriever.cells import evidence_of
from meld.retriever.detect import Detector
from meld.router.base import Router
from meld.stages.base import Context, read_json, write_json
from meld.stages.metapath import load_path
from meld.stages.panel import Mixer, Panel, follow_path
from meld.stages.paths import fit_detector
from meld.stages.unit import Questions, Unit
from meld.task.ed import ERROR
from meld.types import Prediction, Query

VERSION = 3


def run_llm(
    context: Context,
    questions: Mapping[str, Questions],
    others: Mapping[str, Unit],
    name: str,
    step_names: Sequence[str],
    router: Router,
    mixer: Mixer,
    engine: Engine,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    exclude: Sequence[str] = (),
) -> None:
    """Write ``predictions.parquet`` and ``routing.json``.

    Args:
        context: Inputs ``refine:<unit>`` (all experts), ``route``, ``register:<name>`` (registered experts),
            ``metapath``, ``init:<unit>`` (experts that are steps of the path) and, for data cleaning of flagged cells,
            ``flags`` (predictions of error detection).
        questions: Questions of the unit and of the units whose experts are steps.
        others: Units that are steps.
        name: The unit.
        step_names: Those units' names.
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
    asked = follow_path(
        path,
        unit,
        others,
        questions,
        {step: folder / "adapter" for step, folder in context.group("init").items()},
        asked,
        backbone,
        lambda: lm,
        context.progress,
    )
    adapters, added = _roster(context)
    panel = Panel(router, context.inputs["route"] / "router", adapters, added, mixer, engine, lm, exclude)
    try:
        found = panel.answer(own, texts, asked, backbone, context.progress)
    finally:
        panel.close()
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

    Args:
        context: No further inputs.
        unit: The unit, annotated.
        depth: Ranked partners per blocking query.
    """
    queries = list(unit.data.test)
    context.progress.begin(f"answer {unit.name}", len(queries))
    detector = detector_of(unit)
    if detector is not None:
        write_json(context.out / "detector.json", {"threshold": round(detector.threshold, 6)})
    predictions = answer_encoder(unit, queries, detector, depth)
    save_predictions(sorted(predictions, key=lambda p: p.query_id), context.out / "predictions.parquet")


def detector_of(unit: Unit) -> Detector | None:
    """The fitted detector of an error-detection unit over one table; None for every other unit."""
    return fit_detector(unit, unit.cells) if unit.task.name == "ed" and unit.cells is not None else None


def answer_encoder(
    unit: Unit, queries: Sequence[Query], detector: Detector | None = None, depth: int = 10
) -> list[Prediction]:
    """Answers of an encoder-only unit.

    Args:
        unit: The unit, annotated.
        queries: What is asked.
        detector: Of an error-detection unit (:func:`detector_of`).
        depth: Ranked partners per blocking query.

    Returns:
        One prediction per query, in order.
    """
    if unit.task.name == "blk" and unit.partners is not None:
        predictions = []
        for query in queries:
            found = unit.partners.nearest(query.rows[0])[:depth]
            score = round((1 + found[0][1]) / 2, 6) if found else 0.0
            predictions.append(
                Prediction(query.id, found[0][0] if found else None, score, options=tuple(ref for ref, _ in found))
            )
        return predictions
    if detector is not None and unit.cells is not None:
        features = np.stack([e.features for e in evidence_of(queries, unit.cells)]) if queries else np.zeros((0, 1))
        probabilities = detector.probability(features) if queries else np.zeros(0)
        predictions = []
        for query, p in zip(queries, probabilities, strict=True):
            label = detector.label(float(p))
            score = float(p) if label == ERROR else 1.0 - float(p)
            predictions.append(Prediction(query.id, label, round(min(1.0, max(0.0, score)), 6)))
        return predictions
    return [
        Prediction(
            q.id,
            c.values[best] if c.values else None,
            round(float(np.exp(c.log_prior[best])), 6) if c.values else 0.0,
            "ok" if c.values else "invalid",
            options=c.values,
        )
        for q, c in zip(queries, unit.candidates(queries), strict=True)
        for best in [int(np.argmax(c.log_prior)) if c.values else 0]
    ]
