"""What each step of a selection costs: seconds, memory, gradients kept, and the work behind them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from meld.backbone.language_model import Encoded, LanguageModel
from meld.store.machine import PeakMemory

_SAMPLED_EVERY = 0.5  # seconds

FORWARD = 1.0
"""Passes of a forward: two floating-point operations per parameter and token."""
BACKWARD = 2.0
"""Passes of a forward and a backward through frozen weights: only the gradients of activations are computed."""


@dataclass
class Step:
    """One step, filled in while it runs.

    Attributes:
        name: What was done.
        seconds: Wall-clock time.
        peak_memory_mb: Highest memory of the process and its children during the step.
        model: Whose parameters the tokens passed: ``proxy``, ``expert``, ``encoder``, ``rater``, or empty for none.
        parameters: Parameters that each token passes (see :func:`layer_parameters`); 0 without a model.
        tokens: Tokens read by one pass.
        passes: Passes over them, in units of a forward pass.
        stored_mb: Gradients (or their projections) held at the same time, in MB.
    """

    name: str
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    model: str = ""
    parameters: int = 0
    tokens: int = 0
    passes: float = 0.0
    stored_mb: float = 0.0

    def work(self, lm: LanguageModel, items: Sequence[Encoded], passes: float, model: str = "proxy") -> None:
        """Add the work of passing items through a model.

        Args:
            lm: The model.
            items: Of each, the prompt and the first option are read.
            passes: ``FORWARD``, ``BACKWARD`` or multiples of them.
            model: Its part, see above.
        """
        tokens = sum(label_tokens(item) for item in items)
        self.model, self.parameters = model, layer_parameters(lm)
        # Steps that read two sets keep the sum of tokens times passes.
        total = self.tokens * self.passes + tokens * passes
        self.tokens += tokens
        self.passes = total / self.tokens if self.tokens else 0.0


@dataclass
class Meter:
    """Collects the steps of one stage, and numbers that were found on the way.

    Attributes:
        steps: In the order they ended.
        notes: By name, e.g. the damping that was chosen.
    """

    steps: list[Step] = field(default_factory=list)
    notes: dict[str, float | str] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Measure a block; the step it yields may be filled in."""
        step = Step(name)
        started = time.perf_counter()
        # Sampled rarely: looking for child processes takes milliseconds that the step would pay for.
        with PeakMemory(_SAMPLED_EVERY) as memory:
            yield step
        step.seconds = round(time.perf_counter() - started, 4)
        step.peak_memory_mb = memory.mb
        self.steps.append(step)

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {"steps": [asdict(step) for step in self.steps], "notes": dict(self.notes)}


def label_tokens(item: Encoded) -> int:
    """Tokens of a prompt and its label."""
    return len(item.prompt) + (len(item.options[0]) if item.options else 0)


def layer_parameters(lm: LanguageModel) -> int:
    """Parameters that every token passes: all but embeddings and the head over the vocabulary.

    Embeddings are looked up, and logits are built for label tokens alone.
    """
    lookups = {
        id(parameter)
        for part in (lm.model.get_input_embeddings(), lm.model.get_output_embeddings())
        if part is not None
        for parameter in part.parameters()
    }
    return sum(
        p.numel() for name, p in lm.model.named_parameters() if id(p) not in lookups and "embeddings" not in name
    )
