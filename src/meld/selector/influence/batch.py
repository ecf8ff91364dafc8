"""Batch-level influence, as in the paper: one gradient per k-centre cluster, its score for all members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.selector.base import FloatArray, IntArray
from meld.selector.cluster import k_centre_clusters
from meld.selector.costs import BACKWARD, Meter
from meld.selector.influence.base import check_scores
from meld.selector.influence.direction import check_damping, influence_direction
from meld.selector.influence.gradients import Gradients, mean_gradient
from meld.selector.influence.parallel import check_workers, map_batches
from meld.selector.influence.preconditioner import preconditioner as known_preconditioner
from meld.selector.losses import check_items


class BatchInfluence:
    """I(B) = -grad L(X)^T (H + lambda I)^-1 grad L(B), with L(B) the mean loss of a cluster (section V-C).

    Args:
        B: Most items of a cluster.
        damping: lambda of Eq. 8, in the unit of squared gradients, or ``auto`` (chosen on dev labels).
        preconditioner: ``one_sided`` (default), ``woodbury``, ``datainf``, ``hyperinf`` or ``identity``.
        max_warmup: Items of S'_init (its first picks) whose gradients estimate the curvature; this bounds memory and
            time.
        workers: Processes that share the batches; 1 works in this one. Execution only.
        max_tokens: Tokens of one batch; a cluster above it is read in parts.
        max_rows: Items of one batch.

    Raises:
        ConfigError: If the damping is not positive or the preconditioner unknown.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"workers", "max_tokens", "max_rows"})
    needs_model: ClassVar[bool] = True

    def __init__(
        self,
        B: int = 8,
        damping: float | str = 0.01,
        preconditioner: str = "one_sided",
        max_warmup: int = 512,
        workers: int = 1,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        known_preconditioner(preconditioner)
        self.B = B
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
        """See :class:`meld.selector.influence.base.Influence`.

        Raises:
            ConfigError: If B is below one.
            DataError: If the validation set or S'_init is empty, an item does not fit the window, or a gradient is not
                finite.
            UserError: If the proxy has no plain LoRA matrices.
        """
        meter = Meter() if meter is None else meter
        check_items(lm, pool, "pool")
        with meter.step("clusters"):
            clusters = k_centre_clusters(embeddings, self.B, initial)
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
        scores = np.zeros(len(pool))
        members = clusters.members()
        # The longest first, so that no process is left alone with it in the end.
        order = sorted(range(len(members)), key=lambda m: -sum(pool[int(i)].length for i in members[m]))
        with meter.step("gradients of the pool") as step:
            step.work(lm, pool, BACKWARD)
            step.stored_mb = 4e-6 * sum(part.numel() for part in direction.values())
            batches = [[pool[int(i)] for i in members[m]] for m in order]
            state = (direction, self.max_tokens, self.max_rows)
            found = map_batches(lm, _cluster_score, state, batches, self.workers)
        for index, score in zip(order, found, strict=True):
            scores[members[index]] = score[0]
        return check_scores(scores, "influence")


def _cluster_score(
    lm: LanguageModel, state: tuple[Gradients, int, int], items: Sequence[Encoded]
) -> NDArray[np.float64]:
    """The score of one cluster, shape (1,)."""
    direction, max_tokens, max_rows = state
    gradient = mean_gradient(lm, items, max_tokens, max_rows, "pool")
    return np.array([-sum(float((direction[name] * part).sum()) for name, part in gradient.items())])
