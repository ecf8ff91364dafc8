"""``expert=joint``: one adapter for all units, in the place of one per unit (the dense single model of Theorem 2).

It reads what the units' own experts would read together, each unit's share limited as theirs is
(``expert.max_samples``): a plain union. So the comparison with the mixture is about how knowledge is laid out, not
about which samples were seen, and the limit already keeps a large unit from drowning a small one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_samples
from meld.expert.lora import LoraExpert
from meld.metapath.base import MetaPathPolicy
from meld.refine.base import Material, Refiner
from meld.seeds import derive
from meld.stages.base import Context, write_json
from meld.stages.init import HELD_OUT, first_samples
from meld.stages.questions import Questions
from meld.stages.refine import own_samples, train_rounds, vectors_of
from meld.stages.unit import Unit
from meld.trainer.fit import LightningTrainer

VERSION = 2


def run_init(
    context: Context,
    questions: Mapping[str, Questions],
    others: Mapping[str, Mapping[str, Unit]],
    policy: MetaPathPolicy,
    expert: LoraExpert,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    trainer: LightningTrainer,
) -> None:
    """Train on X_i of all units; write ``adapter/`` (PEFT layout), ``training.json`` and ``held_out.json``.

    Args:
        context: Inputs: artifacts of the units and of those behind encoder-only steps.
        questions: Questions of all units.
        others: For each unit, the units behind its encoder-only steps.
        policy: Knows the seed paths.
        expert: How the adapter is trained.
        backbone: Names the layers to adapt.
        lm: The frozen base model.
        trainer: Fits the module.
    """
    lessons, dev_lessons, counts = [], [], {}
    held: frozenset[str] = frozenset()
    for name, asked in sorted(questions.items()):
        samples, dev, kept_back = first_samples(
            asked, others[name], list(others[name]), policy, expert, derive(context.seed, "unit", name)
        )
        lessons += asked.lessons(samples, lm, expert.train_candidates)
        dev_lessons += asked.lessons(dev, lm, expert.train_candidates)
        counts[name] = len(samples)
        held |= kept_back
    write_json(context.out / HELD_OUT, sorted(held))
    numbers = expert.fit(
        lm,
        backbone.lora_targets,
        lessons,
        dev_lessons,
        context.out / "adapter",
        context.work,
        trainer,
        context.seed,
        "train the joint expert",
        context.progress,
        context.logger("expert"),
    )
    write_json(context.out / "training.json", {**numbers, "samples_by_unit": counts})


def run_refine(
    context: Context,
    questions: Mapping[str, Questions],
    refiner: Refiner,
    expert: LoraExpert,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    trainer: LightningTrainer,
) -> None:
    """Refine on X_aug of all units; write ``adapter/`` and ``rounds.json``.

    What other units could add is in X_aug already, so that the rounds draw no Delta X and no auxiliary set.

    Args:
        context: Inputs ``init``, ``metapath:<unit>`` of all units and, where selection ran, ``pick:<unit>``.
        questions: Questions of all units.
        refiner: Decides the rounds.
        expert: How the adapter is trained.
        backbone: Names the layers to adapt.
        lm: The frozen base model.
        trainer: Fits the module.
    """
    picks, paths = context.group("pick"), context.group("metapath")
    parts = {name: own_samples(context, name, picks.get(name), expert.max_samples) for name in sorted(questions)}
    own = [sample for samples in parts.values() for sample in samples]
    vectors = np.concatenate([vectors_of(questions[name], samples) for name, samples in parts.items()])
    material = Material(
        own=own,
        own_vectors=vectors,
        others=[],
        other_vectors=vectors[:0],
        target=np.concatenate([vectors_of(questions[name], questions[name].unit.data.train) for name in parts]),
    )
    dev_lessons = []
    for name in parts:
        dev = load_samples(paths[name] / "dev.parquet")
        dev_lessons += questions[name].lessons(dev, lm, expert.train_candidates)
    origin = {id(sample): name for name, samples in parts.items() for sample in samples}
    report = train_rounds(
        context, questions, "the joint expert", refiner, material, origin, dev_lessons, expert, backbone, lm, trainer
    )
    counts = {name: len(samples) for name, samples in parts.items()}
    write_json(
        context.out / "rounds.json",
        {"rounds": report, "own_samples": len(own), "other_samples": 0, "samples_by_unit": counts},
    )
