"""Finding and loading models, and what users are told when that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.weights import fingerprint, resolve
from meld.errors import UserError


@pytest.mark.parametrize(
    "path", ["nobody/no-such-model", "no-such-model", "./no/such/folder", "/no/such/folder", "a/b/c"]
)
def test_unknown_models_are_user_errors(path: str) -> None:
    backbone = HuggingFaceBackbone(path, config_key="proxy.path")
    for use in (backbone.load, backbone.tokenizer):
        with pytest.raises(UserError) as caught:
            use()
        assert path in str(caught.value)
        assert caught.value.fix


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be loaded") as caught:
        HuggingFaceBackbone(str(tmp_path), config_key="proxy.path").load()
    assert "proxy.path" in caught.value.where


def test_an_unknown_number_format_is_a_user_error(model_folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="flot16"):
        HuggingFaceBackbone(str(model_folders["llama"]), dtype="flot16").load()


def test_loaded_models_are_frozen_and_in_evaluation_mode(tiny: LanguageModel) -> None:
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert not any(module.training for module in tiny.model.modules())


def test_bfloat16_scores_like_float32(model_folders: dict[str, Path]) -> None:
    from meld.types import Prompt

    prompt = Prompt("q", "w1 w2", ("match", "mismatch w3"))
    found = []
    for dtype in ("float32", "bfloat16"):
        lm = HuggingFaceBackbone(str(model_folders["llama"]), dtype=dtype, device="cpu").load()
        with torch.no_grad():
            found.append(lm.option_log_probs([lm.encode(prompt)])[0])
    torch.testing.assert_close(found[0], found[1], atol=1.5, rtol=0.1)


def test_the_decoder_head_is_the_same_in_every_process(minilm: LanguageModel) -> None:
    head = minilm.model.cls.predictions.transform.dense
    assert torch.equal(head.weight, torch.eye(384))
    torch.manual_seed(12345)
    again = HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu").load()
    assert all(torch.equal(a, b) for a, b in zip(minilm.model.parameters(), again.model.parameters(), strict=True))
    # Input and output embeddings are one matrix: a random output matrix would make every answer equally likely.
    assert torch.equal(minilm.model.get_input_embeddings().weight, minilm.model.get_output_embeddings().weight)


def test_the_decoder_does_not_see_the_future(minilm: LanguageModel) -> None:
    with torch.no_grad():
        ids = torch.tensor([[101, 2000, 2001, 2002]])
        changed = torch.tensor([[101, 2000, 2001, 3333]])
        first, second = (minilm.model(input_ids=x, attention_mask=torch.ones_like(x)).logits for x in (ids, changed))
    torch.testing.assert_close(first[:, :3], second[:, :3])


def test_the_fingerprint_is_the_content(model_folders: dict[str, Path], tmp_path: Path) -> None:
    original = model_folders["llama"]
    moved = tmp_path / "elsewhere"
    shutil.copytree(original, moved)
    assert fingerprint(str(original)) == fingerprint(str(moved))
    assert fingerprint(str(original)) != fingerprint(str(model_folders["mistral"]))
    config = moved / "config.json"
    config.write_text(config.read_text() + " ")
    assert fingerprint(str(original)) != fingerprint(str(moved))
    assert fingerprint("org/name") == "hub:org/name@main"
    assert fingerprint("org/name", "abc") != fingerprint("org/name")
    assert resolve("org/name") == "org/name"
    assert Path(resolve("embedded:minilm"), "config.json").is_file()
