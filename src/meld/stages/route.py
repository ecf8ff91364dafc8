"""route: train the router on what every expert makes of labelled queries (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_samples
from meld.engine.base import ask
from meld.engine.stacked import StackedEngine, StackedModel
from meld.router.base import RoutedQuery, Router, routed_query
from meld.seeds import derive, generator
from meld.stages.answering import own_gates
from meld.stages.base import Context, read_json, write_json
from meld.stages.questions import Questions
from meld.trainer.fit import LightningTrainer
from meld.types import Sample

VERSION = 3

_WRONG_OPTIONS = 7
"""Wrong candidates beside the label of an open question; the likeliest ones, for they tell experts apart."""


def run(
    context: Context,
    questions: Mapping[str, Questions],
    router: Router,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel | None,
    trainer: LightningTrainer,
    queries_per_unit: int,
) -> None:
    """Write ``router/``, ``experts.json``, ``answers.json`` and ``report.json``.

    The answers are what every expert made of the labelled queries; registering another expert needs them.

    Args:
        context: Inputs ``refine:<unit>`` and ``metapath:<unit>`` of all units with an expert, ``encode``.
        questions: Questions of those units.
        router: Learns.
        backbone: For batch size.
        lm: The frozen base model; None if the router needs no answers.
        trainer: Fits the router.
        queries_per_unit: Labelled queries of each unit: dev first, filled up from X_aug.
    """
    adapters = {unit: path / "adapter" for unit, path in sorted(context.group("refine").items())}
    experts = tuple(adapters)
    answers: list[dict[str, Any]] = []
    if router.needs_answers:
        assert lm is not None
        model = StackedEngine().open(lm, adapters)
        try:
            for unit in experts:
                folder = context.group("metapath")[unit]
                dev = load_samples(folder / "dev.parquet")
                rest = [s for s in load_samples(folder / "samples.parquet") if s.provenance != "labelled"]
                order = generator(context.seed, "queries", unit).permutation(len(rest))
                samples = [*dev[:queries_per_unit], *(rest[i] for i in order[: max(0, queries_per_unit - len(dev))])]
                answers += ask_experts(questions[unit], samples, model, experts, backbone, context)
        finally:
            model.close()
    routed = [routed_from(answer) for answer in answers]
    (context.out / "router").mkdir()
    numbers = router.fit(
        experts,
        routed,
        context.inputs["encode"] / "model",
        context.out / "router",
        context.work,
        trainer,
        derive(context.seed, "fit"),
        context.progress,
        context.logger("router"),
    )
    write_json(context.out / "experts.json", list(experts))
    write_json(context.out / "answers.json", answers)
    matrix = {
        unit: [round(float(np.mean([q.right[e] for q in routed if q.unit == unit])), 4) for e in range(len(experts))]
        for unit in experts
        if any(q.unit == unit for q in routed)
    }
    write_json(context.out / "report.json", {"fit": numbers, "right_by_unit_and_expert": matrix})


def ask_experts(
    questions: Questions,
    samples: Sequence[Sample],
    model: StackedModel,
    experts: Sequence[str],
    backbone: HuggingFaceBackbone,
    context: Context,
) -> list[dict[str, Any]]:
    """What every expert alone makes of a unit's labelled queries.

    Returns:
        For each sample ``unit``, ``id``, ``text`` for the router's encoder, ``probabilities`` (experts x options, the
        label first; one option where answers are written) and ``scores`` (each expert's score of the label).
    """
    if not samples:
        return []
    prompts = questions.labelled_prompts(samples, _WRONG_OPTIONS)
    # One call for all experts, so that what they share is computed once.
    every = np.concatenate([own_gates(experts, expert, len(prompts)) for expert in experts])
    asked = ask(
        model,
        prompts * len(experts),
        every,
        backbone.batch_tokens,
        backbone.max_new_tokens,
        context.progress,
        f"experts answer {questions.unit.name}",
    )
    per_expert = [asked[at : at + len(prompts)] for at in range(0, len(asked), len(prompts))]
    return [
        {
            "unit": questions.unit.name,
            "id": sample.id,
            "text": questions.unit.query_text(sample.query),
            "probabilities": [replies[index].probabilities.tolist() for replies in per_expert],
            "scores": [replies[index].log_probs[0] for replies in per_expert],
        }
        for index, sample in enumerate(samples)
    ]


def routed_from(*answers: Mapping[str, Any]) -> RoutedQuery:
    """One labelled query from what :func:`ask_experts` returned about it, for one or several groups of experts."""
    probabilities = np.array([row for answer in answers for row in answer["probabilities"]], dtype=np.float64)
    scores = np.array([score for answer in answers for score in answer["scores"]], dtype=np.float64)
    return routed_query(answers[0]["unit"], answers[0]["text"], probabilities, scores)


def load_answers(folder: Path) -> list[dict[str, Any]]:
    """What :func:`run` wrote about the labelled queries; empty if the router learnt from none."""
    answers: list[dict[str, Any]] = read_json(folder / "answers.json")
    return answers
