"""refine: from initial experts to refined ones (journal version, sections IV-C and V-D)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import read_adapter
from meld.dataset.io import load_samples
from meld.expert.lora import Lesson, LoraExpert
from meld.refine.base import Material, Measured, Refiner
from meld.seeds import derive
from meld.stages.base import Context, read_json, write_json
from meld.stages.init import limited
from meld.stages.questions import Questions
from meld.stages.select import pool_of
from meld.trainer.fit import LightningTrainer
from meld.types import Sample

VERSION = 4
QualityOf = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def run(
    context: Context,
    questions: Mapping[str, Questions],
    name: str,
    refiner: Refiner,
    expert: LoraExpert,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    trainer: LightningTrainer,
    quality: QualityOf | None = None,
) -> None:
    """Write ``adapter/`` (PEFT layout) and ``rounds.json``.

    A round that is not worth keeping ends the refinement, and the best adapter so far is kept.

    Args:
        context: Inputs ``init``, ``metapath:<unit>`` of all units and, where selection ran, ``pick`` and perhaps
            ``features:<unit>`` of the others.
        questions: Questions of all units.
        name: The unit.
        refiner: Decides the rounds.
        expert: How adapters are trained.
        backbone: Names the layers to adapt.
        lm: The frozen base model.
        trainer: Fits the module.
        quality: f of Eq. 6 from (loss_cond, loss_prior), both of shape (n,); None where no losses were measured.
    """
    paths = context.group("metapath")
    own = own_samples(context, name, context.inputs.get("pick"), expert.max_samples)
    others = [(u, s) for u in sorted(paths) if u != name for s in load_samples(paths[u] / "samples.parquet")]
    material = Material(
        own=own,
        own_vectors=vectors_of(questions[name], own),
        others=[s for _, s in others],
        other_vectors=_stack(
            [vectors_of(questions[u], [s for v, s in others if v == u]) for u in sorted(paths) if u != name]
        ),
        target=vectors_of(questions[name], questions[name].unit.data.train),
        measured=_measured(context.group("features"), paths, others, quality, expert.max_samples),
    )
    dev = load_samples(paths[name] / "dev.parquet")
    dev_lessons = questions[name].lessons(dev, lm, expert.train_candidates)
    origin = {**{id(sample): name for sample in own}, **{id(sample): unit for unit, sample in others}}
    report = train_rounds(
        context, questions, name, refiner, material, origin, dev_lessons, expert, backbone, lm, trainer
    )
    write_json(context.out / "rounds.json", {"rounds": report, "own_samples": len(own), "other_samples": len(others)})


def own_samples(context: Context, name: str, pick: Path | None, limit: int | None) -> list[Sample]:
    """X_aug of a unit, or what selection kept of it together with the few-shot samples, within the expert's limit.

    Args:
        context: Input ``metapath:<name>``.
        name: The unit.
        pick: What selection kept; None where it did not run.
        limit: Samples at most; None for all.
    """
    own = load_samples(context.group("metapath")[name] / "samples.parquet")
    if pick is not None:
        chosen = set(read_json(pick / "selected.json")["ids"])
        own = [s for s in own if s.provenance == "labelled" or s.id in chosen]
    return limited(own, limit, derive(context.seed, "own"))


def train_rounds(
    context: Context,
    questions: Mapping[str, Questions],
    name: str,
    refiner: Refiner,
    material: Material,
    origin: Mapping[int, str],
    dev_lessons: Sequence[Lesson],
    expert: LoraExpert,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
    trainer: LightningTrainer,
) -> list[dict[str, Any]]:
    """Train round after round and write ``adapter/``; a round that does not lower the dev loss is the last.

    Args:
        context: Input ``init``.
        questions: Questions of all units.
        name: What is refined, for the display.
        refiner: Decides the rounds.
        material: What can be trained on.
        origin: ``id`` of each sample to its unit.
        dev_lessons: For early stopping.
        expert: How adapters are trained.
        backbone: Names the layers to adapt.
        lm: The frozen base model.
        trainer: Fits the module.

    Returns:
        Numbers about each round.
    """
    _, start = read_adapter(context.inputs["init"] / "adapter")
    adapter = context.inputs["init"] / "adapter"
    state = start if refiner.start == "init" else None
    report: list[dict[str, Any]] = []
    for number, planned in enumerate(refiner.rounds(material, context.seed)):
        lessons = []
        for unit, part in _by_unit(planned.samples, origin).items():
            lessons += questions[unit].lessons(part, lm, expert.train_candidates)
        folder = context.work / f"round{number}"
        numbers = expert.fit(
            lm,
            backbone.lora_targets,
            lessons,
            dev_lessons,
            folder / "adapter",
            folder / "training",
            trainer,
            derive(context.seed, "round", number),
            f"refine {name} {number + 1}",
            context.progress,
            context.logger(f"round{number}"),
            start=state,
            epochs=refiner.epochs,
            lr_factor=refiner.lr_factor,
        )
        # A fresh expert's first round is its start, whatever it brings; later ones start where the last kept one ended.
        kept = bool(numbers["kept"]) or (number == 0 and refiner.start == "fresh")
        report.append({"round": number + 1, **numbers, **planned.report, "kept": kept})
        if not kept:
            break
        adapter = folder / "adapter"
        _, state = read_adapter(adapter)
    _copy(adapter, context.out / "adapter")
    return report


def _measured(
    features: Mapping[str, Path],
    paths: Mapping[str, Path],
    others: Sequence[tuple[str, Sample]],
    quality: QualityOf | None,
    limit: int | None,
) -> Measured | None:
    """Embeddings and quality of the others' pools, as selection stored them."""
    place = {(unit, sample.id): index for index, (unit, sample) in enumerate(others)}
    places: list[int] = []
    embeddings, scores = [], []
    for unit in sorted(features):
        pool = pool_of(paths[unit], limit)
        content = load_file(features[unit] / "features.safetensors")
        if not pool:
            continue
        places += [place[unit, sample.id] for sample in pool]
        embeddings.append(content["embeddings"])
        found = np.zeros(len(pool)) if quality is None else quality(content["loss_cond"], content["loss_prior"])
        scores.append(np.asarray(found, dtype=np.float64))
    if not places:
        return None
    return Measured(np.array(places, dtype=np.int64), np.concatenate(embeddings), np.concatenate(scores))


def vectors_of(questions: Questions, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Vectors of samples' queries, shape (n, d)."""
    return questions.unit.query_vectors([s.query for s in samples])


def _stack(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled) if filled else np.zeros((0, 1), dtype=np.float32)


def _by_unit(samples: Sequence[Sample], origin: Mapping[int, str]) -> dict[str, list[Sample]]:
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(origin[id(sample)], []).append(sample)
    return parts


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        (target / file.name).write_bytes(file.read_bytes())
