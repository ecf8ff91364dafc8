"""metapath: find a unit's path on dev and apply it to X_i (journal version, section IV-B)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path as Folder
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import save_samples
from meld.engine.base import MixtureModel, ask
from meld.engine.stacked import StackedEngine
from meld.expert.decide import without
from meld.metapath.base import Found, MetaPathPolicy, Path, StepRules
from meld.metapath.edits import Edit, Step, Walk, walk
from meld.progress import Progress
from meld.stages.answering import answer, own_gates
from meld.stages.base import Context, read_json, write_json
from meld.stages.init import checked, held_out_ids, with_path
from meld.stages.paths import AskUnit, build_steps, step_counts
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.types import Prediction, Query, Sample

VERSION = 5
SEARCH = "search.json"
"""What search and application of the path took; never part of a result."""

_EXAMPLES = 4
"""Changes of each step that are shown."""


def run(
    context: Context,
    questions: Mapping[str, Questions],
    name: str,
    step_names: Sequence[str],
    policy: MetaPathPolicy,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
) -> None:
    """Find the path and apply it.

    Writes ``path.json`` (the path, every path tried with its Eval, what each step changed), ``samples.parquet`` (X_aug:
    X_i with the path applied), ``dev.parquet``, and ``search.json`` (seconds; in a file of its own, since no two
    searches take equally long).

    Args:
        context: Inputs ``init:<unit>`` of the unit and of the experts that can be steps.
        questions: Questions of the unit and of the units behind the steps.
        name: The unit.
        step_names: Units that can be steps.
        policy: Searches.
        backbone: For batch size and answer length.
        lm: The frozen base model.
    """
    unit = questions[name].unit
    rules = policy.rules
    adapters = {u: path / "adapter" for u, path in context.group("init").items()}
    model = StackedEngine().open(lm, adapters)
    started = time.monotonic()
    try:
        ask_unit = expert_asker(questions, model, backbone, context.progress)
        steps = build_steps(step_names, unit, {n: questions[n].unit for n in step_names}, ask_unit, rules)
        held = held_out_ids(context.inputs[f"init:{name}"])
        dev, own = checked(unit, held), without(unit.samples, held)
        useful = [n for n, step in steps.items() if any(step.applies(s.query) for s in (*dev, *unit.samples))]
        gates = own_gates(model.experts, name, len(dev))

        def evaluate(path: Path) -> float:
            shown = with_path(dev, path, steps, rules.chase)
            return mean_gold_log_prob(questions[name], shown, model, gates, backbone, context.progress)

        found = policy.search(name, useful, evaluate, context.seed)
        searched = time.monotonic()
        searching = sum(step_counts(step)["asked"] for step in steps.values())
        walked = walk(found.path, steps, [s.query for s in own], rules.chase)
        save_samples(with_path(dev, found.path, steps, rules.chase), context.out / "dev.parquet")
    finally:
        model.close()
    samples = [replace(s, query=query) for s, query in zip(own, walked.queries, strict=True)]
    save_samples(samples, context.out / "samples.parquet")
    asked = {"dev": len(dev) * len(found.tried), "steps": searching}
    told = _told(found, walked, {n: step_counts(steps[n]) for n in found.path}, rules)
    told |= {"possible": useful, "queries": asked, "samples": len(samples), "dev": len(dev)}
    write_json(context.out / "path.json", told)
    for step in found.path:
        say_over(name, step, steps[step], rules, context.progress)
    seconds = {"search": round(searched - started, 3), "apply": round(time.monotonic() - searched, 3)}
    write_json(context.out / SEARCH, {"seconds": seconds})


def _told(found: Found, walked: Walk, counts: Mapping[str, Mapping[str, int]], rules: StepRules) -> dict[str, Any]:
    """The path, how it was found, and what each of its steps changed."""
    return {
        "path": list(found.path),
        "tried": {">".join(path) or "(none)": round(value, 6) for path, value in found.tried.items()},
        "stopped": found.stopped,
        "evaluations": len(found.tried),
        "chase": rules.chase,
        "changed_samples": {n: sum(any(e.step == n for e in made) for made in walked.edits) for n in found.path},
        "steps": {n: {**counts[n], "edits": _by_kind(walked.edits, n)} for n in found.path},
        "examples": [example for n in found.path for example in _examples(walked, n)],
        "eval": "mean log-probability of the label among the options, under the unit's own initial expert",
    }


def say_over(unit: str, name: str, step: Step, rules: StepRules, progress: Progress) -> None:
    """Say what a step left out because of the limit, if anything."""
    over = step_counts(step)["over"]
    if over:
        progress.say(f"{unit}: {over:,} questions to {name} are beyond metapath.max_queries={rules.max_queries}")


def _by_kind(edits: Sequence[Sequence[Edit]], step: str) -> dict[str, int]:
    """How often a step filled, added, revised and attached."""
    kinds = Counter(edit.kind for made in edits for edit in made if edit.step == step)
    return dict(sorted(kinds.items()))


def _examples(walked: Walk, step: str) -> list[dict[str, Any]]:
    """A few changes that a step made, no two of them alike, the surest first."""
    seen: dict[tuple[str, str, str], dict[str, Any]] = {}
    for query, made in zip(walked.queries, walked.edits, strict=True):
        for edit in made:
            if edit.step == step:
                seen.setdefault((edit.attribute, edit.before, edit.after), {"query": query.id, **asdict(edit)})
    return sorted(seen.values(), key=lambda e: (-e["confidence"], e["query"], e["attribute"]))[:_EXAMPLES]


def load_path(folder: Folder) -> tuple[str, ...]:
    """The path that :func:`run` found."""
    return tuple(read_json(folder / "path.json")["path"])


def expert_asker(
    questions: Mapping[str, Questions], model: MixtureModel, backbone: HuggingFaceBackbone, progress: Progress
) -> AskUnit:
    """Asks a unit's own initial expert."""

    def asker(unit: Unit, queries: Sequence[Query]) -> list[Prediction]:
        gates = own_gates(model.experts, unit.name, len(queries))
        return answer(questions[unit.name], queries, model, gates, backbone, progress, what=f"ask {unit.name}")

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
