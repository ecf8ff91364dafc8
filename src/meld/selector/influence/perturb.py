"""Moving a proxy's adapter a step along a direction, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import lora_parameters


@contextmanager
def moved(lm: LanguageModel, direction: Mapping[str, Tensor], size: float) -> Iterator[None]:
    """theta + size * direction for the length of a block; afterwards the very same weights as before.

    Args:
        lm: The proxy with its adapter.
        direction: Parameter name to a tensor of its shape; parameters not named stay.
        size: Factor of the direction.
    """
    parameters = lora_parameters(lm)
    kept = {name: parameters[name].detach().clone() for name in direction}
    try:
        with torch.no_grad():
            for name, step in direction.items():
                parameters[name].add_(step.to(parameters[name].dtype), alpha=size)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def length(direction: Mapping[str, Tensor]) -> float:
    """Euclidean length over all parameters."""
    return float(sum(float(part.double().square().sum()) for part in direction.values()) ** 0.5)
