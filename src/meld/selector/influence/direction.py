"""v = (H + lambda I)^-1 grad L(X): the part of Eq. 8 that is the same for every item of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError, DataError
from meld.selector.costs import BACKWARD, FORWARD, Meter
from meld.selector.influence.gradients import lora_matrices, mean_gradient, per_sample_gradients
from meld.selector.influence.perturb import moved
from meld.selector.influence.preconditioner import preconditioners, stored_bytes
from meld.selector.losses import label_losses

AUTO = "auto"
CANDIDATES = tuple(10.0**power for power in range(-6, 3))
"""Dampings that ``auto`` tries."""
_DROPS = (0.03, 0.1, 0.3)
"""Steps that ``auto`` tries along each direction: the share of the validation loss that should go, were it linear."""
_MOST_DEV = 64

DampingChoice = float | Literal["auto"]


def check_damping(damping: float | str) -> DampingChoice:
    """Return a damping, or say why it is none.

    Raises:
        ConfigError: If it is neither above 0 nor ``auto``.
    """
    if damping == AUTO:
        return "auto"
    if isinstance(damping, str) or not damping > 0.0:
        raise ConfigError(
            f"The damping is {damping}; it must be above 0, or auto.", where="damping", fix="damping=0.01"
        )
    return float(damping)


def influence_direction(
    lm: LanguageModel,
    validation: Sequence[Encoded],
    warmup: Sequence[Encoded],
    *,
    name: str,
    damping: DampingChoice,
    max_tokens: int,
    max_rows: int,
    dev: Sequence[Encoded] = (),
    meter: Meter | None = None,
) -> dict[str, Tensor]:
    """The preconditioned validation gradient.

    Args:
        lm: The warmed-up proxy with its adapter.
        validation: The few-shot set X.
        warmup: Items whose gradients estimate the curvature; they are streamed.
        name: The estimator, see :mod:`meld.selector.influence.preconditioner`.
        damping: lambda; ``auto`` chooses it by :func:`choose_damping`.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.
        dev: Labelled items outside X, read by ``auto`` alone.
        meter: Notes what it takes.

    Returns:
        Parameter name to v, shape (out, in).

    Raises:
        ConfigError: If the estimator is unknown.
        DataError: If the validation set or the warm-up set is empty, ``auto`` has no dev items, or a gradient is not
            finite.
        UserError: If the proxy has no plain LoRA matrices.
    """
    estimates = preconditioners(name)
    meter = Meter() if meter is None else meter
    lora_matrices(lm)
    with meter.step("gradient of the validation set") as step:
        step.work(lm, validation, BACKWARD)
        target = mean_gradient(lm, validation, max_tokens, max_rows, "validation set")
    dampings = CANDIDATES if damping == AUTO else (float(damping),)
    with meter.step("curvature and its inverse") as step:
        if name != "identity":
            step.work(lm, warmup, BACKWARD)
        step.stored_mb = stored_bytes(name, target, len(warmup)) / 1e6
        chunks = (chunk for _, chunk in per_sample_gradients(lm, warmup, max_tokens, max_rows, "warm-up set"))
        directions = estimates(target, chunks, dampings)
    best = 0
    if damping == AUTO:
        with meter.step("choice of the damping") as step:
            used = dev[:_MOST_DEV]
            step.work(lm, [*validation, *(list(used) * len(dampings) * len(_DROPS))], FORWARD)
            best = choose_damping(lm, target, directions, validation, used, max_tokens, max_rows)
    meter.notes["damping"] = dampings[best]
    return directions[best]


def choose_damping(
    lm: LanguageModel,
    target: dict[str, Tensor],
    directions: Sequence[dict[str, Tensor]],
    validation: Sequence[Encoded],
    dev: Sequence[Encoded],
    max_tokens: int,
    max_rows: int,
) -> int:
    """The direction along which a step lowers the loss of held-out labels most.

    An item is useful when a step on it lowers losses that nobody has trained on. Hence each direction v is judged by
    steps theta - s v, at lengths at which a linear validation loss would fall by given shares.

    Args:
        lm: The warmed-up proxy.
        target: grad L(X).
        directions: v for each candidate, smallest damping first.
        validation: X, whose loss sets the length of the steps.
        dev: Labelled items outside X.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.

    Returns:
        Position of the best direction; of equals the most damped.

    Raises:
        DataError: If there are no dev items.
    """
    if not dev:
        raise DataError("damping=auto chooses on dev labels, and this unit has none.", fix="damping=0.01")
    loss = float(label_losses(lm, validation, max_tokens, max_rows, "validation set").mean())
    found = []
    for direction in directions:
        slope = sum(float((target[name] * part).sum()) for name, part in direction.items())
        after = [np.inf]
        if slope > 0.0:
            for drop in _DROPS:
                with moved(lm, direction, -drop * loss / slope):
                    # A step too far may overflow: that candidate has lost, and the weights are restored.
                    try:
                        after.append(float(label_losses(lm, dev, max_tokens, max_rows, "dev set").mean()))
                    except DataError:
                        continue
        found.append(min(after))
    return max(index for index, value in enumerate(found) if value <= min(found) * (1.0 + 1e-9))
