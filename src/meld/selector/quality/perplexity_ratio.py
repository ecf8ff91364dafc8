"""Perplexity ratio (Eqs. 4 to 6): how much the demonstrations help a small model to write the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import DataError
from meld.selector.base import FloatArray
from meld.selector.losses import label_losses

_EQUAL = 1e-6  # nats: an item without demonstrations has ratio 1, whatever batch it was measured in


def ratio_scores(loss_cond: FloatArray, loss_prior: FloatArray) -> FloatArray:
    """f(r) = r where 0 <= r <= 1, else 0, with r = PPL_cond / PPL_prior = exp(loss_cond - loss_prior)  (Eq. 6).

    Computed in log space: neither perplexity is ever formed.

    Args:
        loss_cond: Shape (n,), nats per token.
        loss_prior: Shape (n,), nats per token.

    Returns:
        Shape (n,), in [0, 1].

    Raises:
        DataError: If a loss is not finite.
    """
    difference = np.asarray(loss_cond, np.float64) - np.asarray(loss_prior, np.float64)
    bad = np.flatnonzero(~np.isfinite(difference))
    if len(bad):
        raise DataError(
            f"The losses of {len(bad)} of {len(difference)} items are not numbers; the first is item {bad[0]}.",
            fix="measure both losses of every item before selecting",
        )
    return np.where(difference <= _EQUAL, np.exp(np.minimum(difference, 0.0)), 0.0)


class PerplexityRatio:
    """F_qual of Eq. 6, and the measurement of its two losses.

    Args:
        max_tokens: Tokens of one batch of the measurement.
        max_rows: Items of one batch.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"max_tokens", "max_rows"})
    needs_losses: ClassVar[bool] = True

    def __init__(self, max_tokens: int = 8192, max_rows: int = 64) -> None:
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def measure(
        self, lm: LanguageModel, with_demonstrations: Sequence[Encoded], without: Sequence[Encoded]
    ) -> tuple[FloatArray, FloatArray]:
        """Losses of the labels with and without the retrieved demonstrations (logs of Eqs. 5 and 4).

        An item whose two prompts are the same (nothing was retrieved) is read once.

        Args:
            lm: The proxy model, not warmed up.
            with_demonstrations: n items; ``options[0]`` is the label.
            without: The same items without demonstrations.

        Returns:
            (loss_cond, loss_prior), each of shape (n,).

        Raises:
            DataError: If the lists differ in length or label, an item does not fit the window, or a loss is not finite.
        """
        if len(with_demonstrations) != len(without):
            raise DataError(f"{len(with_demonstrations)} items with demonstrations, but {len(without)} without.")
        for index, (left, right) in enumerate(zip(with_demonstrations, without, strict=True)):
            if left.options[:1] != right.options[:1]:
                raise DataError(f"Item {index} has another label with its demonstrations than without.")
        prior = label_losses(lm, without, self.max_tokens, self.max_rows, "pool (without demonstrations)")
        differs = [index for index, item in enumerate(with_demonstrations) if item.prompt != without[index].prompt]
        cond = prior.copy()
        cond[differs] = label_losses(
            lm,
            [with_demonstrations[index] for index in differs],
            self.max_tokens,
            self.max_rows,
            "pool (with demonstrations)",
        )
        return cond, prior

    def scores(self, loss_cond: FloatArray, loss_prior: FloatArray) -> FloatArray:
        """f of Eq. 6, shape (n,); see :func:`ratio_scores`."""
        return ratio_scores(loss_cond, loss_prior)
