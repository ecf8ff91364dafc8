"""How the updates of the chosen experts become one update: the part of a mixer that an engine carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from meld.store.keys import digest

MajoritySign = Literal["total", "frequency"]

PEFT_METHODS: tuple[str, ...] = (
    "linear",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune_svd",
)
"""Combination types of PEFT's ``add_weighted_adapter`` that are passed through; ``cat`` and ``svd`` are our own."""


@dataclass(frozen=True)
class Combination:
    """What a weighted set of updates B_e A_e means.

    Attributes:
        method: ``cat``: their weighted sum, exactly. ``svd``: its best approximation of an expert's own rank. Otherwise
            one of :data:`PEFT_METHODS`.
        density: Share of the entries that pruning keeps, in (0, 1]; None for methods that do not prune.
        majority_sign: How ``ties`` elects the sign of an entry: by the sum of the values, or by counting signs.
        seed: Seeds what ``dare`` drops.
    """

    method: str = "cat"
    density: float | None = None
    majority_sign: MajoritySign = "total"
    seed: int = 0


CAT = Combination()
"""The weighted sum of the updates; with one-hot gates, one expert alone."""


def mixture_name(shares: Sequence[tuple[str, float]], combination: Combination) -> str:
    """A name that is the same for the same mixture and for no other one.

    PEFT silently keeps an adapter whose name is taken, so that a name must never mean two things.

    Args:
        shares: Identity (a digest of its weights) and gate of each expert with a gate above zero, in any order.
        combination: How they are combined.
    """
    ordered = sorted((name, round(float(gate), 9)) for name, gate in shares)
    how = (combination.method, combination.density, combination.majority_sign, combination.seed)
    return f"mix_{digest(ordered, how)}"


def best_of_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of B A of a given rank, in the Frobenius norm, from its thin factors (Eckart-Young).

    With QR of both factors, B = Q_B R_B and A^T = Q_A R_A, the update is Q_B (R_B R_A^T) Q_A^T, and the singular values
    of the m x m core are those of the whole matrix: no matrix of the size of the layer is built.

    Args:
        a: Shape (m, d_in), for a mixture of k experts m = k * r.
        b: Shape (d_out, m).
        rank: Rank of the result, at most m.

    Returns:
        A of shape (rank, d_in) and B of shape (d_out, rank), in the number format they came in.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = s[:rank].sqrt()
    thin_a, thin_b = (root[:, None] * vh[:rank]) @ q_a.T, q_b @ (u[:, :rank] * root)
    return thin_a.to(a.dtype).contiguous(), thin_b.to(b.dtype).contiguous()
