"""Influence of every single item by a backward pass of its own: the reference, and what other methods are timed by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import label_nll, lora_parameters
from meld.selector.base import FloatArray, IntArray
from meld.selector.costs import BACKWARD, Meter
from meld.selector.influence.base import check_scores
from meld.selector.influence.direction import check_damping, influence_direction
from meld.selector.influence.gradients import Gradients
from meld.selector.influence.parallel import check_workers, map_batches
from meld.selector.influence.preconditioner import preconditioner as known_preconditioner
from meld.selector.losses import check_items


class PerSampleInfluence:
    """I(z) = -<v, grad L(z)>, one item at a time (Eq. 8).

    Args:
        damping: lambda of Eq. 8, in the unit of squared gradients, or ``auto`` (chosen on dev labels).
        preconditioner: ``one_sided`` (default), ``woodbury``, ``datainf``, ``hyperinf`` or ``identity``.
        max_warmup: Items of S'_init (its first picks) whose gradients estimate the curvature; this bounds memory and
            time.
        workers: Processes that share the batches; 1 works in this one. Execution only.
        max_tokens: Tokens of one batch of the validation and warm-up sets.
        max_rows: Items of one such batch.

    Raises:
        ConfigError: If the damping is not positive or the preconditioner unknown.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"workers", "max_tokens", "max_rows"})
    needs_model: ClassVar[bool] = True

    def __init__(
        self,
        damping: float | str = 0.01,
        preconditioner: str = "one_sided",
        max_warmup: int = 512,
        workers: int = 1,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        known_preconditioner(preconditioner)
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
            DataError: If the validation set or S'_init is empty, an item does not fit the window, or a gradient is not
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
        with meter.step("gradients of the pool") as step:
            step.work(lm, pool, BACKWARD)
            step.stored_mb = 8e-6 * sum(part.numel() for part in direction.values())
            found = map_batches(lm, _one, direction, [[item] for item in pool], self.workers)
        return check_scores(np.array([part[0] for part in found]), "influence")


def _one(lm: LanguageModel, direction: Gradients, items: Sequence[Encoded]) -> NDArray[np.float64]:
    """The score of one item, shape (1,)."""
    parameters = lora_parameters(lm)
    lm.model.eval()
    with torch.enable_grad():
        loss = label_nll(lm, items).sum()
        parts = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    products = [float((direction[name] * part).sum()) for name, part in zip(parameters, parts, strict=True)]
    return np.array([-sum(products)])
