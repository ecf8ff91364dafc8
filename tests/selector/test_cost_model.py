"""The cost model against arithmetic, and against a measurement of its own steps."""

from __future__ import annotations

import pytest

from meld.backbone.language_model import Encoded
from meld.selector.cost_model import Work, at_scale, operations_ratio, predicted_seconds, speed, work_of
from meld.selector.costs import BACKWARD, FORWARD, Meter, layer_parameters
from meld.selector.losses import label_losses

from .conftest import VOCABULARY, make_tiny_lm


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


@pytest.mark.slow
def test_the_model_predicts_what_longer_prompts_take() -> None:
    """Eight times the tokens take several times as long; small batches carry overhead, hence the wide bounds."""
    lm = make_tiny_lm()
    seconds = []
    for length in (6, 48):
        items = [Encoded(tuple([1] * length), ((5, 2),))] * 256
        label_losses(lm, items)
        meter = Meter()
        with meter.step("losses") as step:
            step.work(lm, items, FORWARD)
            label_losses(lm, items)
        seconds.append(step)
    rate = speed(work_of([{**vars(seconds[0])}]))["proxy"]
    ratio = seconds[1].seconds / predicted_seconds(work_of([{**vars(seconds[1])}])[0], rate)
    assert 0.1 < ratio < 2.0
