"""Exact influence of every single item, at the cost of one batched backward pass over the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.selector.base import FloatArray, IntArray
from meld.selector.costs import BACKWARD, Meter
from meld.selector.influence.base import check_scores
from meld.selector.influence.direction import check_damping, influence_direction
from meld.selector.influence.gradients import Gradients, gradient_products
from meld.selector.influence.parallel import check_workers, map_batches
from meld.selector.influence.preconditioner import preconditioner as known_preconditioner
from meld.selector.losses import check_items, length_batches


class DotInfluence:
    """I(z) = -<v, grad L(z)> with v = (H + lambda I)^-1 grad L(X) fixed, by layer-wise products (Eq. 8, per sample).

    Args:
        damping: lambda of Eq. 8, in the unit of squared gradients, or ``auto`` (chosen on dev labels).
        preconditioner: ``one_sided`` (default), ``woodbury``, ``datainf``, ``hyperinf`` or ``identity``.
        max_warmup: Items of S'_init (its first picks) whose gradients estimate the curvature; this bounds memory and
            time.
        workers: Processes that share the batches; 1 works in this one. Execution only.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.

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
        return self.scores_of_tasks(lm, pool, [validation], initial, dev, meter)[:, 0]

    def scores_of_tasks(
        self,
        lm: LanguageModel,
        pool: Sequence[Encoded],
        validations: Sequence[Sequence[Encoded]],
        initial: IntArray,
        dev: Sequence[Encoded] = (),
        meter: Meter | None = None,
    ) -> FloatArray:
        """I(z) of every pool item for several tasks, in one pass over the pool.

        Args:
            lm: The proxy with its adapter, warmed up on ``initial``.
            pool: n items; ``options[0]`` is the label.
            validations: The few-shot set of each of k tasks.
            initial: S'_init, positions in the pool in the order of picking.
            dev: As for :meth:`scores`; the same for all tasks.
            meter: Notes what each step takes.

        Returns:
            Shape (n, k).

        Raises:
            DataError: As :meth:`scores`.
            UserError: As :meth:`scores`.
        """
        meter = Meter() if meter is None else meter
        check_items(lm, pool, "pool")
        warmup = [pool[int(index)] for index in initial[: self.max_warmup]]
        directions = [
            influence_direction(
                lm,
                validation,
                warmup,
                name=self.preconditioner,
                damping=self.damping,
                max_tokens=self.max_tokens,
                max_rows=self.max_rows,
                dev=dev,
                meter=meter,
            )
            for validation in validations
        ]
        batches = length_batches(pool, self.max_tokens, self.max_rows)
        with meter.step("gradients of the pool") as step:
            step.work(lm, pool, BACKWARD)
            step.stored_mb = 4e-6 * sum(part.numel() for direction in directions for part in direction.values())
            found = map_batches(
                lm, _products, directions, [[pool[i] for i in batch] for batch in batches], self.workers
            )
        scores = np.zeros((len(pool), len(directions)))
        for batch, part in zip(batches, found, strict=True):
            scores[batch] = part
        return check_scores(scores, "influence")


def _products(lm: LanguageModel, directions: list[Gradients], items: Sequence[Encoded]) -> NDArray[np.float64]:
    """Scores of one batch, shape (batch, k)."""
    return -gradient_products(lm, items, directions, "pool").double().cpu().numpy()
