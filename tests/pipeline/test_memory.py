"""What a dry run says about memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.memory import MemoryPlan
from meld.config.compose import load_config
from meld.config.tree import plain
from meld.pipeline import memory


@pytest.fixture
def small(tmp_path: Path) -> HuggingFaceBackbone:
    """A base model of which there is nothing but the configuration: no weight is read."""
    from transformers import AutoConfig

    AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    ).save_pretrained(tmp_path)
    return HuggingFaceBackbone(
        str(tmp_path), decode="rank", max_prompt_tokens=64, lora_targets=("q_proj",), batch_tokens=512
    )


def said(tree: dict[str, Any], backbone: HuggingFaceBackbone, experts: int = 3) -> str:
    out = io.StringIO()
    memory.show_memory(tree, backbone, experts, Console(file=out, width=200, no_color=True))
    return out.getvalue()


def test_both_peaks_are_shown(small: HuggingFaceBackbone) -> None:
    text = said(plain(load_config([])), small)
    assert "train an expert" in text
    assert "answer with all experts" in text
    assert "warning" not in text


def test_more_of_anything_takes_more(small: HuggingFaceBackbone) -> None:
    def totals(*overrides: str) -> list[int]:
        return [plan.total for plan in memory.predict(plain(load_config(overrides)), small, 3)]

    usual = totals()
    larger = totals("expert.batch_size=8")
    assert larger[0] > 1.4 * usual[0]
    assert larger[1] == usual[1]
    small.batch_tokens = 2048
    assert totals()[0] == usual[0]
    assert totals()[1] > usual[1]
    small.decode = "generate"
    assert "cache" in memory.predict(plain(load_config([])), small, 3)[1].parts


@pytest.mark.parametrize(
    ("overrides", "words"),
    [([], "this machine has 8.0 GB"), (["trainer=gpu"], "more than the 24 GB of one consumer GPU")],
)
def test_what_does_not_fit_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, small: HuggingFaceBackbone, overrides: list[str], words: str
) -> None:
    plan = MemoryPlan("train an expert", 8, 2048, {"weights": 14 * 2**30, "activations": 20 * 2**30})
    monkeypatch.setattr(memory, "predict", lambda *_: [plan])
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)

    class Memory:
        total = 8 * 2**30

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)
    text = said(plain(load_config(overrides)), small)
    assert "34.00" in text
    assert words in text
    assert "expert.gradient_checkpointing=true" in text


def test_a_run_without_experts_needs_no_plan(small: HuggingFaceBackbone) -> None:
    assert said(plain(load_config([])), small, experts=0) == ""
