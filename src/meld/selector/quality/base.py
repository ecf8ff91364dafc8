"""What a quality term is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from meld.backbone.language_model import Encoded, LanguageModel
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


@runtime_checkable
class MeasuredQuality(Quality, Protocol):
    """A quality term with ``needs_losses``: it knows how to measure them."""

    def measure(
        self, lm: LanguageModel, with_demonstrations: Sequence[Encoded], without: Sequence[Encoded]
    ) -> tuple[FloatArray, FloatArray]:
        """Losses of the labels.

        Args:
            lm: The proxy model, not warmed up.
            with_demonstrations: n items; ``options[0]`` is the label.
            without: The same items without demonstrations.

        Returns:
            (loss_cond, loss_prior), each of shape (n,), nats per token.
        """
        ...
