"""Both engines against each other and against a dense sum of updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import lora_layers, save_adapter, with_lora
from meld.engine.base import ask
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.errors import UserError
from meld.progress import Silent
from meld.types import Prompt

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


@pytest.mark.parametrize("engine", [StackedEngine(), HuggingFaceEngine()])
def test_no_gate_is_the_base_model(tmp_path: Path, engine: StackedEngine | HuggingFaceEngine) -> None:
    lm = _llama()
    expected = [scores.numpy() for scores in lm.option_log_probs(BATCH)]
    model = engine.open(lm, _adapters(lm, tmp_path))
    found = model.option_log_probs(BATCH, np.array([[0.0] * 3, [0.0, 1.0, 0.0], [0.0] * 3]))
    model.close()
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1] != pytest.approx(expected[1], abs=1e-3)
    assert found[2] == pytest.approx(expected[2], abs=1e-5)


def test_answers_relative_to_the_base_add_the_prior(tmp_path: Path) -> None:
    """ask() under ``relative``: log-ratio of mixture and base, plus the prior; the same for both engines."""
    lm = _llama()
    adapters = _adapters(lm, tmp_path)
    items = {"p": BATCH[0], "q": BATCH[1]}
    base = {name: scores.numpy() for name, scores in zip(items, lm.option_log_probs(list(items.values())), strict=True)}
    prompts = [
        Prompt("p", "p", options=("a", "b"), log_prior=(-0.2, -1.7)),
        Prompt("q", "q", options=("a", "b", "c")),
        Prompt("p", "p", options=("a", "b"), log_prior=(-0.2, -1.7)),
    ]
    gates = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for engine in (StackedEngine(), HuggingFaceEngine()):
        lm.relative = True
        model = engine.open(lm, adapters)
        raw = model.option_log_probs([BATCH[0], BATCH[1], BATCH[0]], gates)
        model.lm.encode = lambda prompt: replace(items[prompt.text], offsets=prompt.log_prior)  # type: ignore[method-assign]
        replies = ask(model, prompts, gates, 64, 4, Silent())
        model.close()
        del model.lm.encode
        for reply, scores, prompt in zip(replies, raw, prompts, strict=True):
            expected = scores - base[prompt.text] + np.array(prompt.log_prior or 0.0)
            assert reply.log_probs == pytest.approx(list(expected), abs=1e-4)
            assert reply.probabilities.sum() == pytest.approx(1.0)


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
