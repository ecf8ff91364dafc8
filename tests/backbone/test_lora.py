"""LoRA adapters: what they train, what they leave alone, and that PEFT itself reads what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import (
    ADAPTER_CONFIG,
    adapter_state,
    attach_lora,
    detach_lora,
    label_nll,
    lora_layers,
    lora_parameters,
    read_adapter,
    save_adapter,
    set_adapter_state,
    with_lora,
)
from meld.errors import UserError
from meld.types import Prompt

TARGETS = ("q_proj", "v_proj")
PROMPT = Prompt("q", "w1 w2 w3", ("match", "mismatch"))


def random_state(lm: LanguageModel, seed: int = 3) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=draw) * 0.3 for name, t in adapter_state(lm).items()}


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def scores(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.option_log_probs([lm.encode(PROMPT)])[0]


def test_gradients_flow_into_the_adapter_only(tiny: LanguageModel) -> None:
    wrapped = attach_lora(tiny, TARGETS, rank=4, alpha=8, dropout=0.0, seed=0)
    set_adapter_state(wrapped, random_state(wrapped))
    label_nll(wrapped, [wrapped.encode(PROMPT)]).sum().backward()
    named = dict(wrapped.model.named_parameters())
    with_gradient = {name for name, p in named.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient == set(lora_parameters(wrapped))
    assert len(with_gradient) == 2 * 2 * len(TARGETS)
    assert all("lora_" in name for name in with_gradient)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_it(llama: LanguageModel) -> None:
    before = scores(llama)
    with with_lora(llama, TARGETS, 4, 8, 0.1, seed=5) as wrapped:
        wrapped.model.eval()
        torch.testing.assert_close(scores(wrapped), before)
        first = adapter_state(wrapped)
    torch.manual_seed(999)
    with with_lora(llama, TARGETS, 4, 8, 0.1, seed=5) as wrapped:
        again = adapter_state(wrapped)
    with with_lora(llama, TARGETS, 4, 8, 0.1, seed=6) as wrapped:
        other = adapter_state(wrapped)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_attaching_leaves_the_global_random_state_alone(llama: LanguageModel) -> None:
    state = torch.get_rng_state()
    detach_lora(attach_lora(llama, TARGETS, 4, 8, 0.0, seed=5))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("fails", [False, True])
def test_with_lora_leaves_the_base_as_it_was(
    llama: LanguageModel, fails: bool, recwarn: pytest.WarningsRecorder
) -> None:
    before, said = weights(llama), scores(llama)

    def use() -> None:
        with with_lora(llama, TARGETS, 4, 8, 0.5, seed=0) as wrapped:
            wrapped.model.train()
            set_adapter_state(wrapped, random_state(wrapped))
            if fails:
                raise RuntimeError("killed")

    for _ in range(2):  # a second adapter must not find traces of the first
        if fails:
            with pytest.raises(RuntimeError, match="killed"):
                use()
        else:
            use()
    after = weights(llama)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not llama.model.training
    assert not any(module.training for module in llama.model.modules())
    assert not any(parameter.requires_grad for parameter in llama.model.parameters())
    assert torch.equal(scores(llama), said)
    assert not [w for w in recwarn if "second time" in str(w.message)]


def test_unknown_targets_are_a_user_error_and_leave_the_base_usable(llama: LanguageModel) -> None:
    said = scores(llama)
    with pytest.raises(UserError, match="nonsense"):
        attach_lora(llama, ["nonsense"], 4, 8, 0.0, 0)
    assert torch.equal(scores(llama), said)
    with with_lora(llama, TARGETS, 4, 8, 0.0, 0) as wrapped:
        assert lora_parameters(wrapped)


def test_saved_adapters_come_back_and_peft_reads_them(tiny: LanguageModel, tmp_path: Path) -> None:
    from peft import PeftModel

    plain = scores(tiny)
    with with_lora(tiny, TARGETS, 4, 6.0, 0.1, seed=0) as wrapped:
        wrapped.model.eval()
        state = random_state(wrapped)
        set_adapter_state(wrapped, state)
        expected = scores(wrapped)
        save_adapter(wrapped, tmp_path / "adapter")
        save_adapter(wrapped, tmp_path / "again")
    assert not torch.allclose(plain, expected, atol=1e-2)
    for file in sorted((tmp_path / "adapter").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    config, read = read_adapter(tmp_path / "adapter")
    assert config["base_model_name_or_path"] == tiny.name
    assert config["inference_mode"] is True
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    loaded = PeftModel.from_pretrained(tiny.model, tmp_path / "adapter").eval()
    torch.testing.assert_close(scores(LanguageModel(loaded, tiny.tokenizer, tiny.name)), expected)


def test_set_adapter_state_refuses_what_does_not_fit(llama: LanguageModel) -> None:
    with with_lora(llama, TARGETS, 2, 4, 0.0, 0) as wrapped:
        small = adapter_state(wrapped)
    with with_lora(llama, ("q_proj",), 4, 8, 0.0, 0) as wrapped:
        fewer = adapter_state(wrapped)
    with with_lora(llama, TARGETS, 4, 8, 0.0, 0) as wrapped:
        before = adapter_state(wrapped)
        for wrong in (small, fewer, {}, {**before, "more": torch.zeros(1)}):
            with pytest.raises(UserError, match="does not fit"):
                set_adapter_state(wrapped, wrong)
        assert all(torch.equal(before[name], tensor) for name, tensor in adapter_state(wrapped).items())


def test_listed_layers_are_the_dense_updates(tiny: LanguageModel, tmp_path: Path) -> None:
    modules = dict(tiny.model.named_modules())
    x = torch.randn(5, 32)
    plain = {name: modules[name](x) for name in modules if name.endswith(TARGETS)}
    with with_lora(tiny, TARGETS, 4, 6.0, 0.0, seed=0) as wrapped:
        wrapped.model.eval()
        set_adapter_state(wrapped, random_state(wrapped))
        save_adapter(wrapped, tmp_path)
        inner = dict(wrapped.model.get_base_model().named_modules())
        updated = {name: inner[name](x).detach() for name in plain}
    layers = lora_layers(tmp_path)
    assert {layer.name for layer in layers} == set(plain)
    for layer in layers:
        dense = layer.scale * layer.b @ layer.a
        assert dense.abs().max() > 0.1
        torch.testing.assert_close(x @ dense.T, updated[layer.name] - plain[layer.name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("bias", "all"),
    ],
)
def test_updates_that_are_not_plain_lora_are_refused(
    llama: LanguageModel, tmp_path: Path, key: str, value: object
) -> None:
    with with_lora(llama, TARGETS, 4, 8, 0.0, 0) as wrapped:
        save_adapter(wrapped, tmp_path)
    assert len(lora_layers(tmp_path)) == 4
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError):
        lora_layers(tmp_path)


def test_a_folder_without_an_adapter_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        read_adapter(tmp_path)
