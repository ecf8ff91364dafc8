"""Both engines against each other and against a dense sum of updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import lora_layers, save_adapter, with_lora
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.errors import UserError

TARGETS = ("q_proj", "v_proj")


class _Ids:
    """The engines only need ids here."""

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
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return LanguageModel(model, _Ids(), "tiny-llama")


def _adapters(lm: LanguageModel, folder: Path, ranks: tuple[int, ...] = (4, 4, 4)) -> dict[str, Path]:
    for number, rank in enumerate(ranks):
        with with_lora(lm, TARGETS, rank, 2.0 * rank, 0.0, number) as wrapped:
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for name, parameter in wrapped.model.named_parameters():
                    if "lora_" in name:
                        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            save_adapter(wrapped, folder / f"e{number}")
    return {f"set{n}.em": folder / f"e{n}" for n in range(len(ranks))}


BATCH = [
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
    Encoded((1, 20, 21, 22), ((9, 2),)),
]
GATES = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])


def test_stacked_equals_peft_cat_row_by_row(tmp_path: Path) -> None:
    adapters = _adapters(_llama(), tmp_path)
    stacked = StackedEngine().open(_llama(), adapters)
    merged = HuggingFaceEngine(max_mixtures=2).open(_llama(), adapters)
    for ours, theirs in zip(stacked.option_log_probs(BATCH, GATES), merged.option_log_probs(BATCH, GATES), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_stacked_equals_a_dense_sum_of_updates(tmp_path: Path) -> None:
    lm = _llama()
    adapters = _adapters(lm, tmp_path)
    stacked = StackedEngine().open(_llama(), adapters)
    got = stacked.option_log_probs(BATCH[:1], GATES[:1])[0]
    modules = dict(lm.model.named_modules())
    with torch.no_grad():
        for gate, folder in zip(GATES[0], adapters.values(), strict=True):
            for layer in lora_layers(folder):
                modules[layer.name].weight += float(gate) * layer.scale * layer.b @ layer.a
        expected = lm.option_log_probs(BATCH[:1])[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_closing_leaves_the_base_model_as_it_was(tmp_path: Path) -> None:
    lm = _llama()
    adapters = _adapters(lm, tmp_path)
    with torch.no_grad():
        before = lm.option_log_probs(BATCH)[1].numpy()
        model = StackedEngine().open(lm, adapters)
        mixed = model.option_log_probs(BATCH, GATES)[1]
        model.close()
        after = lm.option_log_probs(BATCH)[1].numpy()
    np.testing.assert_array_equal(before, after)
    assert np.abs(mixed - before).max() > 1e-2


def test_unequal_ranks_and_foreign_bases_are_refused(tmp_path: Path) -> None:
    lm = _llama()
    with pytest.raises(UserError, match="different ranks"):
        StackedEngine().open(lm, _adapters(lm, tmp_path / "a", (4, 8)))
    adapters = _adapters(lm, tmp_path / "b")
    lm.name = "another-base"
    for engine in (StackedEngine(), HuggingFaceEngine()):
        with pytest.raises(UserError, match="trained on tiny-llama"):
            engine.open(lm, adapters)
