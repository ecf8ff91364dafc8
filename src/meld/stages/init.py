"""init: train each unit's expert on X_i (journal version, section IV-A, Expert Initialization)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.expert.decide import held_out, without
from meld.expert.lora import LoraExpert
from meld.metapath.base import MetaPathPolicy
from meld.metapath.edits import Step, apply_path
from meld.seeds import generator
from meld.stages.base import Context, read_json, write_json
from meld.stages.paths import build_steps
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.trainer.fit import LightningTrainer
from meld.types import Sample

VERSION = 4

HELD_OUT = "held_out.json"
"""Ids of the labelled samples that no training of the unit's experts reads."""


def run(
    context: Context,
    questions: Questions,
    others: Mapping[str, Unit],
    step_names: Sequence[str],
    policy: MetaPathPolicy,
    expert: LoraExpert,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    trainer: LightningTrainer,
) -> None:
    """Train and write ``adapter/`` (PEFT layout), ``training.json`` and ``held_out.json``.

    Part of the samples is seen with what the encoder-only steps of the user's seed paths attach, part without
    (``expert.view_dropout``), so that the meta-path search compares paths on an expert that can read both.

    Args:
        context: Inputs: artifacts of the unit and of the units behind encoder-only steps.
        questions: The unit's questions.
        others: Units behind encoder-only steps.
        step_names: Those units' names.
        policy: Knows the seed paths.
        expert: How adapters are trained.
        backbone: Names the layers to adapt.
        lm: The frozen base model.
        trainer: Fits the module.
    """
    samples, dev, held = first_samples(questions, others, step_names, policy, expert, context.seed)
    write_json(context.out / HELD_OUT, sorted(held))
    numbers = expert.fit(
        lm,
        backbone.lora_targets,
        questions.lessons(samples, lm, expert.train_candidates),
        questions.lessons(dev, lm, expert.train_candidates),
        context.out / "adapter",
        context.work,
        trainer,
        context.seed,
        f"train {questions.unit.name}",
        context.progress,
        context.logger("expert"),
    )
    write_json(context.out / "training.json", numbers)


def checked(unit: Unit, held: frozenset[str]) -> list[Sample]:
    """The questions that decide about a unit's experts and path: dev, and what training left out to fill it up.

    Args:
        unit: The unit.
        held: What *init* left out.
    """
    return [*unit.data.dev, *(s for s in unit.samples if s.id in held)]


def held_out_ids(init: Path) -> frozenset[str]:
    """Ids of the labelled samples that an expert was not trained on."""
    return frozenset(read_json(init / HELD_OUT))


def first_samples(
    questions: Questions,
    others: Mapping[str, Unit],
    step_names: Sequence[str],
    policy: MetaPathPolicy,
    expert: LoraExpert,
    seed: int,
) -> tuple[list[Sample], list[Sample], frozenset[str]]:
    """What a unit's expert is initialised on, and the questions that decide about it, as the seed paths show both.

    The third are the ids of labelled samples that were moved from the former to the latter, where dev is small.

    Args:
        questions: The unit's questions.
        others: Units behind encoder-only steps.
        step_names: Those units' names.
        policy: Knows the seed paths.
        expert: Limits the samples, and says which share of them is seen bare.
        seed: Seeds both.
    """
    unit = questions.unit
    steps = build_steps(step_names, unit, others, None, policy.rules)
    seeds = policy.seeds.paths(unit.name, list(steps))
    held = held_out(unit.samples, len(unit.data.dev), expert.min_dev, seed)
    samples = limited(without(unit.samples, held), expert.max_samples, seed)
    dev = checked(unit, held)
    if seeds:
        rng = generator(seed, "views")
        plain = rng.random(len(samples)) < expert.view_dropout
        shown = with_path(samples, seeds[0], steps, policy.rules.chase)
        samples = [s if bare else seen for s, seen, bare in zip(samples, shown, plain, strict=True)]
        dev = with_path(dev, seeds[0], steps, policy.rules.chase)
    return samples, dev, held


def limited(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """At most ``limit`` samples, drawn by seed; labelled ones come first.

    Where there are more labelled ones than that (fully labelled sets), every label gets an equal share as far as it
    goes, so that the rare one, which matters, is not lost.
    """
    labelled = [s for s in samples if s.provenance == "labelled"]
    rest = [s for s in samples if s.provenance != "labelled"]
    if limit is None or len(samples) <= limit:
        return list(samples)
    rng = generator(seed, "limit")
    if len(labelled) > limit:
        by_label: dict[str, list[int]] = {}
        for place in rng.permutation(len(labelled)):
            by_label.setdefault(labelled[place].label, []).append(int(place))
        # One of each label in turn: short queues run out and leave their share to the others.
        turns = sorted((turn, label, place) for label, queue in by_label.items() for turn, place in enumerate(queue))
        return [labelled[place] for place in sorted(place for _, _, place in turns[:limit])]
    picked = np.sort(rng.permutation(len(rest))[: limit - len(labelled)])
    return [*labelled, *(rest[i] for i in picked)]


def with_path(
    samples: Sequence[Sample], path: Sequence[str], steps: Mapping[str, Step], chase: str = "sequential"
) -> list[Sample]:
    """Samples with a path applied to their queries."""
    changed = apply_path(path, steps, [s.query for s in samples], chase)
    return [Sample(q, s.label, s.provenance, s.confidence) for q, s in zip(changed, samples, strict=True)]
