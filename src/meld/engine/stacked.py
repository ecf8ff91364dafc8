"""``engine=stacked``: one batch, a different mixture of experts in every row, nothing merged.

The mixture sum_e g_e B_e A_e x of all experts is one product with all A stacked, a scaling of each expert's rows by
its gate for that query, and one product with all B side by side. It equals PEFT's ``cat`` exactly; the overhead over
the base layer is about 2 n r / d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import lora_layers, read_adapter
from meld.engine.base import check_base
from meld.errors import UserError
from meld.types import Prompt


class StackedEngine:
    """Runs mixtures by stacked LoRA matrices."""

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path]) -> StackedModel:
        """Put experts on a base model.

        Raises:
            UserError: For another base, unequal ranks, or layers the base does not have.
        """
        return StackedModel(lm, adapters)


class StackedModel:
    """A base model whose adapted layers carry all experts.

    Args:
        lm: The frozen base model.
        adapters: Expert name to adapter folder.
    """

    def __init__(self, lm: LanguageModel, adapters: Mapping[str, Path]) -> None:
        self.lm = lm
        self.experts = tuple(adapters)
        self._gates: Tensor | None = None
        self._hooks: list[Any] = []
        stacks = self._stack(lm, adapters)
        modules = dict(lm.model.named_modules())
        absent = sorted(set(stacks) - set(modules))
        if absent:
            raise UserError(
                f"The experts adapt layers that {lm.name} does not have, e.g. {absent[0]}.",
                fix="use the base model the experts were trained on",
            )
        parameter = next(lm.model.parameters())
        for name, (a, b, rank) in stacks.items():
            device_a = a.to(parameter.device, parameter.dtype)
            device_b = b.to(parameter.device, parameter.dtype)
            self._hooks.append(modules[name].register_forward_hook(self._hook(device_a, device_b, rank)))

    @staticmethod
    def _stack(lm: LanguageModel, adapters: Mapping[str, Path]) -> dict[str, tuple[Tensor, Tensor, int]]:
        """For each layer all A (n*r, d_in), all scaled B (d_out, n*r), and r; zeros for an expert without the layer."""
        per_expert = {}
        ranks = set()
        for name, folder in adapters.items():
            config, _ = read_adapter(folder)
            check_base(name, str(config.get("base_model_name_or_path")), lm)
            layers = {layer.name: layer for layer in lora_layers(folder)}
            per_expert[name] = layers
            ranks |= {layer.a.shape[0] for layer in layers.values()}
        if len(ranks) > 1:
            raise UserError(
                f"The experts have different ranks {sorted(ranks)}; they cannot be stacked.",
                fix="train them with one expert.rank",
            )
        rank = next(iter(ranks), 0)
        stacks = {}
        for layer_name in sorted({layer for layers in per_expert.values() for layer in layers}):
            shape = next(layers[layer_name] for layers in per_expert.values() if layer_name in layers)
            zero_a, zero_b = torch.zeros_like(shape.a), torch.zeros_like(shape.b)
            parts = [layers.get(layer_name) for layers in per_expert.values()]
            a = torch.cat([part.a if part else zero_a for part in parts], dim=0)
            b = torch.cat([part.b * part.scale if part else zero_b for part in parts], dim=1)
            stacks[layer_name] = (a, b, rank)
        return stacks

    def _hook(self, a: Tensor, b: Tensor, rank: int) -> Any:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._gates is None:
                return output
            x = inputs[0]
            gates = self._gates.to(x.dtype).repeat_interleave(rank, dim=1)
            hidden = torch.nn.functional.linear(x, a) * gates[:, None, :]
            return output + torch.nn.functional.linear(hidden, b)

        return add_update

    def _set(self, gates: NDArray[np.float64]) -> None:
        self._gates = torch.tensor(gates, dtype=torch.float32, device=self.lm.device)

    @torch.no_grad()
    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        self._set(gates)
        try:
            return [scores.double().cpu().numpy() for scores in self.lm.option_log_probs(batch)]
        finally:
            self._gates = None

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        self._set(gates)
        try:
            return self.lm.generate(prompts, max_new_tokens)
        finally:
            self._gates = None

    def close(self) -> None:
        """Take the experts off the base model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
