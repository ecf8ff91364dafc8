"""Adapters that cannot be mixed are refused by both engines before anything runs, with what is wrong and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, save_adapter, with_lora
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.errors import UserError

Fresh = Callable[[str], LanguageModel]
Adapters = Callable[..., dict[str, Path]]
TARGETS = ("q_proj", "v_proj")

engines = pytest.mark.parametrize("engine", [StackedEngine(), HuggingFaceEngine()], ids=["stacked", "hf"])


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **changes}))


def keep(folder: Path, wanted: Callable[[str], bool]) -> None:
    state = load_file(folder / ADAPTER_WEIGHTS)
    save_file({name: t.clone() for name, t in state.items() if wanted(name)}, folder / ADAPTER_WEIGHTS)


@engines
def test_another_base(fresh: Fresh, adapters: Adapters, engine: StackedEngine | HuggingFaceEngine) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    configure(folders["set2.em"], base_model_name_or_path="mistralai/Mistral-7B-v0.1")
    with pytest.raises(UserError, match=r"'set2.em' was trained on mistralai/Mistral-7B-v0.1, not on tiny-llama"):
        engine.open(lm, folders)


@engines
def test_unequal_ranks(fresh: Fresh, adapters: Adapters, engine: StackedEngine | HuggingFaceEngine) -> None:
    lm = fresh("llama")
    with pytest.raises(UserError, match=r"different ranks \(set0.em: 4, set1.em: 8\)"):
        engine.open(lm, adapters(lm, TARGETS, (4, 8)))


@engines
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_rslora": True}, "rsLoRA or DoRA"),
        ({"use_dora": True}, "rsLoRA or DoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_plain_lora(
    fresh: Fresh,
    adapters: Adapters,
    engine: StackedEngine | HuggingFaceEngine,
    changes: dict[str, object],
    words: str,
) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    configure(folders["set1.em"], **changes)
    with pytest.raises(UserError, match=words) as caught:
        engine.open(lm, folders)
    assert str(folders["set1.em"]) in str(caught.value)
    assert "plain LoRA" in caught.value.fix


@engines
def test_a_real_dora_adapter(
    fresh: Fresh, adapters: Adapters, tmp_path: Path, engine: StackedEngine | HuggingFaceEngine
) -> None:
    """As PEFT itself writes it, not only by its configuration."""
    from peft import LoraConfig, get_peft_model

    lm = fresh("llama")
    folders = adapters(lm, TARGETS, (4,))
    for flag in ({"use_dora": True}, {"use_rslora": True}):
        wrapped = get_peft_model(fresh("llama").model, LoraConfig(r=4, target_modules=list(TARGETS), **flag))
        folder = tmp_path / next(iter(flag))
        save_adapter(LanguageModel(wrapped, lm.tokenizer, lm.name), folder)
        with pytest.raises(UserError, match="rsLoRA or DoRA"):
            engine.open(lm, {**folders, "other": folder})


@engines
def test_missing_layers(fresh: Fresh, adapters: Adapters, engine: StackedEngine | HuggingFaceEngine) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    keep(folders["set1.em"], lambda name: "layers.1." not in name)
    with pytest.raises(UserError, match=r"'set1.em' lacks the updates of 2 layers .* model.layers.1.self_attn.q_proj"):
        engine.open(lm, folders)
    keep(folders["set1.em"], lambda name: "lora_B" not in name or "layers.0" not in name)
    with pytest.raises(UserError, match=r"only one factor of the update of model.layers.0.self_attn.q_proj"):
        engine.open(lm, folders)
    keep(folders["set1.em"], lambda name: "lora_A" not in name)
    with pytest.raises(UserError, match="file is incomplete"):
        engine.open(lm, folders)


@engines
def test_layers_the_base_does_not_have_or_has_in_another_shape(
    fresh: Fresh, adapters: Adapters, engine: StackedEngine | HuggingFaceEngine
) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    state = load_file(folders["set3.em"] / ADAPTER_WEIGHTS)
    renamed = {name.replace("layers.1.", "layers.7."): t for name, t in state.items()}
    save_file(renamed, folders["set3.em"] / ADAPTER_WEIGHTS)
    with pytest.raises(UserError, match=r"layers that tiny-llama does not have, e.g. model.layers.7"):
        engine.open(lm, folders)
    wide = {n: torch.zeros(t.shape[0], 64) if "q_proj.lora_A" in n else t for n, t in state.items()}
    save_file(wide, folders["set3.em"] / ADAPTER_WEIGHTS)
    with pytest.raises(UserError, match=r"as a 32 x 64 matrix; in tiny-llama it is 32 x 32"):
        engine.open(lm, folders)


@engines
def test_no_adapter_at_all(
    fresh: Fresh, adapters: Adapters, tmp_path: Path, engine: StackedEngine | HuggingFaceEngine
) -> None:
    lm = fresh("llama")
    with pytest.raises(UserError, match="no expert"):
        engine.open(lm, {})
    with pytest.raises(UserError, match="holds no adapter"):
        engine.open(lm, {"gone": tmp_path / "gone"})


@engines
def test_a_refusal_leaves_the_base_usable(
    fresh: Fresh, adapters: Adapters, tmp_path: Path, engine: StackedEngine | HuggingFaceEngine
) -> None:
    lm = fresh("llama")
    names = [name for name, _ in lm.model.named_modules()]
    folders = adapters(lm, TARGETS, (4, 4))
    broken = tmp_path / "broken"
    shutil.copytree(folders["set1.em"], broken)
    configure(broken, use_dora=True)
    with pytest.raises(UserError):
        engine.open(lm, {**folders, "broken": broken})
    assert [name for name, _ in lm.model.named_modules()] == names
    assert not any(module._forward_hooks for module in lm.model.modules())
    with with_lora(lm, TARGETS, 2, 4.0, 0.0, 0):
        pass
