"""SuperFilter: instruction-following difficulty under a small model (Li et al., 2024).

IFD = PPL(answer | instruction) / PPL(answer). Near 0 the instruction says everything about the answer; above 1 it makes
the answer less likely, which speaks of a pair that does not belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import DataError
from meld.selector.base import Features, FloatArray, Selection, best_scored, budget, check_ratio
from meld.selector.losses import label_losses


class SuperFilter:
    """Takes the hardest items whose IFD is below 1; if they are too few, then those above, the least odd first.

    The instruction is the prompt as experts read it. Without it, the answer's first token is predicted from the
    start-of-sequence token alone (from the end-of-sequence token where the tokenizer has no other).

    Args:
        c: Share of the pool to select.
        max_tokens: Tokens of one batch of the measurement.
        max_rows: Items of one batch.

    Raises:
        ConfigError: If ``c`` is not in (0, 1].
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"max_tokens", "max_rows"})
    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = True
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = False

    def __init__(self, c: float, max_tokens: int = 8192, max_rows: int = 64) -> None:
        self.c = check_ratio(c)
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def measure(
        self, lm: LanguageModel, with_demonstrations: Sequence[Encoded], without: Sequence[Encoded]
    ) -> tuple[FloatArray, FloatArray]:
        """Losses of the answers with the whole prompt, and with no prompt at all; shape (n,) each, nats per token.

        Raises:
            DataError: If an item does not fit the window, or a loss is not finite.
        """
        del without
        start = lm.start_ids or (lm.end_id,)
        alone = [Encoded(start, item.options[:1]) for item in with_demonstrations]
        prior = label_losses(lm, alone, self.max_tokens, self.max_rows, "pool (answers alone)")
        return label_losses(lm, with_demonstrations, self.max_tokens, self.max_rows, "pool"), prior

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select by IFD; reads only the losses.

        Raises:
            DataError: If the budget does not fit the pool, or a loss is missing.
        """
        del influence, seed
        # In log space: IFD itself overflows where an answer alone is nearly certain.
        log_ifd = features.loss_cond - features.loss_prior
        if not np.isfinite(log_ifd).all():
            raise DataError(
                "The losses of some items are not numbers.", fix="measure both losses of every item before selecting"
            )
        ranked = np.where(log_ifd < 0.0, log_ifd, -1e9 - log_ifd)
        chosen = best_scored(ranked, features.size, n_select, "log_ifd").indices
        return Selection(chosen, {"log_ifd": log_ifd[chosen]}, every={"log_ifd": log_ifd})
