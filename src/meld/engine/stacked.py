"""``engine=stacked``: one batch, a different mixture of experts in every row, nothing merged.

The mixture sum_e g_e B_e A_e x of all n experts is one product with all A stacked, a scaling of each expert's r rows by
its gate for that query, and one product with all B stacked, added to the layer's own output. It equals PEFT's ``cat``
exactly; the overhead over a d x d layer is 2 n r / d. Where rows are long, each row's k experts are picked from the
stack instead, and the overhead is 2 k r / d, however many experts there are. Nothing is kept from batch to batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import Expert, load_experts
from meld.engine.base import check_combination
from meld.mixer.combination import CAT, Combination
from meld.types import Prompt

_COPY_COST = 64
"""What picking a row's experts costs: about as much as this many of its positions take in the products (measured)."""


class StackedEngine:
    """Runs mixtures by stacked LoRA matrices."""

    MIXERS: ClassVar[frozenset[str]] = frozenset({"cat", "logits", "top1"})

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path], combination: Combination = CAT) -> StackedModel:
        """Put experts on a base model.

        Raises:
            UserError: If the adapters cannot be mixed on this base (:func:`meld.engine.adapters.load_experts`), or
                otherwise than by adding them up.
        """
        check_combination("stacked", frozenset({"cat"}), combination)
        return StackedModel(lm, adapters)


@dataclass(frozen=True)
class _Stack:
    """All experts' updates of one layer; zeros for an expert without the layer.

    Attributes:
        a: Shape (n, r, d_in).
        b: Shape (n, r, d_out), scaled by alpha / r: the transposed B of PEFT.
    """

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class _Batch:
    """The mixtures of one batch, made once and read by every layer.

    Attributes:
        all_gates: Shape (rows, 1, n * r): each expert's gate, once for each of its r rows.
        chosen: Shape (rows, k): the experts with the highest gates; a row may have fewer than k above zero.
        gates: Shape (rows, 1, k * r): the chosen experts' gates.
    """

    all_gates: Tensor
    chosen: Tensor
    gates: Tensor


class StackedModel:
    """A base model whose adapted layers carry all experts.

    Args:
        lm: The frozen base model.
        adapters: Expert name to adapter folder.
    """

    def __init__(self, lm: LanguageModel, adapters: Mapping[str, Path]) -> None:
        self.lm = lm
        self.experts = tuple(adapters)
        experts = list(load_experts(lm, adapters).values())
        modules = dict(lm.model.named_modules())
        # A quantised base has integer weights; what its layers compute in is the format of what it left unquantised.
        self._dtype = next(p.dtype for p in lm.model.parameters() if p.is_floating_point())
        self._rank = next(layer.a.shape[0] for expert in experts for layer in expert.layers.values())
        self._batch: _Batch | None = None
        self._hooks: list[Any] = []
        for name in sorted({layer for expert in experts for layer in expert.layers}):
            device = next(modules[name].parameters()).device
            stack = _stack(experts, name, device, self._dtype)
            self._hooks.append(modules[name].register_forward_hook(self._hook(stack)))

    def _hook(self, stack: _Stack) -> Any:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self._batch is None else _add(stack, self._batch, inputs[0], output)

        return add_update

    @contextmanager
    def mixed(self, gates: NDArray[np.float64]) -> Iterator[None]:
        """The block in which row i of every batch that the model reads runs under mixture i.

        Args:
            gates: Shape (rows, experts), zero for experts that are not chosen.
        """
        if gates.any():
            self._batch = _batch(gates, self._rank, self.lm.device, self._dtype)
        try:
            yield
        finally:
            self._batch = None

    @torch.no_grad()
    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        with self.mixed(gates):
            return [scores.double().cpu().numpy() for scores in self.lm.option_log_probs(batch)]

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        with self.mixed(gates):
            return self.lm.generate(prompts, max_new_tokens)

    def close(self) -> None:
        """Take the experts off the base model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _stack(experts: Sequence[Expert], layer: str, device: torch.device, dtype: torch.dtype) -> _Stack:
    """All experts' updates of one layer."""
    parts = [expert.layers.get(layer) for expert in experts]
    shape = next(part for part in parts if part is not None)
    zero_a, zero_b = torch.zeros_like(shape.a), torch.zeros_like(shape.b.T)
    return _Stack(
        torch.stack([zero_a if part is None else part.a for part in parts]).to(device, dtype),
        torch.stack([zero_b if part is None else part.b.T * part.scale for part in parts]).to(device, dtype),
    )


def _batch(gates: NDArray[np.float64], rank: int, device: torch.device, dtype: torch.dtype) -> _Batch:
    """What the layers need of the gates of a batch."""
    k = int((gates > 0).sum(axis=1).max())
    chosen = np.argsort(-gates, axis=1, kind="stable")[:, :k]
    # A row with fewer experts is filled up with its zero gates, whichever experts they belong to.
    picked = np.take_along_axis(gates, chosen, axis=1)

    def spread(values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values, device=device).repeat_interleave(rank, dim=1)[:, None].to(dtype)

    return _Batch(spread(gates), torch.tensor(chosen, device=device), spread(picked))


def _add(stack: _Stack, batch: _Batch, x: Tensor, output: Tensor) -> Tensor:
    """A layer's output plus the update of each row's mixture.

    Args:
        stack: The layer's updates.
        batch: The rows' mixtures.
        x: Input of the layer, shape (rows, length, d_in).
        output: What the layer itself makes of it, shape (rows, length, d_out); overwritten.
    """
    n, rank, d_in = stack.a.shape
    rows, k = batch.chosen.shape
    length = x.shape[1]
    x = x.to(stack.a.dtype)
    total = output if output.is_contiguous() and output.dtype == x.dtype else output.to(x.dtype).contiguous()
    if length * (n - k) >= _COPY_COST * k:
        a = stack.a[batch.chosen].view(rows, k * rank, d_in)
        b = stack.b[batch.chosen].view(rows, k * rank, -1)
        total.baddbmm_(torch.bmm(x, a.mT).mul_(batch.gates), b)
    else:
        hidden = nn.functional.linear(x, stack.a.view(n * rank, d_in)).mul_(batch.all_gates)
        total.view(rows * length, -1).addmm_(hidden.view(rows * length, -1), stack.b.view(n * rank, -1))
    return total.to(output.dtype)
