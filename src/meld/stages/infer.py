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
from meld.metapath.base import StepRules
from meld.metapath.edits import Walk, walk
from meld.metapath.record import Asked, save_asked
from meld.mixer.combination import Combination
from meld.retriever.cells import cell_facts, evidence_of
from meld.router.arrow import ArrowRouter
from meld.router.base import Router
from meld.router.load import restrict, usage
from meld.stages.answering import Answered, answer_fully
from meld.stages.base import Context, read_json, write_json
from meld.stages.metapath import expert_asker, load_path, say_over
from meld.stages.paths import build_steps, encoder_answers, encoder_ranking, fit_detector
from meld.stages.unit import Questions, Unit
from meld.task.ed import CORRECT, ERROR
from meld.types import Prediction, Query

VERSION = 4


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
            ``metapath``, ``init:<unit>`` (experts that are steps of the path) and, for data cleaning of flagged cells,
            ``flags`` (predictions of error detection).
        questions: Questions of the unit and of the units whose experts are steps.
        others: Units that are steps.
        name: The unit.
        step_names: Those units' names.
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
    # Routing reads the query as it was asked: what a path attaches is about the answer, not about the kind of question.
    texts = [unit.query_text(query) for query in asked]
    walked = _augment(context, questions, others, unit, step_names, path, rules, asked, backbone, lm)
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
        answers = answer_fully(
            own, walked.queries, model, gates, backbone, context.progress, mixes, what=f"answer {name}"
        )
    finally:
        model.close()
    predictions = [a.prediction for a in answers]
    save_asked(_asked(walked, answers), context.out / "asked.parquet")
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


def _asked(walked: Walk, answers: Sequence[Answered]) -> list[Asked]:
    """What each question became on the way."""
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


def _augment(
    context: Context,
    questions: Mapping[str, Questions],
    others: Mapping[str, Unit],
    unit: Unit,
    step_names: Sequence[str],
    path: Sequence[str],
    rules: StepRules,
    queries: Sequence[Query],
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
) -> Walk:
    """Apply the unit's fixed path to its test queries, with the experts that the search used."""
    adapters = {u: folder / "adapter" for u, folder in context.group("init").items()}
    needed = [n for n in step_names if n in path]
    model: MixtureModel | None = None
    if any(n in adapters for n in needed):
        from meld.engine.stacked import StackedEngine

        model = StackedEngine().open(lm, adapters)
    try:
        ask = None if model is None else expert_asker(questions, model, backbone, context.progress)
        steps = build_steps(needed, unit, others, ask, rules)
        walked = walk(path, steps, queries, rules.chase)
        for step, found in steps.items():
            say_over(unit.name, step, found, rules, context.progress)
        return walked
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

    Writes ``predictions.parquet`` and ``asked.parquet``.

    Args:
        context: No further inputs.
        unit: The unit, annotated.
        depth: Ranked partners per blocking query.
    """
    name = unit.task.name
    context.progress.begin(f"answer {unit.name}", len(unit.data.test))
    if name == "blk" and unit.partners is not None:
        predictions, asked = _block(unit, depth)
    elif name == "ed" and unit.cells is not None:
        predictions, asked = _detect(context, unit)
    else:
        queries = list(unit.data.test)
        predictions = encoder_answers(unit, queries)
        asked = [
            Asked(query, options=values, probabilities=chances)
            for query, (values, chances) in zip(queries, encoder_ranking(unit, queries), strict=True)
        ]
    save_asked(asked, context.out / "asked.parquet")
    save_predictions(sorted(predictions, key=lambda p: p.query_id), context.out / "predictions.parquet")


def _block(unit: Unit, depth: int) -> tuple[list[Prediction], list[Asked]]:
    """Nearest neighbours of each tuple in the other table."""
    assert unit.partners is not None
    predictions, asked = [], []
    for query in unit.data.test:
        found = unit.partners.nearest(query.rows[0])[:depth]
        scores = tuple(round((1 + cosine) / 2, 6) for _, cosine in found)
        options = tuple(ref for ref, _ in found)
        predictions.append(
            Prediction(query.id, options[0] if found else None, scores[0] if found else 0.0, options=options)
        )
        asked.append(Asked(query, options=options, probabilities=scores))
    return predictions, asked


def _detect(context: Context, unit: Unit) -> tuple[list[Prediction], list[Asked]]:
    """The fitted detector's verdict on each cell."""
    assert unit.cells is not None
    queries = list(unit.data.test)
    detector = fit_detector(unit, unit.cells)
    evidence = evidence_of(queries, unit.cells)
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
    write_json(context.out / "detector.json", {"threshold": round(detector.threshold, 6)})
    return predictions, asked
