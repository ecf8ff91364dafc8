"""What an influence estimator is, and how its scores become the complexity term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import DataError
from meld.selector.base import FloatArray, IntArray
from meld.selector.costs import Meter


class Influence(Protocol):
    """An estimator of Eq. 8."""

    @property
    def needs_model(self) -> bool:
        """Whether a warmed-up proxy is needed; where false there is no influence term."""
        ...

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
        """I(z) of every pool item: negative lowers the validation loss.

        Args:
            lm: The proxy with its LoRA adapter, warmed up on ``initial``.
            pool: n items; ``options[0]`` is the label.
            validation: The task's few-shot set.
            initial: S'_init, positions in the pool in the order of picking.
            embeddings: Shape (n, d).
            dev: Labelled items outside ``validation``, which choose the damping where it is ``auto``.
            meter: Notes what each step takes.

        Returns:
            Shape (n,).
        """
        ...


def complexity(influence: FloatArray) -> FloatArray:
    """-I, rank-normalised into (0, 1]: the most helpful item scores 1; equal scores share their mean rank.

    Eq. 9 needs non-negative scores, and I as printed is negative for helpful items (method section 3).

    Args:
        influence: Shape (n,).

    Returns:
        Shape (n,).

    Raises:
        DataError: If a score is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(influence))
    if len(bad):
        raise DataError(
            f"The influence of {len(bad)} of {len(influence)} items is not a number; the first is item {bad[0]}.",
            fix="warm the proxy up with a lower learning rate, or raise the damping",
        )
    _, inverse, counts = np.unique(-np.asarray(influence), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2.0
    return np.asarray(mean_rank[inverse] / len(influence), dtype=np.float64)


def check_scores(scores: FloatArray, what: str) -> FloatArray:
    """Return scores that are all numbers; nothing is silently scored 0.

    Raises:
        DataError: Naming the first item whose score is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=tuple(range(1, scores.ndim))))
    if len(bad):
        raise DataError(
            f"The {what} of {len(bad)} of {len(scores)} items is not a number; the first is item {bad[0]}.",
            fix="load the proxy in float32 or bfloat16, or warm it up with a lower learning rate",
        )
    return scores
