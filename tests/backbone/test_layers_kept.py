"""Proxies made of a model's first layers, and LoRA targets that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import check_targets
from meld.errors import UserError


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_the_first_layers_are_the_model_s_own(model_folders: dict[str, Path], architecture: str) -> None:
    whole = HuggingFaceBackbone(str(model_folders[architecture]), device="cpu").load().model
    part = HuggingFaceBackbone(str(model_folders[architecture]), device="cpu", layers=1).load().model
    assert (len(whole.model.layers), len(part.model.layers)) == (2, 1)
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        hidden = whole(input_ids=ids, output_hidden_states=True).hidden_states[1]
        # What enters the final norm of the short model is what leaves the first layer of the long one.
        expected = whole.lm_head(whole.model.norm(hidden))
        torch.testing.assert_close(part(input_ids=ids).logits, expected)


def test_minilm_keeps_two_of_its_six(minilm: LanguageModel) -> None:
    part = HuggingFaceBackbone("embedded:minilm", as_decoder=True, layers=2, device="cpu").load().model
    assert len(part.bert.encoder.layer) == 2
    for mine, its in zip(part.bert.encoder.layer, minilm.model.bert.encoder.layer, strict=False):
        assert torch.equal(mine.attention.self.query.weight, its.attention.self.query.weight)


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_are_not_there_are_a_user_error(model_folders: dict[str, Path], layers: int) -> None:
    backbone = HuggingFaceBackbone(str(model_folders["llama"]), layers=layers, config_key="proxy.path")
    with pytest.raises(UserError, match="has 2 layers") as caught:
        backbone.load()
    assert caught.value.where == "proxy.layers"


def test_missing_lora_targets_are_named_with_those_there_are(tiny: LanguageModel) -> None:
    check_targets(tiny, ["q_proj", "v_proj"], "proxy.lora_targets")
    with pytest.raises(UserError, match="no linear layers named query, key") as caught:
        check_targets(tiny, ["q_proj", "query", "key"], "proxy.lora_targets")
    assert "down_proj" in caught.value.fix
    assert caught.value.where == "proxy.lora_targets"
    with pytest.raises(UserError, match="no target is given"):
        check_targets(tiny, [], "proxy.lora_targets")
