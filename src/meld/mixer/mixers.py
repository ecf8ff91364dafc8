"""``mixer=cat|logits|top1``: what a weighted set of experts means."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meld.mixer.gates import top_k_gates


class CatMixer:
    """The weighted sum of the LoRA updates: exactly PEFT's ``cat`` (rank k * r), whatever engine carries it out.

    Args:
        k: Experts per query.
        gate_levels: Steps of quantisation; 0 for none.
    """

    mixes: Literal["weights", "answers"] = "weights"

    def __init__(self, k: int, gate_levels: int = 20) -> None:
        self.k = k
        self.gate_levels = gate_levels

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)


class LogitsMixer:
    """Mixes answers instead of weights: every chosen expert answers alone, their answer distributions are averaged.

    Args:
        k: Experts per query.
        gate_levels: Steps of quantisation; 0 for none.
    """

    mixes: Literal["weights", "answers"] = "answers"

    def __init__(self, k: int, gate_levels: int = 20) -> None:
        self.k = k
        self.gate_levels = gate_levels

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)


class Top1Mixer:
    """Only the expert with the highest weight answers; nothing is mixed, whatever k says."""

    mixes: Literal["weights", "answers"] = "weights"

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """One-hot gates, shape (n, experts)."""
        return top_k_gates(weights, 1, 0)
