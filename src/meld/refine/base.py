"""What every refiner decides, and what it may draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meld.types import Sample


@dataclass(frozen=True, eq=False)
class Measured:
    """What selection measured of other units' pools.

    Attributes:
        places: Shape (p,), positions in ``Material.others``.
        embeddings: Shape (p, d), as diversity reads them.
        quality: Shape (p,), f of Eq. 6; zeros where no losses are measured.
    """

    places: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    quality: NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """What an expert can be refined on.

    Attributes:
        own: X_aug of the unit (or what selection kept of it, few-shot samples always included).
        own_vectors: Shape (n, d), their query vectors.
        others: X_aug of the other units, which is where cross-task and cross-domain samples come from.
        other_vectors: Shape (m, d).
        target: Shape (t, d), vectors of the few-shot training samples: what the unit is about.
        measured: What selection measured of the others' pools; None where it measured nothing.
    """

    own: Sequence[Sample]
    own_vectors: NDArray[np.float32]
    others: Sequence[Sample]
    other_vectors: NDArray[np.float32]
    target: NDArray[np.float32]
    measured: Measured | None = None


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        samples: What is trained on.
        added: How many of them come from other units (Delta X).
        report: Numbers about the round.
    """

    samples: tuple[Sample, ...]
    added: int
    report: Mapping[str, Any]


class Refiner(Protocol):
    """A way to refine."""

    epochs: int
    lr_factor: float
    start: str
    """``init`` continues the initial expert, ``fresh`` starts anew."""

    def rounds(self, material: Material, seed: int) -> list[Round]:
        """The rounds of training, in order; empty keeps the initial expert as it is.

        Args:
            material: What can be trained on.
            seed: Seeds every draw.
        """
        ...


def relevant_not_redundant(
    pool: NDArray[np.float32], target: NDArray[np.float32], own: NDArray[np.float32], size: int, mu: float
) -> list[int]:
    """Delta X: samples that are relevant to the task and tell something new (the *min* of Eq. 1).

    Greedy by (cosine to the task's centroid) - mu * (mean cosine to X) - mu * (highest cosine to what is chosen).

    Args:
        pool: Shape (m, d), unit vectors to choose from.
        target: Shape (t, d), unit vectors of the few-shot samples.
        own: Shape (n, d), unit vectors of X.
        size: How many to choose.
        mu: Weight of redundancy.

    Returns:
        Indices into the pool in the order of choosing.
    """
    if not len(pool) or size <= 0 or not len(target):
        return []
    centroid = target.mean(axis=0)
    centroid = centroid / max(float(np.linalg.norm(centroid)), 1e-12)
    base = pool @ centroid - mu * (pool @ own.mean(axis=0) if len(own) else 0.0)
    nearest = np.zeros(len(pool), dtype=np.float32)
    free = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(size, len(pool))):
        gain = np.where(free, base - mu * nearest, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, pool @ pool[best])
    return chosen


def info_nce(left: NDArray[np.float32], right: NDArray[np.float32], tau: float) -> float:
    """InfoNCE: a lower bound of the mutual information of paired vectors, in nats; it cannot exceed log N.

    Args:
        left: Shape (N, d), unit vectors.
        right: Shape (N, d), row i belongs to row i of ``left``.
        tau: Temperature of the critic.
    """
    scores = (left @ right.T).astype(np.float64) / tau
    top = scores.max(axis=1, keepdims=True)
    log_total = top[:, 0] + np.log(np.exp(scores - top).mean(axis=1))
    return float(np.mean(np.diag(scores) - log_total))


def club(left: NDArray[np.float32], right: NDArray[np.float32], tau: float) -> float:
    """Sampled CLUB with the critic <x, y> / tau: positive pairs minus all pairs; an upper bound if the critic is exact.

    Args:
        left: Shape (N, d), unit vectors.
        right: Shape (N, d), row i belongs to row i of ``left``.
        tau: Temperature of the critic.
    """
    scores = (left @ right.T).astype(np.float64) / tau
    return float(np.mean(np.diag(scores)) - scores.mean())
