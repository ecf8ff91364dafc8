"""v = (H + lambda I)^-1 grad L(X): the part of Eq. 8 that is the same for every item of a pool."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError
from meld.selector.influence.gradients import lora_matrices, mean_gradient, per_sample_gradients
from meld.selector.influence.preconditioner import preconditioner


def check_damping(damping: float) -> float:
    """Return a damping, or say why it is none.

    Raises:
        ConfigError: If it is not above 0.
    """
    if not damping > 0.0:
        raise ConfigError(f"The damping is {damping}; it must be above 0.", where="damping", fix="damping=0.01")
    return float(damping)


def influence_direction(
    lm: LanguageModel,
    validation: Sequence[Encoded],
    warmup: Sequence[Encoded],
    *,
    name: str,
    damping: float,
    max_tokens: int,
    max_rows: int,
) -> dict[str, Tensor]:
    """The preconditioned validation gradient.

    Args:
        lm: The warmed-up proxy with its adapter.
        validation: The few-shot set X.
        warmup: Items whose gradients estimate the curvature; they are streamed.
        name: The estimator, see :mod:`meld.selector.influence.preconditioner`.
        damping: lambda.
        max_tokens: Tokens of one batch.
        max_rows: Items of one batch.

    Returns:
        Parameter name to v, shape (out, in).

    Raises:
        ConfigError: If the estimator is unknown.
        DataError: If the validation set or the warm-up set is empty, or a gradient is not finite.
        UserError: If the proxy has no plain LoRA matrices.
    """
    estimate = preconditioner(name)
    lora_matrices(lm)
    target = mean_gradient(lm, validation, max_tokens, max_rows, "validation set")
    chunks = (chunk for _, chunk in per_sample_gradients(lm, warmup, max_tokens, max_rows, "warm-up set"))
    return estimate(target, chunks, damping)
