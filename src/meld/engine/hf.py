"""``engine=hf``: PEFT makes one adapter of each distinct mixture; batch rows are grouped by mixture."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import load_experts
from meld.engine.arrow import ArrowModel
from meld.engine.base import check_combination
from meld.mixer.combination import CAT, PEFT_METHODS, Combination, best_of_rank, mixture_name
from meld.seeds import derive
from meld.types import Prompt

_METHODS = frozenset({"cat", "svd", *PEFT_METHODS})


class HuggingFaceEngine:
    """Runs mixtures through PEFT's ``add_weighted_adapter``; the slower engine, and the one that knows every mixer.

    Args:
        max_mixtures: Mixtures kept in memory at a time; the least recently used one goes first.

    Raises:
        ValueError: If no mixture may be kept.
    """

    MIXERS: ClassVar[frozenset[str]] = frozenset({"logits", "top1", *_METHODS})

    def __init__(self, max_mixtures: int = 16) -> None:
        if max_mixtures < 1:
            raise ValueError(f"max_mixtures must be at least 1, not {max_mixtures}")
        self.max_mixtures = max_mixtures

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path], combination: Combination = CAT) -> PeftMixtures:
        """Put experts on a base model.

        Raises:
            UserError: If the adapters cannot be mixed on this base; see :func:`meld.engine.adapters.load_experts`.
        """
        check_combination("hf", _METHODS, combination)
        return PeftMixtures(lm, adapters, self.max_mixtures, combination)

    def open_token_wise(
        self, lm: LanguageModel, adapters: Mapping[str, Path], top_k: int, temperature: float
    ) -> ArrowModel:
        """Put experts on a base model, every token routed in every layer (``router=arrow``).

        Raises:
            UserError: As :class:`meld.engine.arrow.ArrowModel`.
        """
        return ArrowModel(lm, adapters, top_k, temperature)


class PeftMixtures:
    """A base model with PEFT adapters and a bounded cache of mixtures.

    Args:
        lm: The frozen base model.
        adapters: Expert name to adapter folder.
        max_mixtures: Size of the cache.
        combination: What becomes of the updates of experts that answer together.
    """

    def __init__(
        self, lm: LanguageModel, adapters: Mapping[str, Path], max_mixtures: int, combination: Combination = CAT
    ) -> None:
        from peft import PeftModel

        self.experts = tuple(adapters)
        self._digests = [expert.digest for expert in load_experts(lm, adapters).values()]
        self._max = max_mixtures
        self._combination = combination
        self._mixtures: OrderedDict[str, None] = OrderedDict()
        # Numbered, because PEFT refuses names with dots.
        first, *rest = map(str, adapters.values())
        model: Any = PeftModel.from_pretrained(lm.model, first, adapter_name="expert0")
        for index, folder in enumerate(rest, start=1):
            model.load_adapter(folder, adapter_name=f"expert{index}")
        model.eval()
        self._model = model
        self.lm = LanguageModel(model, lm.tokenizer, lm.name, lm.relative)

    def _activate(self, gates: NDArray[np.float64]) -> AbstractContextManager[Any]:
        """Make one mixture the active adapter; the context in which it is, or in which none is."""
        chosen = [(index, float(gate)) for index, gate in enumerate(gates) if gate > 0]
        if not chosen:
            context: AbstractContextManager[Any] = self._model.disable_adapter()
            return context
        if len(chosen) == 1 and chosen[0][1] == 1.0:
            self._model.set_adapter(f"expert{chosen[0][0]}")
            return nullcontext()
        name = mixture_name([(self._digests[index], gate) for index, gate in chosen], self._combination)
        if name not in self._mixtures:
            if len(self._mixtures) >= self._max:
                oldest, _ = self._mixtures.popitem(last=False)
                self._model.set_adapter("expert0")  # PEFT warns where the active adapter is deleted
                self._model.delete_adapter(oldest)
            self._add([f"expert{index}" for index, _ in chosen], [gate for _, gate in chosen], name)
            self._mixtures[name] = None
        self._mixtures.move_to_end(name)
        self._model.set_adapter(name)
        return nullcontext()

    def _add(self, names: Sequence[str], gates: Sequence[float], name: str) -> None:
        """Make the mixture's adapter, with random draws (those of ``dare``) that depend on the mixture alone."""
        method = self._combination.method
        devices = [self.lm.device] if self.lm.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The density")  # of 1: ties without pruning
            torch.manual_seed(derive(self._combination.seed, name))
            self._model.add_weighted_adapter(
                list(names),
                list(gates),
                adapter_name=name,
                # For svd PEFT only makes room: an adapter of the experts' rank at scale 1, filled below.
                combination_type="linear" if method == "svd" else method,
                density=self._combination.density,
                majority_sign_method=self._combination.majority_sign,
                svd_full_matrices=False,
            )
            if method == "svd":
                self._fill_by_svd(names, gates, name)

    def _fill_by_svd(self, names: Sequence[str], gates: Sequence[float], name: str) -> None:
        """Overwrite a mixture's factors by the best approximation of the weighted sum of the updates."""
        for module in self._model.modules():
            if name not in getattr(module, "lora_A", {}):
                continue
            parts = [(n, g * module.scaling[n]) for n, g in zip(names, gates, strict=True) if n in module.lora_A]
            all_a = torch.cat([scale * module.lora_A[n].weight for n, scale in parts], dim=0)
            all_b = torch.cat([module.lora_B[n].weight for n, _ in parts], dim=1)
            thin_a, thin_b = best_of_rank(all_a, all_b, module.r[name])
            module.lora_A[name].weight.copy_(thin_a)
            module.lora_B[name].weight.copy_(thin_b)

    def _groups(self, gates: NDArray[np.float64]) -> list[NDArray[np.intp]]:
        _, inverse = np.unique(gates.round(9), axis=0, return_inverse=True)
        return [np.flatnonzero(inverse.reshape(-1) == g) for g in range(int(inverse.max()) + 1)]

    @torch.no_grad()
    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        out: list[NDArray[np.float64]] = [np.zeros(0)] * len(batch)
        for rows in self._groups(gates):
            with self._activate(gates[rows[0]]):
                scored = self.lm.option_log_probs([batch[i] for i in rows])
            for row, scores in zip(rows, scored, strict=True):
                out[row] = scores.double().cpu().numpy()
        return out

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        out = [""] * len(prompts)
        for rows in self._groups(gates):
            with self._activate(gates[rows[0]]):
                written = self.lm.generate([prompts[i] for i in rows], max_new_tokens)
            for row, text in zip(rows, written, strict=True):
                out[row] = text
        return out

    def close(self) -> None:
        """Take the adapters off the base model."""
        self._model.unload()
