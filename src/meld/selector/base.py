"""What every selector takes and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError, DataError
from meld.selector.costs import Meter

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
        every: By name an array of shape (n,): what every item of the pool would add to the term after the last pick; a
            fixed score stays what it is. Empty where nothing was scored.
    """

    indices: IntArray
    terms: Mapping[str, FloatArray] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    every: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Material:
    """What a selector may use to score a pool with a model.

    Attributes:
        features: The pool.
        pool: Its n items under the proxy; ``options[0]`` is the label.
        validation: The task's few-shot set.
        dev: Labelled items that are in neither.
        texts: Renders the pool's items with their labels, for models with another tokenizer than the proxy.
        attach: Puts a fresh, trainable adapter on the proxy for the length of a block.
        warm_up: The same with an adapter trained as experts are, on items of the pool given by position; at most so
            many of them (None for all).
        seed: Seeds whatever is random.
        meter: Notes what each step takes.
    """

    features: Features
    pool: Sequence[Encoded]
    validation: Sequence[Encoded]
    dev: Sequence[Encoded]
    texts: Callable[[], Sequence[str]]
    attach: Callable[[], AbstractContextManager[LanguageModel]]
    warm_up: Callable[[IntArray, int | None], AbstractContextManager[LanguageModel]]
    seed: int
    meter: Meter


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
        """Whether :meth:`pick` needs scores that take a model: those of :class:`ScoringSelector`."""
        ...

    def size(self, n_pool: int) -> int:
        """How many of ``n_pool`` items are to be selected."""
        ...

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select.

        Args:
            features: The pool.
            influence: Shape (n,), what ``score`` returned; None where ``needs_influence`` is false.
            n_select: How many.
            seed: Seeds whatever is random.
        """
        ...


@runtime_checkable
class MeasuringSelector(Selector, Protocol):
    """A selector with ``needs_losses``: it says which ones."""

    def measure(
        self, lm: LanguageModel, with_demonstrations: Sequence[Encoded], without: Sequence[Encoded]
    ) -> tuple[FloatArray, FloatArray]:
        """Losses of the labels, (loss_cond, loss_prior), each of shape (n,), nats per token.

        Args:
            lm: The proxy model, not warmed up.
            with_demonstrations: n items; ``options[0]`` is the label.
            without: The same items without demonstrations.
        """
        ...


@runtime_checkable
class ScoringSelector(Selector, Protocol):
    """A selector with ``needs_influence``: it scores the pool with a model."""

    def score(self, material: Material) -> FloatArray:
        """A score of every item, shape (n,), in the selector's own sense; handed to :meth:`pick`."""
        ...


def best_scored(scores: FloatArray | None, n_pool: int, n_select: int, name: str) -> Selection:
    """The items with the highest scores; of equals the first.

    Args:
        scores: Shape (n,).
        n_pool: n.
        n_select: How many.
        name: What the scores are called in reports.

    Raises:
        DataError: If the budget does not fit the pool, or scores are missing, of another pool, or not finite.
    """
    check_budget(n_select, n_pool)
    known = check_scored(scores, n_pool, name)
    indices = np.argsort(-known, kind="stable")[:n_select].astype(np.int64)
    return Selection(indices, {name: known[indices]}, every={name: known})


def check_scored(scores: FloatArray | None, n_pool: int, name: str) -> FloatArray:
    """Return the scores of a pool, or say why they are none.

    Raises:
        DataError: If scores are missing, of another pool, or not finite.
    """
    if scores is None or len(scores) != n_pool:
        got = "none" if scores is None else str(len(scores))
        raise DataError(
            f"Selection needs a score ({name}) for each of the {n_pool} items; there are {got}.",
            fix="compute them with the same pool",
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"The score ({name}) of {len(bad)} of {len(scores)} items is not a number; the first is item {bad[0]}.",
            fix="look at the item's text, and load the model in float32 or bfloat16",
        )
    return np.asarray(scores, dtype=np.float64)


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
