"""What every selector takes and gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError, DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Features:
    """What is known about the items of a pool before any proxy model is trained.

    Attributes:
        embeddings: Shape (n, d), float32; per item the query's, its retrieved demonstrations' and its label's vector,
            concatenated. Shape (n, 0) for a selector with ``needs_features = False``.
        loss_cond: Shape (n,); the label's mean loss in nats per token with the demonstrations (log of Eq. 5); NaN where
            not measured.
        loss_prior: Shape (n,); the same without the demonstrations (log of Eq. 4).
        texts: The items' texts, for selectors with ``needs_texts``; else empty.
        target_texts: Texts of the target domain, for selectors with ``needs_texts``; else empty.

    Raises:
        DataError: If the parts differ in length.
    """

    embeddings: NDArray[np.float32]
    loss_cond: FloatArray
    loss_prior: FloatArray
    texts: Sequence[str] = ()
    target_texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = {
            "embeddings": len(self.embeddings),
            "loss_cond": len(self.loss_cond),
            "loss_prior": len(self.loss_prior),
        }
        if self.texts:
            lengths["texts"] = len(self.texts)
        if len(set(lengths.values())) > 1 or self.embeddings.ndim != 2:
            raise DataError(
                f"The features do not belong together: {lengths}, embeddings of shape {self.embeddings.shape}.",
                fix="compute all of them from the same pool",
            )

    @property
    def size(self) -> int:
        """Number of items in the pool."""
        return len(self.embeddings)

    @staticmethod
    def unmeasured(n: int, texts: Sequence[str] = (), target_texts: Sequence[str] = ()) -> Features:
        """A pool of n items without embeddings and losses, for selectors that need neither."""
        missing = np.full(n, np.nan)
        return Features(np.zeros((n, 0), np.float32), missing, missing, texts, target_texts)


@dataclass(frozen=True, eq=False)
class Selection:
    """What was selected, and why.

    Attributes:
        indices: Shape (n_select,), int64; positions in the pool in the order of picking.
        terms: By name an array of shape (n_select,), aligned with ``indices``: what the item added to each term, in
            the term's own unit, when it was picked; ``gain`` is the normalised, weighted sum that decided.
        factors: By term the one fixed number (weight times normalisation) its gains were multiplied by.
    """

    indices: IntArray
    terms: Mapping[str, FloatArray] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)


class Selector(Protocol):
    """A way to choose training data from a pool."""

    @property
    def needs_features(self) -> bool:
        """Whether ``Features.embeddings`` must be filled."""
        ...

    @property
    def needs_losses(self) -> bool:
        """Whether ``Features.loss_cond`` and ``loss_prior`` must be measured."""
        ...

    @property
    def needs_texts(self) -> bool:
        """Whether ``Features.texts`` and ``target_texts`` must be filled."""
        ...

    @property
    def needs_influence(self) -> bool:
        """Whether :meth:`pick` needs influence scores."""
        ...

    def size(self, n_pool: int) -> int:
        """How many of ``n_pool`` items are to be selected."""
        ...

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select.

        Args:
            features: The pool.
            influence: Shape (n,), Eq. 8 as printed (negative helps); None where ``needs_influence`` is false.
            n_select: How many.
            seed: Seeds whatever is random.
        """
        ...


def check_ratio(c: float, name: str = "c") -> float:
    """Return a selection ratio, or say why it is none.

    Raises:
        ConfigError: If it is not in (0, 1].
    """
    if not 0.0 < c <= 1.0:
        raise ConfigError(f"The selection ratio {name} is {c}; it must be in (0, 1].", where=name, fix=f"{name}=0.3")
    return float(c)


def budget(c: float, n_pool: int) -> int:
    """n_select = round(c * n), at least one (method section 3).

    Raises:
        DataError: If the pool is empty.
    """
    if n_pool < 1:
        raise DataError(
            "There is nothing to select from: the pool of augmented data is empty.",
            fix="loosen the annotator's threshold, add datasets, or train on the labels alone with selector=none",
        )
    return min(n_pool, max(1, round(c * n_pool)))


def check_budget(n_select: int, n_pool: int) -> None:
    """Check that a budget fits a pool.

    Raises:
        DataError: If the pool is empty, or the budget is below one or above the pool's size.
    """
    budget(1.0, n_pool)
    if not 1 <= n_select <= n_pool:
        raise DataError(f"Cannot select {n_select} of {n_pool} items.", fix=f"select between 1 and {n_pool}")
