"""infer: route every test query, mix its experts, answer. k enters here and nowhere before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_predictions, save_predictions
from meld.engine.base import Engine, MixtureModel, TokenWiseEngine
from meld.metapath.steps import apply_path
from meld.mixer.combination import Combination
from meld.retriever.cells import evidence_of
from meld.router.arrow import ArrowRouter
from meld.router.base import Router
from meld.router.load import restrict, usage
from meld.stages.answering import answer
from meld.stages.base import Context, read_json, write_json
from meld.stages.metapath import expert_asker, load_path
from meld.stages.paths import build_steps, fit_detector
from meld.stages.unit import Questions, Unit
from meld.task.ed import ERROR
from meld.types import Prediction, Query

VERSION = 3


class Mixer(Protocol):
    """Turns router weights into gates, and says what becomes of the updates of the experts that they choose."""

    mixes: str
    combination: Combination

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts)."""
        ...


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
    # Routing reads the query as it was asked: what a path attaches is about the answer, not about the kind of question.
    texts = [unit.query_text(query) for query in asked]
    asked = _augment(context, questions, others, unit, step_names, path, asked, backbone, lm)
    adapters, added = _roster(context)
    if isinstance(router, ArrowRouter):
        kept = {expert: folder for expert, folder in adapters.items() if expert not in exclude}
        assert isinstance(engine, TokenWiseEngine)  # validation refuses others
        model: MixtureModel = engine.open_token_wise(lm, kept, router.top_k, router.temperature)
        # Which expert a token asked is known layer by layer only, so that an answer names none.
        gates = np.full((len(asked), len(kept)), 1.0 / len(kept))
        report: dict[str, Any] = {"experts": list(kept), "queries": len(asked), "path": list(path)}
        mixes = "weights"
    else:
        opened = router.open(context.inputs["route"] / "router", tuple(adapters)[: len(adapters) - len(added)], added)
        weights = restrict(opened.weights([name] * len(asked), texts, context.progress), tuple(adapters), exclude)
        gates = mixer.gates(weights) if len(asked) else np.zeros((0, len(adapters)))
        model = engine.open(lm, adapters, mixer.combination)
        report = usage(tuple(adapters), weights, gates, path)
        mixes = mixer.mixes
    try:
        predictions = answer(own, asked, model, gates, backbone, context.progress, mixes, what=f"answer {name}")
    finally:
        model.close()
    if "mean_weights" not in report:
        predictions = [replace(prediction, experts=(), weights=()) for prediction in predictions]
    save_predictions(sorted([*predictions, *skipped], key=lambda p: p.query_id), context.out / "predictions.parquet")
    write_json(context.out / "routing.json", report)


def _roster(context: Context) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Adapters in the order of the router's columns, registered ones last, and what the router knows about those."""
    refined, registered = context.group("refine"), context.group("register")
    experts = read_json(context.inputs["route"] / "experts.json")
    adapters = {expert: refined[expert] / "adapter" for expert in experts}
    adapters |= {name: folder / "adapter" for name, folder in sorted(registered.items())}
    return adapters, tuple(folder / "row" for _, folder in sorted(registered.items()))


def _augment(
    context: Context,
    questions: Mapping[str, Questions],
    others: Mapping[str, Unit],
    unit: Unit,
    step_names: Sequence[str],
    path: Sequence[str],
    queries: Sequence[Query],
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
) -> list[Query]:
    """Apply the unit's fixed path to its test queries, with the experts that the search used."""
    adapters = {u: folder / "adapter" for u, folder in context.group("init").items()}
    needed = [n for n in step_names if n in path]
    model: MixtureModel | None = None
    if any(n in adapters for n in needed):
        from meld.engine.stacked import StackedEngine

        model = StackedEngine().open(lm, adapters)
    try:
        ask = None if model is None else expert_asker(questions, model, backbone, context.progress)
        return apply_path(path, build_steps(needed, unit, others, ask), queries)
    finally:
        if model is not None:
            model.close()


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
    skipped = [
        Prediction(q.id, q.entities[0][q.target or ""], 1.0, status="skipped")
        for q in queries
        if q.id.partition("/")[2] not in flagged
    ]
    return asked, skipped


def run_encoder(context: Context, unit: Unit, depth: int = 10) -> None:
    """Answer an encoder-only unit: blocking by nearest neighbours, error detection by the fitted detector.

    Args:
        context: No further inputs.
        unit: The unit, annotated.
        depth: Ranked partners per blocking query.
    """
    name = unit.task.name
    queries = list(unit.data.test)
    context.progress.begin(f"answer {unit.name}", len(queries))
    if name == "blk" and unit.partners is not None:
        predictions = []
        for query in queries:
            found = unit.partners.nearest(query.rows[0])[:depth]
            score = round((1 + found[0][1]) / 2, 6) if found else 0.0
            predictions.append(
                Prediction(query.id, found[0][0] if found else None, score, options=tuple(ref for ref, _ in found))
            )
    elif name == "ed" and unit.cells is not None:
        detector = fit_detector(unit, unit.cells)
        features = np.stack([e.features for e in evidence_of(queries, unit.cells)]) if queries else np.zeros((0, 1))
        probabilities = detector.probability(features) if queries else np.zeros(0)
        predictions = []
        for query, p in zip(queries, probabilities, strict=True):
            label = detector.label(float(p))
            score = float(p) if label == ERROR else 1.0 - float(p)
            predictions.append(Prediction(query.id, label, round(min(1.0, max(0.0, score)), 6)))
        write_json(context.out / "detector.json", {"threshold": round(detector.threshold, 6)})
    else:
        candidates = unit.candidates(queries)
        predictions = [
            Prediction(
                q.id,
                c.values[best] if c.values else None,
                round(float(np.exp(c.log_prior[best])), 6) if c.values else 0.0,
                "ok" if c.values else "invalid",
                options=c.values,
            )
            for q, c in zip(queries, candidates, strict=True)
            for best in [int(np.argmax(c.log_prior)) if c.values else 0]
        ]
    save_predictions(sorted(predictions, key=lambda p: p.query_id), context.out / "predictions.parquet")
