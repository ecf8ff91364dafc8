"""Influence by finite differences: two forward passes along v, no backward pass over the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError
from meld.selector.base import FloatArray, IntArray
from meld.selector.costs import FORWARD, Meter
from meld.selector.influence.base import check_scores
from meld.selector.influence.direction import check_damping, influence_direction
from meld.selector.influence.gradients import Gradients
from meld.selector.influence.parallel import check_workers, map_batches
from meld.selector.influence.perturb import length, moved
from meld.selector.influence.preconditioner import preconditioner as known_preconditioner
from meld.selector.losses import check_items, label_losses, length_batches

_STEPS = {"float32": 0.03, "float64": 0.03, "bfloat16": 0.1, "float16": 0.1}
"""How far the weights are moved, by the precision of the base model: below it, rounding drowns the difference."""


class FiniteDifferenceInfluence:
    """I(z) = -(L(z; theta + e v) - L(z; theta - e v)) / (2 e), with |e v| = step (Eq. 8, per sample).

    Args:
        damping: lambda of Eq. 8, in the unit of squared gradients, or ``auto`` (chosen on dev labels).
        preconditioner: ``one_sided`` (default), ``woodbury``, ``datainf``, ``hyperinf`` or ``identity``.
        max_warmup: Items of S'_init (its first picks) whose gradients estimate the curvature; this bounds memory and
            time.
        workers: Processes that share the batches; 1 works in this one. Execution only.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.
        step: Length |e v| by which the weights are moved each way; None takes 0.03, or 0.1 for a base model in 16 bits.

    Raises:
        ConfigError: If the damping or the step is not positive or the preconditioner unknown.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"workers", "max_tokens", "max_rows"})
    needs_model: ClassVar[bool] = True

    def __init__(
        self,
        damping: float | str = 0.01,
        preconditioner: str = "one_sided",
        max_warmup: int = 512,
        step: float | None = None,
        workers: int = 1,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        known_preconditioner(preconditioner)
        if step is not None and step <= 0.0:
            raise ConfigError(f"The step is {step}; it must be above 0.", where="selector.influence.step", fix="0.03")
        self.step = step
        self.damping = check_damping(damping)
        self.preconditioner = preconditioner
        self.max_warmup = max_warmup
        self.workers = check_workers(workers)
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def scores(
        self,
        lm: LanguageModel,
        pool: Sequence[Encoded],
        validation: Sequence[Encoded],
        initial: IntArray,
        embeddings: NDArray[np.float32],
        dev: Sequence[Encoded] = (),
        meter: Meter | None = None,
    ) -> FloatArray:
        """See :class:`meld.selector.influence.base.Influence`; the embeddings are not read.

        Raises:
            DataError: If the validation set or S'_init is empty, an item does not fit the window, or a loss is not
                finite.
            UserError: If the proxy has no plain LoRA matrices.
        """
        del embeddings
        meter = Meter() if meter is None else meter
        check_items(lm, pool, "pool")
        direction = influence_direction(
            lm,
            validation,
            [pool[int(index)] for index in initial[: self.max_warmup]],
            name=self.preconditioner,
            damping=self.damping,
            max_tokens=self.max_tokens,
            max_rows=self.max_rows,
            dev=dev,
            meter=meter,
        )
        size = length(direction)
        if size == 0.0:
            return np.zeros(len(pool))  # the validation loss has no gradient: nothing helps and nothing harms
        step = _STEPS[str(lm.model.dtype).rpartition(".")[2]] if self.step is None else self.step
        batches = length_batches(pool, self.max_tokens, self.max_rows)
        scores = np.zeros(len(pool))
        with meter.step("losses of the pool on both sides") as measured:
            measured.work(lm, pool, 2 * FORWARD)
            measured.stored_mb = 4e-6 * sum(part.numel() for part in direction.values())
            state = (direction, step / size)
            found = map_batches(lm, _differences, state, [[pool[i] for i in batch] for batch in batches], self.workers)
        for batch, part in zip(batches, found, strict=True):
            scores[batch] = part
        return check_scores(scores, "influence")


def _differences(lm: LanguageModel, state: tuple[Gradients, float], items: Sequence[Encoded]) -> NDArray[np.float64]:
    """Scores of one batch, shape (batch,)."""
    direction, factor = state
    losses = []
    for sign in (1.0, -1.0):
        with moved(lm, direction, sign * factor):
            losses.append(label_losses(lm, items, 1 << 62, len(items), "pool"))
    return -(losses[0] - losses[1]) / (2.0 * factor)
