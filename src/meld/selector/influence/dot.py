"""Exact influence of every single item, at the cost of one batched backward pass over the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.selector.base import FloatArray, IntArray
from meld.selector.influence.direction import check_damping, influence_direction
from meld.selector.influence.gradients import gradient_products
from meld.selector.influence.preconditioner import preconditioner as known_preconditioner


class DotInfluence:
    """I(z) = -<v, grad L(z)> with v = (H + lambda I)^-1 grad L(X) fixed, by layer-wise products (Eq. 8, per sample).

    Args:
        damping: lambda of Eq. 8, in the unit of squared gradients.
        preconditioner: ``one_sided`` (default), ``woodbury``, ``datainf``, ``hyperinf`` or ``identity``.
        max_warmup: Items of S'_init (its first picks) whose gradients estimate the curvature; this bounds memory and
            time.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.

    Raises:
        ConfigError: If the damping is not positive or the preconditioner unknown.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"max_tokens", "max_rows"})
    needs_model: ClassVar[bool] = True

    def __init__(
        self,
        damping: float = 0.01,
        preconditioner: str = "one_sided",
        max_warmup: int = 512,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        known_preconditioner(preconditioner)
        self.damping = check_damping(damping)
        self.preconditioner = preconditioner
        self.max_warmup = max_warmup
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def scores(
        self,
        lm: LanguageModel,
        pool: Sequence[Encoded],
        validation: Sequence[Encoded],
        initial: IntArray,
        embeddings: NDArray[np.float32],
    ) -> FloatArray:
        """See :class:`meld.selector.influence.base.Influence`; the embeddings are not read.

        Raises:
            DataError: If the validation set or S'_init is empty, an item does not fit the window, or a gradient is not
                finite.
            UserError: If the proxy has no plain LoRA matrices.
        """
        del embeddings
        direction = influence_direction(
            lm,
            validation,
            [pool[int(index)] for index in initial[: self.max_warmup]],
            name=self.preconditioner,
            damping=self.damping,
            max_tokens=self.max_tokens,
            max_rows=self.max_rows,
        )
        scores = np.zeros(len(pool))
        for batch, products in gradient_products(lm, pool, direction, self.max_tokens, self.max_rows, "pool"):
            scores[batch] = -products.double().cpu().numpy()
        return scores
