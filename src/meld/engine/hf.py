"""``engine=hf``: PEFT merges each distinct mixture into one adapter (``cat``); batch rows are grouped by mixture."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import read_adapter
from meld.engine.arrow import ArrowModel
from meld.engine.base import check_base
from meld.types import Prompt


class HuggingFaceEngine:
    """Runs mixtures through PEFT's ``add_weighted_adapter(combination_type="cat")``.

    Args:
        max_mixtures: Mixtures kept in memory at a time; the least recently used one goes first.
    """

    def __init__(self, max_mixtures: int = 16) -> None:
        self.max_mixtures = max_mixtures

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path]) -> PeftMixtures:
        """Put experts on a base model.

        Raises:
            UserError: If an adapter was trained on another base.
        """
        return PeftMixtures(lm, adapters, self.max_mixtures)

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
    """

    def __init__(self, lm: LanguageModel, adapters: Mapping[str, Path], max_mixtures: int) -> None:
        from peft import PeftModel

        self.experts = tuple(adapters)
        self._safe = {name: f"expert{i}" for i, name in enumerate(self.experts)}  # PEFT refuses dots in names
        self._max = max_mixtures
        self._mixtures: OrderedDict[str, None] = OrderedDict()
        for name, folder in adapters.items():
            config, _ = read_adapter(folder)
            check_base(name, str(config.get("base_model_name_or_path")), lm)
        first, *rest = self.experts
        model: Any = PeftModel.from_pretrained(lm.model, str(adapters[first]), adapter_name=self._safe[first])
        for name in rest:
            model.load_adapter(str(adapters[name]), adapter_name=self._safe[name])
        model.eval()
        self._model = model
        self.lm = LanguageModel(model, lm.tokenizer, lm.name, lm.relative)

    def _activate(self, gates: NDArray[np.float64]) -> None:
        """Make one mixture the active adapter."""
        chosen = [(self._safe[name], float(g)) for name, g in zip(self.experts, gates, strict=True) if g > 0]
        if len(chosen) == 1 and chosen[0][1] == 1.0:
            self._model.set_adapter(chosen[0][0])
            return
        # Named by content, because PEFT silently keeps an adapter whose name is taken.
        name = "mix_" + hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]
        if name not in self._mixtures:
            if len(self._mixtures) >= self._max:
                oldest, _ = self._mixtures.popitem(last=False)
                self._model.delete_adapter(oldest)
            self._model.add_weighted_adapter(
                [n for n, _ in chosen], [g for _, g in chosen], adapter_name=name, combination_type="cat"
            )
            self._mixtures[name] = None
        self._mixtures.move_to_end(name)
        self._model.set_adapter(name)

    def _groups(self, gates: NDArray[np.float64]) -> list[NDArray[np.intp]]:
        _, inverse = np.unique(gates.round(9), axis=0, return_inverse=True)
        return [np.flatnonzero(inverse.reshape(-1) == g) for g in range(int(inverse.max()) + 1)]

    @torch.no_grad()
    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        out: list[NDArray[np.float64]] = [np.zeros(0)] * len(batch)
        for rows in self._groups(gates):
            alone = not gates[rows[0]].any()
            if not alone:
                self._activate(gates[rows[0]])
            with self._model.disable_adapter() if alone else nullcontext():
                scored = self.lm.option_log_probs([batch[i] for i in rows])
            for row, scores in zip(rows, scored, strict=True):
                out[row] = scores.double().cpu().numpy()
        return out

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        out = [""] * len(prompts)
        for rows in self._groups(gates):
            self._activate(gates[rows[0]])
            written = self.lm.generate([prompts[i] for i in rows], max_new_tokens)
            for row, text in zip(rows, written, strict=True):
                out[row] = text
        return out

    def close(self) -> None:
        """Take the adapters off the base model."""
        self._model.unload()
