"""metapath: find a unit's path on dev and apply it to X_i (journal version, section IV-B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import save_samples
from meld.engine.base import MixtureModel, ask
from meld.engine.stacked import StackedEngine
from meld.expert.decide import without
from meld.metapath.policies import MetaPathPolicy
from meld.metapath.steps import apply_path, changed
from meld.progress import Progress
from meld.stages.answering import answer, own_gates
from meld.stages.base import Context, read_json, write_json
from meld.stages.init import checked, held_out_ids, with_path
from meld.stages.paths import Ask, build_steps
from meld.stages.unit import Questions, Unit
from meld.types import Query, Sample

VERSION = 4


def run(
    context: Context,
    questions: Mapping[str, Questions],
    name: str,
    step_names: Sequence[str],
    policy: MetaPathPolicy,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
) -> None:
    """Write ``path.json`` and ``samples.parquet`` (X_aug: X_i with the path applied) and ``dev.parquet``.

    Args:
        context: Inputs ``init:<unit>`` of the unit and of the imputation experts that can be steps.
        questions: Questions of the unit and of the units behind the steps.
        name: The unit.
        step_names: Units that can be steps.
        policy: Searches.
        backbone: For batch size and answer length.
        lm: The frozen base model.
    """
    asked = questions[name]
    unit = asked.unit
    adapters = {u: path / "adapter" for u, path in context.group("init").items()}
    model = StackedEngine().open(lm, adapters)
    try:
        steps = build_steps(
            step_names,
            unit,
            {n: questions[n].unit for n in step_names},
            expert_asker(questions, model, backbone, context.progress),
        )
        held = held_out_ids(context.inputs[f"init:{name}"])
        dev = checked(unit, held)
        useful = [n for n, step in steps.items() if any(step.applies(s.query) for s in (*dev, *unit.samples))]
        gates = own_gates(model.experts, name, len(dev))
        lessons_of: dict[tuple[str, ...], float] = {}

        def evaluate(path: tuple[str, ...]) -> float:
            if path not in lessons_of:
                shown = with_path(dev, path, steps)
                lessons_of[path] = mean_gold_log_prob(asked, shown, model, gates, backbone, context.progress)
            return lessons_of[path]

        found = policy.search(unit.task.name, useful, evaluate)
        samples = with_path(without(unit.samples, held), found.path, steps)
        save_samples(samples, context.out / "samples.parquet")
        save_samples(with_path(dev, found.path, steps), context.out / "dev.parquet")
        counts = {}
        before: list[Query] = [s.query for s in unit.samples]
        for step in found.path:
            after = apply_path([step], steps, before)
            counts[step] = changed(before, after)
            before = after
    finally:
        model.close()
    write_json(
        context.out / "path.json",
        {
            "path": list(found.path),
            "tried": dict(found.tried),
            "possible": useful,
            "changed_samples": counts,
            "samples": len(samples),
            "dev": len(dev),
            "eval": "mean log-probability of the label among the options, under the unit's own initial expert",
        },
    )


def load_path(folder: Path) -> tuple[str, ...]:
    """The path that :func:`run` found."""
    return tuple(read_json(folder / "path.json")["path"])


def expert_asker(
    questions: Mapping[str, Questions], model: MixtureModel, backbone: HuggingFaceBackbone, progress: Progress
) -> Ask:
    """Asks a unit's own initial expert."""

    def asker(unit: Unit, queries: Sequence[Query]) -> list[str | None]:
        gates = own_gates(model.experts, unit.name, len(queries))
        found = answer(questions[unit.name], queries, model, gates, backbone, progress, what=f"ask {unit.name}")
        return [prediction.output for prediction in found]

    return asker


def mean_gold_log_prob(
    questions: Questions,
    samples: Sequence[Sample],
    model: MixtureModel,
    gates: NDArray[np.float64],
    backbone: HuggingFaceBackbone,
    progress: Progress,
) -> float:
    """Eval: how probable the labels are among the options, on average. Finer than accuracy on twenty dev queries.

    Args:
        questions: Writes the prompts.
        samples: Labelled queries.
        model: Base model with experts.
        gates: Shape (n, experts).
        backbone: For batch size.
        progress: The display.
    """
    if not samples:
        return 0.0
    prompts = questions.labelled_prompts(samples)
    replies = ask(model, prompts, gates, backbone.batch_tokens, backbone.max_new_tokens, progress, "evaluate path")
    return float(np.mean([_gold_log_prob(reply.log_probs) for reply in replies]))


def _gold_log_prob(scores: Sequence[float]) -> float:
    """Log-probability of the first option among all; of the answer itself where it is the only one."""
    values = np.array(scores)
    return float(values[0] - np.logaddexp.reduce(values)) if len(values) > 1 else float(values[0])
