"""Arrow in ``engine=hf``: PEFT routes every token in every layer (Ostapenko et al., 2024).

The prototype of an expert in a layer is the top right singular vector of its update B A. A token x weighs the experts
by softmax(|<x, prototype>| / temperature) over the ``top_k`` highest, and gets the sum of their updates so weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import load_experts
from meld.errors import UserError
from meld.types import Prompt

_ROUTER = "arrow_router"
"""The name that PEFT reserves for the adapter that routes."""

_SEED = 0
"""Of the vector that PEFT's power iteration starts from."""


class ArrowModel:
    """A base model whose adapted layers route tokens among all experts.

    Gates only say whether a row is answered with the experts (any gate above zero) or by the base model alone.

    Args:
        lm: The frozen base model.
        adapters: Expert name to adapter folder.
        top_k: Experts per token and layer; all of them if there are fewer.
        temperature: Of the softmax over the chosen experts.

    Raises:
        UserError: If the adapters cannot be mixed on this base (:func:`meld.engine.adapters.load_experts`), or do not
            adapt the same layers.
    """

    def __init__(self, lm: LanguageModel, adapters: Mapping[str, Path], top_k: int, temperature: float) -> None:
        from peft import ArrowConfig, LoraConfig, PeftModel

        self.experts = tuple(adapters)
        shapes = {
            name: {layer: tuple(update.a.shape) for layer, update in expert.layers.items()}
            for name, expert in load_experts(lm, adapters).items()
        }
        odd = [name for name in adapters if shapes[name] != shapes[self.experts[0]]]
        if odd:
            raise UserError(
                f"The experts {self.experts[0]!r} and {odd[0]!r} do not adapt the same layers at the same rank; Arrow "
                "compares experts layer by layer.",
                fix="train them with one expert.rank and one backbone.lora_targets, or use router=contrastive",
            )
        names = [f"task_{i}" for i in range(len(adapters))]
        folders = [str(folder) for folder in adapters.values()]
        model: Any = PeftModel.from_pretrained(lm.model, folders[0], adapter_name=names[0])
        for name, place in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(place, adapter_name=name)
        routing = ArrowConfig(top_k=min(top_k, len(names)), router_temperature=temperature, rng_seed=_SEED)
        routing.task_adapter_names, routing.gks_adapter_names = names, []
        # As PEFT's create_arrow_model, but for the very layers that the experts adapt: it takes the last part of their
        # names, which may match further layers, where there is nothing to route.
        layers = list(shapes[self.experts[0]])
        rank = next(iter(shapes[self.experts[0]].values()))[0]
        model.add_adapter(_ROUTER, LoraConfig(arrow_config=routing, target_modules=layers, r=rank))
        model.set_adapter(_ROUTER)
        model.eval()
        modules = dict(model.base_model.model.named_modules())
        for layer in layers:
            modules[layer].register_forward_pre_hook(_contiguous)
        self._model = model
        self.lm = LanguageModel(model, lm.tokenizer, lm.name, lm.relative)

    @torch.no_grad()
    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options, routed, or by the base model alone where all gates are 0."""
        out: list[NDArray[np.float64]] = [np.zeros(0)] * len(batch)
        routed = gates.any(axis=1)
        for rows, alone in ((np.flatnonzero(routed), False), (np.flatnonzero(~routed), True)):
            if not len(rows):
                continue
            with self._model.disable_adapter() if alone else nullcontext():
                scored = self.lm.option_log_probs([batch[int(i)] for i in rows])
            for row, scores in zip(rows, scored, strict=True):
                out[row] = scores.double().cpu().numpy()
        return out

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, every token routed."""
        return self.lm.generate(prompts, max_new_tokens)

    def close(self) -> None:
        """Take the adapters off the base model."""
        self._model.unload()


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """PEFT's Arrow views its input as one row per token, which a slice of a larger tensor does not allow."""
    return (inputs[0].contiguous(), *inputs[1:])
