"""Top-k gates: the k highest weights, renormalised and quantised so that mixtures repeat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k_gates(weights: NDArray[np.float64], k: int, levels: int) -> NDArray[np.float64]:
    """The k highest router weights of each query, renormalised to one and rounded to multiples of 1 / levels.

    Rounding is by largest remainder, so that gates still sum to exactly one; ties go to the expert that comes first.

    Args:
        weights: Shape (n, experts), non-negative rows.
        k: Experts per query.
        levels: Steps of quantisation; 0 for none.

    Returns:
        Shape (n, experts), rows that sum to one with at most k non-zero entries.

    Raises:
        ValueError: If k is less than one.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    gates = np.zeros_like(weights, dtype=np.float64)
    for row, weight in enumerate(weights):
        chosen = np.argsort(-weight, kind="stable")[:k]
        share = (
            weight[chosen] / weight[chosen].sum() if weight[chosen].sum() > 0 else np.full(len(chosen), 1 / len(chosen))
        )
        if levels:
            scaled = share * levels
            floor = np.floor(scaled + 1e-9)
            missing = round(float(levels - floor.sum()))
            order = np.argsort(-(scaled - floor), kind="stable")[:missing]
            floor[order] += 1
            share = floor / levels
        gates[row, chosen] = share
    return gates
