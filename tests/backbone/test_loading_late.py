"""Weights are loaded when they are asked for, and one program at a time holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import UserError

ITEM = Encoded((1, 5, 6), ((7, 2), (8, 9, 2)))


def test_opening_loads_no_weights_and_using_loads_the_same_ones(model_folders: dict[str, Path]) -> None:
    recipe = HuggingFaceBackbone(str(model_folders["llama"]), device="cpu")
    late, now = recipe.open(), recipe.load()
    assert late._model is None
    assert now._model is not None
    assert (late.window, late.end_id, late.count("some words")) == (now.window, now.end_id, now.count("some words"))
    assert late._model is None
    with torch.no_grad():
        torch.testing.assert_close(late.option_log_probs([ITEM])[0], now.option_log_probs([ITEM])[0], rtol=0, atol=0)
    assert late.model is late.model


def test_modules_are_known_without_weights(model_folders: dict[str, Path]) -> None:
    for recipe in (
        HuggingFaceBackbone(str(model_folders["llama"]), device="cpu"),
        HuggingFaceBackbone(str(model_folders["llama"]), layers=1, device="cpu"),
        HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu"),
    ):
        lm = recipe.open()
        bare = lm.modules
        assert lm._model is None
        shapes = {n: (m.out_features, m.in_features) for n, m in bare.items() if isinstance(m, torch.nn.Linear)}
        whole = {n: (m.out_features, m.in_features) for n, m in lm.model.named_modules() if hasattr(m, "in_features")}
        assert shapes == whole
        assert list(bare) == list(lm.modules)


def test_memory_is_lent_and_given_back_once(model_folders: dict[str, Path]) -> None:
    lm = HuggingFaceBackbone(str(model_folders["llama"]), device="cpu").load()
    before = lm.model
    said: list[str] = []
    lm.lend_memory(lambda: said.append("stopped"))
    assert lm._model is None
    assert said == []
    with torch.no_grad():
        scores = lm.option_log_probs([ITEM])[0]
    assert said == ["stopped"]
    assert lm.model is not before
    assert said == ["stopped"]
    with torch.no_grad():
        again = LanguageModel(before, lm.tokenizer, lm.name).option_log_probs([ITEM])[0]
    torch.testing.assert_close(scores, again, rtol=0, atol=0)


def test_weights_that_cannot_be_loaded_again_stay(model_folders: dict[str, Path]) -> None:
    loaded = HuggingFaceBackbone(str(model_folders["llama"]), device="cpu").load()
    lm = LanguageModel(loaded.model, loaded.tokenizer, "by hand")
    lm.lend_memory(lambda: pytest.fail("nobody has to give anything back"))
    assert lm.model is loaded.model
    with pytest.raises(ValueError, match="needs its weights, or a recipe"):
        LanguageModel(None, loaded.tokenizer, "nothing")


def test_weights_that_are_missing_are_said_when_they_are_asked_for(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "cut"
    shutil.copytree(model_folders["llama"], folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    lm = HuggingFaceBackbone(str(folder), device="cpu").open()
    with pytest.raises(UserError, match="could not be loaded"):
        _ = lm.model
