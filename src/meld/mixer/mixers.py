"""``mixer=...``: what a weighted set of experts means.

A mixer decides two things, and no engine decides either: the *gates*, that is which experts answer a query with which
weights, and the *combination*, that is what becomes of the chosen experts' updates. The engine carries it out; those it
can carry out it names in ``MIXERS``, and a configuration that asks for another one is refused before any work.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from meld.mixer.combination import CAT, PEFT_METHODS, Combination, MajoritySign
from meld.mixer.gates import top_k_gates

Mixes = Literal["weights", "answers"]


class CatMixer:
    """The weighted sum of the LoRA updates: exactly PEFT's ``cat`` (rank k * r), whatever engine carries it out.

    Args:
        k: Experts per query.
        gate_levels: Steps of quantisation; 0 for none.
    """

    NAME: ClassVar[str] = "cat"
    mixes: Mixes = "weights"

    def __init__(self, k: int, gate_levels: int = 20) -> None:
        self.k = k
        self.gate_levels = gate_levels
        self.combination = CAT

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)


class SvdMixer:
    """The weighted sum of the updates, cut back to the rank r of one expert: the best approximation there is.

    Smaller than ``cat`` (the "same parameter size" of the papers) and lossy.

    Args:
        k: Experts per query.
        gate_levels: Steps of quantisation; 0 for none.
    """

    NAME: ClassVar[str] = "svd"
    mixes: Mixes = "weights"

    def __init__(self, k: int, gate_levels: int = 20) -> None:
        self.k = k
        self.gate_levels = gate_levels
        self.combination = Combination("svd")

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)


class LogitsMixer:
    """Mixes answers instead of weights: every chosen expert answers alone, their answer distributions are averaged.

    Args:
        k: Experts per query.
        gate_levels: Steps of quantisation; 0 for none.
    """

    NAME: ClassVar[str] = "logits"
    mixes: Mixes = "answers"

    def __init__(self, k: int, gate_levels: int = 20) -> None:
        self.k = k
        self.gate_levels = gate_levels
        self.combination = CAT

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)


class Top1Mixer:
    """Only the expert with the highest weight answers; nothing is mixed, whatever k says."""

    NAME: ClassVar[str] = "top1"
    mixes: Mixes = "weights"

    def __init__(self) -> None:
        self.combination = CAT

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """One-hot gates, shape (n, experts)."""
        return top_k_gates(weights, 1, 0)


class PeftMixer:
    """PEFT's other combination types, as PEFT computes them.

    None of them is the weighted sum of the updates, ``linear`` included: those without ``_svd`` combine all A and all B
    apart, with the square roots of the gates, and multiply the results, which brings in products of one expert's A with
    another one's B. Those with ``_svd`` combine the full updates and cut the result back to rank r; they build matrices
    of the size of the layer. A query that has one expert only gets that expert unchanged.

    Args:
        k: Experts per query.
        combination_type: One of :data:`meld.mixer.combination.PEFT_METHODS`.
        density: Share of the entries that pruning keeps, in (0, 1]; needed by every type but ``linear``.
        majority_sign_method: How ``ties`` elects signs: ``total`` | ``frequency``.
        gate_levels: Steps of quantisation; 0 for none.
        seed: Seeds what ``dare`` drops: the same mixture is the same in every batch and run.

    Raises:
        ValueError: For an unknown type or sign method, or a density that is missing or out of range.
    """

    NAME: ClassVar[str] = "peft"
    mixes: Mixes = "weights"

    def __init__(
        self,
        k: int,
        combination_type: str,
        density: float | None = None,
        majority_sign_method: MajoritySign = "total",
        gate_levels: int = 20,
        seed: int = 0,
    ) -> None:
        if combination_type not in PEFT_METHODS:
            raise ValueError(f"combination_type is {combination_type!r}; known are {', '.join(PEFT_METHODS)}")
        if majority_sign_method not in ("total", "frequency"):
            raise ValueError(f"majority_sign_method is {majority_sign_method!r}; known are total and frequency")
        if combination_type != "linear" and (density is None or not 0 < density <= 1):
            raise ValueError(f"density is {density}; {combination_type} prunes, and needs one in (0, 1]")
        self.k = k
        self.gate_levels = gate_levels
        self.combination = Combination(
            combination_type,
            None if combination_type == "linear" else density,
            majority_sign_method,
            seed if combination_type.startswith("dare") else 0,
        )

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts); see :func:`meld.mixer.gates.top_k_gates`."""
        return top_k_gates(weights, min(self.k, weights.shape[1]), self.gate_levels)
