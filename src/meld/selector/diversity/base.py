"""What a diversity term is, and the similarities it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError, DataError
from meld.selector.base import FloatArray
from meld.selector.objective import Term

_BLOCK = 4096
KERNELS = ("shifted_cosine", "cosine_clamped", "rbf", "cosine")


class Diversity(Protocol):
    """A recipe for a diversity term."""

    def start(self, embeddings: NDArray[np.float32]) -> Term:
        """The term over a pool, with nothing selected.

        Args:
            embeddings: Shape (n, d); the whole pool is also the ground truth that is to be represented.
        """
        ...


@dataclass(frozen=True)
class Kernel:
    """A symmetric similarity w_ij that depends on the cosine alone.

    Attributes:
        of_cosine: Maps an array of cosines to similarities.
        affine: (offset, slope) where w = offset + slope * cosine, which is linear in an augmented vector and needs no
            n x n matrix; else None.
        non_negative: Whether w >= 0 always, which Theorem 5 needs.
    """

    of_cosine: Callable[[FloatArray], FloatArray]
    affine: tuple[float, float] | None
    non_negative: bool


def make_kernel(name: str, gamma: float = 1.0) -> Kernel:
    """A kernel by name.

    Args:
        name: ``shifted_cosine`` = (1 + cos) / 2; ``cosine_clamped`` = max(cos, 0); ``rbf`` = exp(-gamma |u - v|^2) of
            unit vectors; ``cosine`` as printed below Eq. 3, which can be negative, so that Theorem 5 does not hold for
            it.
        gamma: Width of ``rbf``.

    Raises:
        ConfigError: If there is no such kernel, or gamma is not positive.
    """
    if name == "shifted_cosine":
        return Kernel(lambda cosine: 0.5 + 0.5 * cosine, (0.5, 0.5), True)
    if name == "cosine":
        return Kernel(lambda cosine: cosine, (0.0, 1.0), False)
    if name == "cosine_clamped":
        return Kernel(lambda cosine: np.maximum(cosine, 0.0), None, True)
    if name == "rbf":
        if gamma <= 0.0:
            raise ConfigError(
                f"The kernel's gamma is {gamma}; it must be above 0.", where="selector.diversity.gamma", fix="1.0"
            )
        return Kernel(lambda cosine: np.exp(-2.0 * gamma * (1.0 - cosine)), None, True)
    raise ConfigError(
        f"There is no kernel '{name}'.", where="selector.diversity.kernel", fix=f"one of {', '.join(KERNELS)}"
    )


def unit_rows(embeddings: NDArray[np.floating]) -> FloatArray:
    """Rows scaled to length one, in double precision; a row of zeros stays one (its cosine with everything is 0).

    Args:
        embeddings: Shape (n, d).

    Returns:
        Shape (n, d).

    Raises:
        DataError: If the pool is empty or a value is not finite.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise DataError(
            f"Diversity needs embeddings of shape (n, d), and got {embeddings.shape}.", fix="embed the pool first"
        )
    rows = embeddings.astype(np.float64)
    bad: list[int] = []
    for at in range(0, len(rows), _BLOCK):  # in blocks: a pool of a million items leaves no room for copies
        block = rows[at : at + _BLOCK]
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        bad += (at + np.flatnonzero(~np.isfinite(lengths[:, 0]))).tolist()
        block /= np.where(lengths > 0.0, lengths, 1.0)
    if bad:
        raise DataError(
            f"The embedding of {len(bad)} of {len(rows)} items is not finite; the first is item {bad[0]}.",
            fix="look at the item's text; train the encoder with a lower learning rate if all are affected",
        )
    return rows
