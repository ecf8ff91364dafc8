"""Arrow against plain loops over layers and tokens, with exact singular vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import lora_layers, save_adapter, with_lora
from meld.engine.base import TokenWiseEngine
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.errors import UserError

BATCH = [
    Encoded((1, 5, 9, 7), ((11, 2), (12, 13, 2))),
    Encoded((1, 8, 8, 20, 21, 22), ((11, 2), (30, 2), (12, 13, 2))),
    Encoded((1, 40), ((41, 2),)),
]


class _Ids:
    """The engine only needs ids here."""

    eos_token_id, bos_token_id, pad_token_id = 2, 1, 0


def _llama() -> LanguageModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LanguageModel(LlamaForCausalLM(config).eval().requires_grad_(False), _Ids(), "tiny-llama")


# One layer's queries and all values: the last part of a name does not tell which layers are adapted.
TARGETS = ("layers.0.self_attn.q_proj", "v_proj")


def _adapters(lm: LanguageModel, folder: Path, ranks: tuple[int, ...] = (4, 4, 4)) -> dict[str, Path]:
    """Random experts, named as units are."""
    for number, rank in enumerate(ranks):
        with with_lora(lm, TARGETS, rank, 2.0 * rank, 0.0, number) as wrapped:
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for name, parameter in wrapped.model.named_parameters():
                    if "lora_" in name:
                        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            save_adapter(wrapped, folder / f"e{number}")
    return {f"set{n}.em": folder / f"e{n}" for n in range(len(ranks))}


def naive_arrow(lm: LanguageModel, adapters: Mapping[str, Path], top_k: int, temperature: float) -> list[np.ndarray]:
    """Every token of every adapted layer weighs the experts by how much their updates stretch its direction."""
    layers: dict[str, list[Any]] = {}
    for folder in adapters.values():
        for layer in lora_layers(folder):
            layers.setdefault(layer.name, []).append(layer)
    hooks = []
    for name, experts in layers.items():
        updates = [layer.scale * layer.b @ layer.a for layer in experts]
        prototypes = [torch.linalg.svd(layer.b @ layer.a)[2][0] for layer in experts]

        def add(
            module: nn.Module,
            inputs: tuple[Tensor, ...],
            output: Tensor,
            updates: list[Tensor] = updates,
            prototypes: list[Tensor] = prototypes,
        ) -> Tensor:
            changed = output.clone()
            for row, sequence in enumerate(inputs[0]):
                for place, token in enumerate(sequence):
                    similarity = [abs(float(token @ prototype)) for prototype in prototypes]
                    best = sorted(range(len(updates)), key=lambda e: -similarity[e])[:top_k]
                    raised = [np.exp(similarity[e] / temperature) for e in best]
                    for expert, weight in zip(best, raised, strict=True):
                        changed[row, place] += float(weight / sum(raised)) * (updates[expert] @ token)
            return changed

        hooks.append(dict(lm.model.named_modules())[name].register_forward_hook(add))
    try:
        with torch.no_grad():
            return [scores.numpy() for scores in lm.option_log_probs(BATCH)]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_arrow_is_what_its_paper_says(tmp_path: Path, top_k: int, temperature: float) -> None:
    lm = _llama()
    adapters = _adapters(lm, tmp_path)
    expected = naive_arrow(lm, adapters, top_k, temperature)
    model = HuggingFaceEngine().open_token_wise(lm, adapters, top_k, temperature)
    found = model.option_log_probs(BATCH, np.full((len(BATCH), 3), 1 / 3))
    model.close()
    for got, wanted in zip(found, expected, strict=True):
        # PEFT finds the singular vectors by fifteen power iterations.
        np.testing.assert_allclose(got, wanted, atol=2e-2)
    assert max(float(np.abs(a - b).max()) for a, b in zip(found, _base(lm), strict=True)) > 0.1


def _base(lm: LanguageModel) -> list[np.ndarray]:
    with torch.no_grad():
        return [scores.numpy() for scores in lm.option_log_probs(BATCH)]


def test_rows_without_gates_are_the_base_model_and_closing_restores_it(tmp_path: Path) -> None:
    lm = _llama()
    before = _base(lm)
    model = HuggingFaceEngine().open_token_wise(lm, _adapters(lm, tmp_path), 2, 1.0)
    gates = np.array([[0.0] * 3, [1 / 3] * 3, [0.0] * 3])
    found = model.option_log_probs(BATCH, gates)
    model.close()
    np.testing.assert_allclose(found[0], before[0], atol=1e-5)
    np.testing.assert_allclose(found[2], before[2], atol=1e-5)
    assert np.abs(found[1] - before[1]).max() > 1e-2
    for got, wanted in zip(_base(lm), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_k_above_the_experts_takes_them_all(tmp_path: Path) -> None:
    lm = _llama()
    adapters = _adapters(lm, tmp_path)
    gates = np.full((len(BATCH), 3), 1 / 3)
    found = []
    for top_k in (3, 9):
        model = HuggingFaceEngine().open_token_wise(lm, adapters, top_k, 1.0)
        found.append(model.option_log_probs(BATCH, gates))
        model.close()
    for some, every in zip(*found, strict=True):
        np.testing.assert_array_equal(some, every)


def test_unequal_experts_and_foreign_bases_are_refused(tmp_path: Path) -> None:
    lm = _llama()
    with pytest.raises(UserError, match="different ranks"):
        HuggingFaceEngine().open_token_wise(lm, _adapters(lm, tmp_path / "a", (4, 8)), 2, 1.0)
    adapters = _adapters(lm, tmp_path / "b")
    lm.name = "another-base"
    with pytest.raises(UserError, match="trained on tiny-llama"):
        HuggingFaceEngine().open_token_wise(lm, adapters, 2, 1.0)


def test_one_expert_is_that_expert_on_the_embedded_decoder(tmp_path: Path) -> None:
    """The head reads a slice of the hidden states, and `dense` is the last part of many a layer's name there."""
    backbone = HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu")
    lm = backbone.load()
    with with_lora(lm, ("query", "transform.dense"), 2, 4.0, 0.0, 0) as wrapped:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in wrapped.model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        save_adapter(wrapped, tmp_path / "expert")
    adapters = {"a.em": tmp_path / "expert"}
    gates = np.ones((len(BATCH), 1))
    found = []
    for opened in (
        lambda: HuggingFaceEngine().open(lm, adapters),
        lambda: HuggingFaceEngine().open_token_wise(lm, adapters, 3, 1.0),
    ):
        model = opened()
        found.append(model.option_log_probs(BATCH, gates))
        model.close()
    for alone, routed in zip(*found, strict=True):
        np.testing.assert_allclose(routed, alone, atol=1e-4)
    assert max(float(np.abs(a - b).max()) for a, b in zip(found[0], _base(lm), strict=True)) > 0.1


def test_only_the_engine_that_can_says_that_it_can() -> None:
    assert isinstance(HuggingFaceEngine(), TokenWiseEngine)
    assert not isinstance(StackedEngine(), TokenWiseEngine)
