"""What a quality term is."""

from __future__ import annotations

from typing import Protocol

from meld.selector.base import FloatArray


class Quality(Protocol):
    """A score per item from its losses."""

    @property
    def needs_losses(self) -> bool:
        """Whether the losses must be measured."""
        ...

    def scores(self, loss_cond: FloatArray, loss_prior: FloatArray) -> FloatArray:
        """Score items.

        Args:
            loss_cond: Shape (n,); the label's loss with demonstrations, nats per token.
            loss_prior: Shape (n,); without.

        Returns:
            Shape (n,), at least 0.
        """
        ...
