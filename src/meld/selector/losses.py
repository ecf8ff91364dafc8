"""Measuring the loss of labels under a language model, batched by length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from meld.backbone.language_model import Encoded, LanguageModel, batches_by_length
from meld.backbone.lora import label_nll
from meld.errors import DataError
from meld.selector.base import FloatArray


def check_items(lm: LanguageModel, items: Sequence[Encoded], what: str) -> None:
    """Check that every item has a prompt and a label and fits the model's window.

    Args:
        lm: The model.
        items: ``options[0]`` is the label.
        what: What the items are, for messages.

    Raises:
        DataError: Naming the first item that does not.
    """
    window = getattr(getattr(lm.model, "config", None), "max_position_embeddings", None)
    for index, item in enumerate(items):
        if not item.prompt or not item.options or not item.options[0]:
            raise DataError(f"Item {index} of the {what} has no prompt or no label.", fix="drop it, or label it")
        length = len(item.prompt) + len(item.options[0])
        if window is not None and length > window:
            raise DataError(
                f"Item {index} of the {what} takes {length} tokens, and {lm.name} reads {window}.",
                fix=f"lower the serializer's max_prompt_tokens; the label alone takes {len(item.options[0])} tokens",
            )


def length_batches(items: Sequence[Encoded], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Batches of indices of similar total length (prompt and label)."""
    return batches_by_length([len(item.prompt) + len(item.options[0]) for item in items], max_tokens, max_rows)


@torch.no_grad()
def label_losses(
    lm: LanguageModel, items: Sequence[Encoded], max_tokens: int = 8192, max_rows: int = 64, what: str = "pool"
) -> FloatArray:
    """Mean negative log-likelihood per label token (log of Eqs. 4 and 5), with dropout off.

    Args:
        lm: The model.
        items: ``options[0]`` is the label.
        max_tokens: Tokens of one batch, padding included.
        max_rows: Items of one batch.
        what: What the items are, for messages.

    Returns:
        Shape (n,), in nats per token.

    Raises:
        DataError: If an item does not fit the window, or its loss is not finite.
    """
    check_items(lm, items, what)
    losses = np.full(len(items), np.nan)
    training = lm.model.training
    lm.model.eval()
    try:
        for batch in length_batches(items, max_tokens, max_rows):
            losses[batch] = label_nll(lm, [items[index] for index in batch]).double().cpu().numpy()
    finally:
        lm.model.train(training)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise DataError(
            f"The loss of {len(bad)} of {len(items)} items of the {what} is not a number; the first is item {bad[0]}.",
            fix="load the proxy in float32 or bfloat16, and check its weights",
        )
    return losses
