"""Training an adapter on a tiny random model: kept where it helps on held-out questions, given up where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import read_adapter
from meld.errors import ConfigError
from meld.expert.lora import Lesson, LitExpert, LoraExpert, interpolated
from meld.progress import Silent
from meld.trainer.fit import LightningTrainer

YES, NO, END = 5, 6, 2


@pytest.fixture
def lm() -> LanguageModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama", vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").requires_grad_(False).eval()
    tokenizer = SimpleNamespace(eos_token_id=END, bos_token_id=1, pad_token_id=0)
    return LanguageModel(model, tokenizer, "tiny")


def lessons(n: int, turned: bool = False) -> list[Lesson]:
    """The answer is *yes* where token 10 asks and *no* where token 11 does, or the other way round."""
    made = []
    for i in range(n):
        right, wrong = ((YES, END), (NO, END)) if (i % 2 == 0) != turned else ((NO, END), (YES, END))
        made.append(Lesson(Encoded((1, 12 + i % 9, 10 + i % 2), (right, wrong))))
    return made


def fit(lm: LanguageModel, dev: list[Lesson], folder: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "objective": "ranking", "lr": 2e-2, "epochs": 4, **options}
    expert = LoraExpert(**{"patience": 9, **options})
    return expert.fit(
        lm, ["q_proj", "v_proj"], lessons(24), dev, folder / "adapter", folder / "work", LightningTrainer(), 0, "test",
        Silent(),
    )  # fmt: skip


def change(folder: Path) -> float:
    """How large the update is; a fresh adapter changes nothing."""
    state = read_adapter(folder / "adapter")[1]
    return float(sum(tensor.abs().sum() for name, tensor in state.items() if "lora_B" in name))


def test_what_helps_is_kept(lm: LanguageModel, tmp_path: Path) -> None:
    found = fit(lm, lessons(10), tmp_path)
    assert found["kept"]
    assert found["gain"] == pytest.approx(found["dev_loss_before"] - found["dev_loss_after"], abs=2e-6)
    assert found["gain"] > found["gain_error"] > 0
    assert change(tmp_path) > 0
    assert (found["examples"], found["dev_examples"]) == (24, 10)
    json.dumps(found, allow_nan=False)


def test_what_hurts_is_given_up_unless_noise_would_explain_it(lm: LanguageModel, tmp_path: Path) -> None:
    found = fit(lm, lessons(10, turned=True), tmp_path / "a")
    assert not found["kept"]
    assert found["gain"] < 0
    assert change(tmp_path / "a") == 0
    patient = fit(lm, lessons(10, turned=True), tmp_path / "b", tolerance=1e6)
    assert patient["kept"]
    assert change(tmp_path / "b") > 0


def test_without_dev_there_is_nothing_to_decide(lm: LanguageModel, tmp_path: Path) -> None:
    found = fit(lm, [], tmp_path, epochs=1)
    assert found["kept"]
    assert found["dev_loss_before"] is found["gain"] is found["gain_error"] is None
    assert change(tmp_path) > 0
    json.dumps(found, allow_nan=False)


def test_dev_losses_are_those_of_each_question_alone(lm: LanguageModel) -> None:
    module = LitExpert(lm, "ranking", 1e-3, 0.0, 1)
    dev = lessons(7)
    together = LoraExpert(batch_size=4)._dev_losses(module, dev)
    alone = [float(module.loss([lesson])) for lesson in dev]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    with torch.no_grad():
        weighted = [Lesson(lesson.encoded, weight) for lesson, weight in zip(dev, (1, 2, 3, 1, 1, 1, 5), strict=True)]
        mean = np.average(alone, weights=[lesson.weight for lesson in weighted])
        assert float(module.loss(weighted)) == pytest.approx(float(mean), rel=1e-4)


def test_dev_decides_how_far_training_may_go(lm: LanguageModel, tmp_path: Path) -> None:
    """Where dev contradicts what was trained, the weakest strength loses least; where it agrees, the whole is taken."""
    options: dict[str, Any] = {"tolerance": 1e6, "epochs": 1, "batch_size": 1, "lr": 5e-2}
    whole = fit(lm, lessons(10, turned=True), tmp_path / "whole", **options)
    weaker = fit(lm, lessons(10, turned=True), tmp_path / "weaker", strengths=(1.0, 0.5, 0.25), **options)
    assert weaker["strength"] == 0.25
    assert weaker["dev_loss_after"] < whole["dev_loss_after"]
    assert 0 < change(tmp_path / "weaker") < change(tmp_path / "whole")
    assert fit(lm, lessons(10), tmp_path / "helps", strengths=(1.0, 0.25))["strength"] == 1.0


def test_interpolation_of_weights_against_a_plain_sum() -> None:
    start, end = {"a": torch.tensor([1.0, -2.0])}, {"a": torch.tensor([3.0, 2.0])}
    assert interpolated(start, end, 1.0) is end
    torch.testing.assert_close(interpolated(start, end, 0.25)["a"], 0.75 * start["a"] + 0.25 * end["a"])


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.5,)])
def test_strengths_that_make_no_sense(strengths: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="strengths"):
        LoraExpert(strengths=strengths)
