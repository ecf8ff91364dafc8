"""The memory plan: what it counts, how it grows, what it warns of; and, marked slow, that measured peaks agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.memory import (
    CONSUMER_GPU,
    MemoryPlan,
    Shape,
    _by_depth,
    _Live,
    inference_plan,
    over_budget,
    training_plan,
    weight_bytes,
)
from meld.errors import UserError

TARGETS = ("q_proj", "v_proj")
ROOT = Path(__file__).resolve().parents[2]


def config(layers: int = 2) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def backbone(**changes: Any) -> HuggingFaceBackbone:
    return HuggingFaceBackbone("anything", **{"lora_targets": TARGETS, **changes})


def test_what_stays_by_hand() -> None:
    plan = training_plan(backbone(), Shape(2, 12, (3, 3)), rank=4, config=config())
    # A layer: q and o 32 x 32, k and v 16 x 32, three 48 x 32, two norms; once the embedding, the head and a norm.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32
    assert plan.parts["weights"] == 4 * (2 * layer + 2 * 64 * 32 + 32)
    adapter = 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert plan.parts["adapter"] == plan.parts["gradients"] == 4 * adapter
    assert plan.parts["optimizer"] == 8 * adapter
    assert plan.total == sum(plan.parts.values())
    assert (plan.batch, plan.tokens) == (2, 18)


def test_what_stays_when_answering_by_hand() -> None:
    plan = inference_plan(backbone(dtype="bfloat16"), Shape(3, 10, (1,)), rank=4, experts=5, writes=6, config=config())
    assert plan.parts["experts"] == 2 * 5 * 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert plan.parts["cache"] == 3 * 16 * 2 * 2 * 2 * 8 * 2
    assert "cache" not in inference_plan(backbone(), Shape(3, 10, (1,)), 4, 5, config=config()).parts


def test_quantised_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 128, bias=False), torch.nn.LayerNorm(128))
    assert weight_bytes(model, torch.bfloat16, None) == 2 * (64 * 128 + 256)
    assert weight_bytes(model, torch.bfloat16, "8bit") == 64 * 128 + 4 * 128 + 2 * 256
    four = weight_bytes(model, torch.bfloat16, "4bit") - 2 * 256
    assert four / (64 * 128) == pytest.approx(0.5159, abs=1e-4)


def test_live_bytes_are_counted_up_and_down() -> None:
    with _Live() as live:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a.view(10, 100)  # the same memory
        c = b + 1
        assert live.now == 8000
        del c
        assert live.now == 4000
        a.add_(1)
        d = torch.zeros(250)
        assert (live.now, live.peak) == (5000, 8000)
        del a, d
        assert live.now == 4000  # the view holds it
        del b
        assert live.now == 0


def test_checkpointing_longer_prompts_and_larger_batches() -> None:
    def activations(shape: Shape, **more: Any) -> int:
        return training_plan(backbone(), shape, 4, config=config(4), **more).parts["activations"]

    usual = activations(Shape(2, 60, (4,)))
    assert activations(Shape(2, 60, (4,)), checkpointing=True) < 0.7 * usual
    assert activations(Shape(4, 60, (4,))) == pytest.approx(2 * usual, rel=0.1)
    assert activations(Shape(2, 120, (4,))) > 1.9 * usual


def test_deep_models_are_extrapolated_from_shallow_ones() -> None:
    assert _by_depth(lambda layers: 100 + 7 * layers, 32) == 100 + 7 * 32
    assert _by_depth(lambda layers: 100 + layers**2, 6) == 136  # run at full depth
    asked: list[int] = []
    _by_depth(lambda layers: asked.append(layers) or 0, 80)
    assert max(asked) == 4


def test_extrapolation_agrees_with_the_full_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = training_plan(backbone(), Shape(2, 40, (4,)), 4, config=config(9)).total
    monkeypatch.setattr("meld.backbone.memory._DEEP", 100)
    assert quick == pytest.approx(training_plan(backbone(), Shape(2, 40, (4,)), 4, config=config(9)).total, rel=0.02)


def test_warnings() -> None:
    small = MemoryPlan("train an expert", 1, 8, {"weights": 3 * 2**30})
    large = MemoryPlan("train an expert", 1, 8, {"weights": CONSUMER_GPU, "adapter": 2**30})
    assert over_budget(small, None, "") == ""
    assert over_budget(small, 4 * 2**30, "this machine") == ""
    assert "this machine has 2.0 GB" in over_budget(small, 2 * 2**30, "this machine")
    assert "25.0 GB are predicted to train an expert, more than the 24 GB" in over_budget(large, None, "")
    assert "consumer GPU" in over_budget(large, 80 * 2**30, "H100")


def test_what_cannot_be_planned_is_a_user_error() -> None:
    with pytest.raises(UserError, match="LoRA targets"):
        training_plan(backbone(lora_targets=("nonsense",)), Shape(1, 8, (2,)), 4, config=config())
    with pytest.raises(UserError, match="could not be loaded"):
        training_plan(backbone(), Shape(1, 8, (2,)), 4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_predictions_are_within_15_percent_of_measured_peaks(tmp_path: Path) -> None:
    """In a process of its own: what other tests leave behind is no part of the measurement."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "memory_plan.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "met" in (tmp_path / "memory_plan.md").read_text()
