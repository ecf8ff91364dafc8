"""Gradients of label losses over the LoRA parameters: summed, per sample, or only their product with a fixed direction.

A linear layer y = W x has the per-sample gradient sum_t delta_t x_t^T, with delta the gradient of that sample's loss
at y. One forward and one backward over a batch give x and delta of every sample, so that nothing is computed sample by
sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import label_nll, lora_parameters
from meld.errors import DataError, UserError
from meld.selector.losses import check_items, length_batches

Gradients = dict[str, Tensor]
"""Parameter name to gradient: (out, in) for one, (batch, out, in) for per-sample gradients; float32."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One use of a LoRA matrix in a pass: x of shape (batch, tokens, in), delta of shape (batch, tokens, out)."""

    name: str
    x: Tensor
    delta: Tensor


@contextmanager
def _evaluating(lm: LanguageModel) -> Iterator[None]:
    """Gradients on and dropout off, so that scores are deterministic."""
    training = lm.model.training
    lm.model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        lm.model.train(training)


def lora_matrices(lm: LanguageModel) -> dict[str, nn.Linear]:
    """The trainable linear layers by the name of their weight.

    Raises:
        UserError: If nothing is trainable, or something other than the weight of a linear layer is.
    """
    parameters = lora_parameters(lm)
    if not parameters:
        raise UserError(
            f"{lm.name} has no trainable LoRA parameters, so there is no gradient to measure influence with.",
            where="proxy.lora_targets",
            fix="name linear layers of this architecture",
        )
    layers = {
        f"{name}.weight": module
        for name, module in lm.model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in parameters
    }
    odd = sorted(set(parameters) - set(layers))
    if odd:
        raise UserError(
            f"Influence covers plain LoRA matrices; {len(odd)} other parameters are trainable, e.g. {odd[0]}.",
            where="proxy",
            fix="use plain LoRA on linear layers, without trained biases or embeddings",
        )
    return layers


def mean_gradient(lm: LanguageModel, items: Sequence[Encoded], max_tokens: int, max_rows: int, what: str) -> Gradients:
    """Gradient of the mean label loss over all items.

    Args:
        lm: The proxy with its adapter.
        items: ``options[0]`` is the label.
        max_tokens: Tokens of one batch, padding included.
        max_rows: Items of one batch.
        what: What the items are, for messages.

    Returns:
        Parameter name to a tensor of shape (out, in).

    Raises:
        DataError: If there are no items, one does not fit the window, or a gradient is not finite.
    """
    if not items:
        raise DataError(f"The {what} is empty.", fix="give at least one labelled sample")
    check_items(lm, items, what)
    parameters = lora_parameters(lm)
    total = {name: torch.zeros(parameter.shape, device=parameter.device) for name, parameter in parameters.items()}
    with _evaluating(lm):
        for batch in length_batches(items, max_tokens, max_rows):
            loss = label_nll(lm, [items[index] for index in batch]).sum() / len(items)
            parts = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
            for name, part in zip(parameters, parts, strict=True):
                total[name] += part.float()
    if not all(bool(torch.isfinite(gradient).all()) for gradient in total.values()):
        raise DataError(
            f"The gradient of the {what} is not finite.", fix="warm the proxy up with a lower learning rate"
        )
    return total


def per_sample_gradients(
    lm: LanguageModel, items: Sequence[Encoded], max_tokens: int, max_rows: int, what: str
) -> Iterator[tuple[list[int], Gradients]]:
    """Exact gradient of every item's own label loss, batch by batch; only one batch is in memory.

    Args:
        lm: The proxy with its adapter.
        items: ``options[0]`` is the label.
        max_tokens: Tokens of one batch, padding included.
        max_rows: Items of one batch.
        what: What the items are, for messages.

    Yields:
        Indices of the batch's items, and parameter name to a tensor of shape (batch, out, in).

    Raises:
        DataError: If an item does not fit the window.
        UserError: If the proxy has no plain LoRA matrices.
    """
    for batch, calls in _traced_batches(lm, items, max_tokens, max_rows, what):
        gradients: Gradients = {}
        for call in calls:
            gradient = torch.einsum("bto,bti->boi", call.delta, call.x)
            gradients[call.name] = gradients[call.name] + gradient if call.name in gradients else gradient
        yield batch, gradients


def gradient_products(
    lm: LanguageModel, items: Sequence[Encoded], directions: Sequence[Mapping[str, Tensor]], what: str
) -> Tensor:
    """<direction, gradient of the item's own loss> for every item of one batch and every direction.

    Per matrix and one direction V the product is sum_t delta_t . (V x_t): exact, without forming any gradient. For
    several directions each item's gradient of one matrix at a time is formed once and multiplied with all of them.

    Args:
        lm: The proxy with its adapter.
        items: One batch; ``options[0]`` is the label.
        directions: For each, parameter name to V of shape (out, in).
        what: What the items are, for messages.

    Returns:
        Shape (batch, directions).

    Raises:
        DataError: If an item does not fit the window.
        UserError: If the proxy has no plain LoRA matrices.
    """
    total = torch.zeros((len(items), len(directions)), device=lm.device)
    for batch, calls in _traced_batches(lm, items, 1 << 62, len(items), what):
        rows = torch.tensor(batch, device=lm.device)
        for call in calls:
            if len(directions) == 1:
                products = ((call.x @ directions[0][call.name].T) * call.delta).sum(dim=(1, 2))[:, None]
            else:
                gradient = torch.einsum("bto,bti->boi", call.delta, call.x).flatten(1)
                stacked = torch.stack([direction[call.name].flatten() for direction in directions])
                products = gradient @ stacked.T
            total[rows] += products
    return total


def _traced_batches(
    lm: LanguageModel, items: Sequence[Encoded], max_tokens: int, max_rows: int, what: str
) -> Iterator[tuple[list[int], list[_Call]]]:
    """Run forward and backward per batch and give back x and delta of every use of a LoRA matrix, in float32."""
    check_items(lm, items, what)
    layers = lora_matrices(lm)
    for batch in length_batches(items, max_tokens, max_rows):
        seen: list[tuple[str, Tensor, Tensor]] = []
        handles = [layer.register_forward_hook(_recorder(name, seen)) for name, layer in layers.items()]
        try:
            with _evaluating(lm):
                loss = label_nll(lm, [items[index] for index in batch]).sum()
        finally:
            for handle in handles:
                handle.remove()
        if any(x.dim() != 3 or len(x) != len(batch) for _, x, _ in seen):
            raise UserError(
                f"A LoRA layer of {lm.name} mixes the samples of a batch, so that they cannot be told apart.",
                where="selector.influence",
                fix="selector/influence=batch, or other lora_targets",
            )
        # The samples of a batch do not see each other, so that the sum's gradient at a row is that sample's own.
        deltas = torch.autograd.grad(loss, [y for _, _, y in seen], allow_unused=True)
        yield (
            batch,
            [
                _Call(name, x.float(), delta.float())
                for (name, x, _), delta in zip(seen, deltas, strict=True)
                if delta is not None
            ],
        )


def _recorder(name: str, seen: list[tuple[str, Tensor, Tensor]]) -> Any:
    """A forward hook that notes a layer's input and output."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module
        seen.append((name, inputs[0].detach(), output))

    return note
