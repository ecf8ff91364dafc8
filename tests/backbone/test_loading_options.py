"""Quantised loading and gradient checkpointing: clear refusals where they cannot be had, and the same gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import label_nll, lora_parameters, set_adapter_state, train_adapter, with_lora
from meld.config.compose import load_config
from meld.config.tree import plain
from meld.config.validate import validate
from meld.errors import ConfigErrors, UserError
from meld.types import Prompt

TARGETS = ("q_proj", "v_proj")


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_weights_need_cuda_and_say_so(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, quantization: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="need a CUDA device") as caught:
        HuggingFaceBackbone(str(model_folders["llama"]), quantization=quantization).load()
    assert caught.value.where == "backbone.quantization"
    assert "meld-dp[gpu]" in caught.value.fix


def test_quantised_weights_need_bitsandbytes_and_say_so(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UserError, match="bitsandbytes, which is not installed") as caught:
        HuggingFaceBackbone(str(model_folders["llama"]), quantization="4bit", config_key="proxy.path").load()
    assert caught.value.where == "proxy.quantization"
    assert "meld-dp[gpu]" in caught.value.fix


def test_quantised_weights_are_asked_for_as_qlora_does(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to transformers, on a machine that claims to have all that is needed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: object() if n == "bitsandbytes" else find(n))
    recipe = HuggingFaceBackbone(str(model_folders["llama"]), dtype="bfloat16", quantization="4bit")
    given = recipe._quantised("cuda")
    how = given["quantization_config"]
    assert given["device_map"] == {"": "cuda"}
    assert (how.load_in_4bit, how.load_in_8bit, how.bnb_4bit_quant_type) == (True, False, "nf4")
    assert how.bnb_4bit_use_double_quant
    assert how.bnb_4bit_compute_dtype == torch.bfloat16
    eight = HuggingFaceBackbone(str(model_folders["llama"]), quantization="8bit")._quantised("cuda")
    assert eight["quantization_config"].load_in_8bit


def test_other_quantisations_are_refused(model_folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="'2bit' is no quantisation"):
        HuggingFaceBackbone(str(model_folders["llama"]), quantization="2bit").load()  # type: ignore[arg-type]
    with pytest.raises(UserError, match="encoder run as a decoder"):
        HuggingFaceBackbone("embedded:minilm", as_decoder=True, quantization="4bit").load()


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_an_adapter_trains_on_a_quantised_base(model_folders: dict[str, Path], quantization: Any) -> None:
    pytest.importorskip("bitsandbytes")
    lm = HuggingFaceBackbone(str(model_folders["llama"]), dtype="bfloat16", quantization=quantization).load()
    with with_lora(lm, TARGETS, 4, 8, 0.0, 0) as wrapped:
        train_adapter(wrapped)
        label_nll(wrapped, [wrapped.encode(Prompt("q", "w1 w2", ("match",)))]).sum().backward()
        assert all(p.grad is not None for p in lora_parameters(wrapped).values())


def gradients(lm: LanguageModel, targets: tuple[str, ...], checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of the adapter under dropout, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}
    with with_lora(lm, targets, 4, 8, 0.2, 0) as wrapped:
        draw = torch.Generator().manual_seed(1)
        state = {n: torch.randn(p.shape, generator=draw) * 0.1 for n, p in _state(wrapped).items()}
        set_adapter_state(wrapped, state)
        train_adapter(wrapped, checkpointing)
        assert not any(m.training for m in wrapped.model.modules() if type(m) is torch.nn.Dropout and m.p != 0.2)
        torch.manual_seed(5)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        items = [wrapped.encode(Prompt("q", " ".join(f"w{i}" for i in range(30)), ("match", "mismatch")))] * 2
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = label_nll(wrapped, items).sum()
        loss.backward()
        found = {name: p.grad.clone() for name, p in lora_parameters(wrapped).items() if p.grad is not None}
    return found, sum(kept.values())


def _state(lm: LanguageModel) -> dict[str, torch.Tensor]:
    from meld.backbone.lora import adapter_state

    return adapter_state(lm)


def test_checkpointing_keeps_less_and_gives_the_same_gradients(tiny: LanguageModel) -> None:
    _compare(tiny, TARGETS)


def test_checkpointing_of_the_embedded_model(minilm: LanguageModel) -> None:
    """A BERT-style base has dropout of its own, which must stay off."""
    _compare(minilm, ("query", "value", "transform.dense"))


def _compare(lm: LanguageModel, targets: tuple[str, ...]) -> None:
    plainly, all_kept = gradients(lm, targets, False)
    again, kept = gradients(lm, targets, True)
    assert kept < 0.5 * all_kept
    assert plainly.keys() == again.keys()
    for name, gradient in plainly.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-5, rtol=1e-4)
    assert not getattr(lm.model, "is_gradient_checkpointing", False)
    assert not any(module.training for module in lm.model.modules())


def errors(*overrides: str) -> list[str]:
    try:
        validate(plain(load_config(overrides)))
    except ConfigErrors as error:
        return [str(e) for e in error.errors]
    return []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-mixed"),
        (["trainer.precision=16-true"], "trainer.precision=bf16-mixed"),
        (["trainer=gpu", "trainer.precision=16-mixed", "+backbone.dtype=bfloat16"], "trainer.precision=bf16-mixed"),
        (["trainer=gpu", "+proxy.dtype=float16"], "trainer.precision=16-mixed"),
        (["backbone.quantization=4bit"], "backbone.quantization=null, or trainer=gpu"),
        (["proxy.quantization=8bit"], "proxy.quantization=null"),
    ],
)
def test_formats_that_do_not_go_together_are_refused(overrides: list[str], words: str) -> None:
    (found,) = errors(*overrides)
    assert words in found


@pytest.mark.parametrize(
    "overrides",
    [
        ["scale=paper"],
        ["scale=paper", "backbone.quantization=4bit"],
        ["trainer=gpu", "+backbone.dtype=bfloat16"],
        ["trainer.precision=bf16-mixed"],
        ["+backbone.dtype=bfloat16"],
        ["expert.gradient_checkpointing=true"],
    ],
)
def test_formats_that_go_together(overrides: list[str]) -> None:
    assert errors(*overrides) == []
