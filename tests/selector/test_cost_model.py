"""The cost model against arithmetic, and against a measurement of its own steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import with_lora
from meld.selector.cost_model import Work, at_scale, operations_ratio, predicted_seconds, speed, work_of
from meld.selector.costs import BACKWARD, FORWARD, Meter, layer_parameters
from meld.selector.influence.gradients import mean_gradient
from meld.selector.losses import label_losses

from .conftest import VOCABULARY, WordTokenizer, make_tiny_lm


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute on so many cores for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_ratio_at_the_papers_scale() -> None:
    """14k samples of 500 tokens: losses twice, gradients once, a warm-up on 30 %; training three passes on 30 %."""
    tokens = 14_000 * 500
    selection = [
        Work("proxy", tokens, 2 * FORWARD, 500),
        Work("proxy", tokens, BACKWARD, 500),
        Work("proxy", int(0.3 * tokens), BACKWARD, 500),
    ]
    training = Work("expert", int(0.3 * tokens), 3 * BACKWARD, 500), Work("expert", tokens, 3 * BACKWARD, 500)
    scaled = at_scale([*selection, *training], {"proxy": 500_000_000, "expert": 7_000_000_000})
    ratio = operations_ratio(scaled[:3], scaled[3], scaled[4])
    assert ratio == pytest.approx(0.3 + (2 + 2 + 0.6) * 0.5 / (6 * 7))
    assert operations_ratio(selection, *training) == pytest.approx(0.3 + (2 + 2 + 0.6) / 6)


def test_speed_and_prediction() -> None:
    work = [Work("proxy", 100, 1.0, 10, 2.0), Work("proxy", 300, 2.0, 10, 11.0), Work("expert", 10, 1.0, 5)]
    assert speed(work) == {"proxy": pytest.approx((2000 + 12000) / 13.0)}
    assert predicted_seconds(work[0], 1000.0) == 2.0


def test_only_steps_in_the_proxy_count() -> None:
    steps = [
        {"name": "embeddings", "model": "", "tokens": 0, "passes": 0.0, "parameters": 0, "seconds": 3.0},
        {"name": "losses", "model": "proxy", "tokens": 7, "passes": 1.5, "parameters": 11, "seconds": 0.5},
    ]
    assert work_of(steps) == [Work("proxy", 7, 1.5, 11, 0.5)]


def test_parameters_are_those_that_every_token_passes() -> None:
    lm = make_tiny_lm()
    every = sum(p.numel() for p in lm.model.parameters())
    assert layer_parameters(lm) == every - 2 * VOCABULARY * 32  # input embeddings and head


def test_a_step_adds_up_its_work() -> None:
    lm = make_tiny_lm()
    items = [Encoded((1, 5, 6), ((7, 2), (8,))), Encoded((1,), ((9, 2),))]
    meter = Meter()
    with meter.step("both") as step:
        step.work(lm, items, FORWARD)
        step.work(lm, items[:1], BACKWARD)
        label_losses(lm, items)
    assert (step.tokens, step.model) == (13, "proxy")
    assert step.tokens * step.passes == pytest.approx(8 * 1 + 5 * 2)
    assert meter.steps == [step]
    assert step.seconds > 0.0
    assert meter.plain()["steps"][0]["tokens"] == 13


def _llama(layers: int) -> LanguageModel:
    """Large enough that arithmetic, which the model counts, is most of what is done."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )
    return LanguageModel(LlamaForCausalLM(config).eval().requires_grad_(False), WordTokenizer(), f"{layers} layers")


@pytest.mark.slow
def test_one_speed_serves_for_lengths_sizes_and_kinds_of_passes() -> None:
    """Four times the tokens, three times the layers, a backward pass: seconds follow tokens x parameters x passes.

    The fastest of several rounds counts: other programs only ever slow a step down. Within a factor of two, since short
    steps carry overhead, attention grows with the square of the length, and a backward pass costs adapters something.
    """
    small, large = _llama(2), _llama(6)
    short = [Encoded(tuple([1] * 30), ((5, 2),))] * 64
    long = [Encoded(tuple([1] * 126), ((5, 2),))] * 64
    rounds: list[list[Work]] = []
    with with_lora(small, ["q_proj", "v_proj"], 4, 8.0, 0.0, 0) as adapted, threads(1):
        for _ in range(4):
            meter = Meter()
            for name, lm, items in (("short", small, short), ("long", small, long), ("large", large, short)):
                with meter.step(name) as step:
                    step.work(lm, items, FORWARD)
                    label_losses(lm, items)
            with meter.step("backward") as step:
                step.work(adapted, long, BACKWARD)
                mean_gradient(adapted, long, 8192, 64, "pool")
            rounds.append(work_of(meter.plain()["steps"]))
    best = [min(same, key=lambda work: work.seconds) for same in zip(*rounds[1:], strict=True)]
    assert best[1].operations == pytest.approx(4 * best[0].operations, rel=0.01)
    assert best[2].operations == pytest.approx(3 * best[0].operations, rel=0.01)
    speeds = [speed([work])["proxy"] for work in best]
    assert max(speeds) < 2.0 * min(speeds), speeds
    for work in best:
        assert 0.5 < predicted_seconds(work, speed(best)["proxy"]) / work.seconds < 2.0
