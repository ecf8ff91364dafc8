"""The set function that is maximised: a sum of terms, each multiplied by one fixed factor (Eqs. 7 and 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from meld.errors import ConfigError, DataError
from meld.selector.base import FloatArray, IntArray

NORMALIZATIONS = ("gains", "none")


@dataclass(frozen=True, eq=False)
class Quadratic:
    """A set function written as F(S) = sum_{j in S} linear_j - sum_{i,j in S} pairwise_ij.

    Attributes:
        linear: Shape (n,).
        pairwise: Shape (n, n), symmetric; None for zero.
    """

    linear: FloatArray
    pairwise: FloatArray | None


@dataclass(frozen=True, eq=False)
class LowRank:
    """A set function written as F(S) = sum_{j in S} linear_j - curvature * |sum_{j in S} u_j|^2 - offset * |S|^2.

    A graph cut over a linear kernel and modular terms have this form, for which no n x n matrix is needed.

    Attributes:
        linear: Shape (n,).
        vectors: u, shape (n, d); None for zero.
        curvature: At least 0.
        offset: Changes every gain alike, and so no pick.
    """

    linear: FloatArray
    vectors: FloatArray | None
    curvature: float
    offset: float


class Term(Protocol):
    """One set function over a pool of n items, with the items added so far.

    Attributes:
        n: Size of the pool.
        diminishing: Whether no gain can grow as the set grows (diminishing returns, Definition 5.1): what lazy
            evaluation relies on.
    """

    n: int
    diminishing: bool

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """What adding each candidate alone would add to :meth:`value`.

        Args:
            candidates: Shape (m,); all n items by default. Meaningless for items already added.

        Returns:
            Shape (m,).
        """
        ...

    def add(self, item: int) -> None:
        """Add an item to the set."""
        ...

    def value(self) -> float:
        """F of the items added so far."""
        ...

    def quadratic(self) -> Quadratic | None:
        """The same function in explicit form, which may be an n x n matrix; None where there is none."""
        ...

    def low_rank(self) -> LowRank | None:
        """The same function as sums of vectors; None where it is none."""
        ...


class Modular:
    """F(S) = sum of fixed scores: quality (Eq. 6) and complexity (Eq. 9).

    Args:
        scores: Shape (n,).
        name: What they are, for messages.

    Raises:
        DataError: If a score is not finite.
    """

    diminishing = True

    def __init__(self, scores: FloatArray, name: str = "score") -> None:
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise DataError(
                f"The {name} of {len(bad)} of {len(scores)} items is not a number; the first is item {bad[0]}.",
                fix="look at the item's text and at the proxy model's loss on it",
            )
        self.n = len(scores)
        self._scores = np.asarray(scores, dtype=np.float64)
        self._value = 0.0

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """The scores."""
        return self._scores.copy() if candidates is None else self._scores[candidates]

    def add(self, item: int) -> None:
        """Add an item."""
        self._value += float(self._scores[item])

    def value(self) -> float:
        """Sum of the scores added."""
        return self._value

    def quadratic(self) -> Quadratic:
        """Linear only."""
        return Quadratic(self._scores, None)

    def low_rank(self) -> LowRank:
        """Linear only."""
        return LowRank(self._scores, None, 0.0, 0.0)


def spread_factor(gains: FloatArray) -> float:
    """Inverse spread (standard deviation) of a term's singleton gains over the pool.

    A term that says the same of every single item has no spread to divide by; it is brought to size one instead, so
    that rounding errors are not blown up into preferences.

    Args:
        gains: Shape (n,), gains from the empty set.
    """
    spread, size = float(gains.std()), float(np.abs(gains).max())
    if spread > 1e-6 * size:
        return 1.0 / spread
    return 1.0 / size if size > 0.0 else 1.0


class Objective:
    """sum_t factor_t * F_t(S), with factor_t = weight_t times one normalisation that never changes.

    A factor that moved from step to step would break submodularity (method section 3).

    Args:
        terms: The terms by name, nothing added yet.
        weights: a_t by name; at least 0.
        normalize: ``gains`` (inverse spread of the singleton gains over the pool) or ``none`` (the formula as printed).

    Attributes:
        n: Size of the pool.
        factors: By name the fixed factor.
        picked: The items added, in order.
        history: By name what each added item added to the term, in the term's own unit.

    Raises:
        ConfigError: If a weight is negative or missing, or the normalisation is unknown.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float], normalize: str = "gains") -> None:
        if normalize not in NORMALIZATIONS:
            raise ConfigError(
                f"'{normalize}' is no normalisation.",
                where="selector.normalize",
                fix=f"one of {', '.join(NORMALIZATIONS)}",
            )
        if not terms:
            raise ConfigError(
                "The selection objective has no terms.", where="selector.terms", fix="name at least one term"
            )
        for name in terms:
            if weights.get(name, -1.0) < 0.0:
                raise ConfigError(
                    f"The term '{name}' needs a weight of at least 0.", where=f"selector.weights.{name}", fix="1.0"
                )
        self._terms = dict(terms)
        self.n = next(iter(self._terms.values())).n
        self.factors = {
            name: float(weights[name]) * (spread_factor(term.gains()) if normalize == "gains" else 1.0)
            for name, term in self._terms.items()
        }
        self.picked: list[int] = []
        self._added: set[int] = set()
        self.history: dict[str, list[float]] = {name: [] for name in self._terms}

    @property
    def diminishing(self) -> bool:
        """Whether no gain can grow as the set grows."""
        return all(term.diminishing for term in self._terms.values())

    def gains(self, candidates: IntArray | None = None) -> FloatArray:
        """Weighted gains of candidates, shape (m,); see :meth:`Term.gains`."""
        total = np.zeros(self.n if candidates is None else len(candidates))
        for name, term in self._terms.items():
            total += self.factors[name] * term.gains(candidates)
        return total

    def add(self, item: int) -> None:
        """Add an item and note what it added to each term.

        Raises:
            ValueError: If it was added before.
        """
        if item in self._added:
            raise ValueError(f"item {item} was added before")
        alone = np.array([item])
        for name, term in self._terms.items():
            self.history[name].append(float(term.gains(alone)[0]))
            term.add(item)
        self.picked.append(item)
        self._added.add(item)

    def value(self) -> float:
        """Weighted value of the items added so far."""
        return float(sum(self.factors[name] * term.value() for name, term in self._terms.items()))

    def quadratic(self) -> Quadratic | None:
        """The weighted sum in explicit form; None where a term has none."""
        linear = np.zeros(self.n)
        pairwise: FloatArray | None = None
        for name, term in self._terms.items():
            part = term.quadratic()
            if part is None:
                return None
            linear += self.factors[name] * part.linear
            if part.pairwise is not None:
                scaled = self.factors[name] * part.pairwise
                pairwise = scaled if pairwise is None else pairwise + scaled
        return Quadratic(linear, pairwise)

    def low_rank(self) -> LowRank | None:
        """The weighted sum as sums of vectors; None where a term has no such form, or two terms have vectors."""
        linear, vectors, curvature, offset = np.zeros(self.n), None, 0.0, 0.0
        for name, term in self._terms.items():
            part = term.low_rank()
            if part is None or (part.vectors is not None and vectors is not None):
                return None
            linear += self.factors[name] * part.linear
            offset += self.factors[name] * part.offset
            if part.vectors is not None:
                vectors, curvature = part.vectors, self.factors[name] * part.curvature
        return LowRank(linear, vectors, curvature, offset)

    def standing(self) -> dict[str, FloatArray]:
        """By term's name the gains of all items now, shape (n,), each in its term's own unit."""
        return {name: term.gains() for name, term in self._terms.items()}
