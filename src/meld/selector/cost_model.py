"""What selection costs at another scale: seconds are proportional to tokens times parameters times passes.

Steps without a model (embeddings, clusters, greedy) are left as they were measured where the scale stays, and out of
the ratio where it changes: at 7B they vanish beside the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TRAINING_PASSES = 2.0
"""A training step of LoRA in units of a forward pass: forward, and backward through frozen weights."""


@dataclass(frozen=True)
class Work:
    """Work of one step in a model.

    Attributes:
        model: ``proxy`` or ``expert``.
        tokens: Tokens of one pass.
        passes: Passes over them, in units of a forward pass.
        parameters: Parameters that each token passes.
        seconds: What it took, where it was measured.
    """

    model: str
    tokens: int
    passes: float
    parameters: int
    seconds: float = 0.0

    @property
    def operations(self) -> float:
        """Floating-point operations: two per parameter, token and pass."""
        return 2.0 * self.tokens * self.passes * self.parameters


def work_of(steps: Iterable[Mapping[str, Any]]) -> list[Work]:
    """The steps of a selection that ran in a model."""
    return [
        Work(str(s["model"]), int(s["tokens"]), float(s["passes"]), int(s["parameters"]), float(s["seconds"]))
        for s in steps
        if s.get("model") == "proxy" and s.get("tokens")
    ]


def operations_ratio(selection: Iterable[Work], selected: Work, everything: Work) -> float:
    """Operations of selecting and then training on the selection, over those of training on everything."""
    return (sum(work.operations for work in selection) + selected.operations) / everything.operations


def at_scale(work: Iterable[Work], parameters: Mapping[str, int]) -> list[Work]:
    """The same tokens and passes with models of other sizes.

    Args:
        work: What was done.
        parameters: By ``proxy`` and ``expert``, how many each token passes there.
    """
    return [Work(w.model, w.tokens, w.passes, parameters[w.model]) for w in work]


def speed(work: Iterable[Work]) -> dict[str, float]:
    """Operations per second of each model's steps: how far one number serves for all of them is how good the model is.

    Returns:
        By model; models without measured seconds are left out.
    """
    totals: dict[str, tuple[float, float]] = {}
    for w in work:
        operations, seconds = totals.get(w.model, (0.0, 0.0))
        totals[w.model] = (operations + w.operations, seconds + w.seconds)
    return {model: operations / seconds for model, (operations, seconds) in totals.items() if seconds > 0.0}


def predicted_seconds(work: Work, operations_per_second: float) -> float:
    """What a step should take at a given speed."""
    return work.operations / operations_per_second
