"""Perplexity ratios against a plain loop over a tiny Llama."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from meld.backbone.language_model import Encoded
from meld.errors import DataError
from meld.selector.losses import label_losses
from meld.selector.quality.none import NoQuality
from meld.selector.quality.perplexity_ratio import PerplexityRatio, ratio_scores
from meld.types import Prompt

from .conftest import make_items, plain_loss


@torch.no_grad()
def test_losses_equal_a_plain_loop(tiny_lm) -> None:
    items = make_items(23, seed=3)
    losses = label_losses(tiny_lm, items, max_tokens=40, max_rows=4)
    expected = [float(plain_loss(tiny_lm, item)) for item in items]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    assert np.std(expected) > 0.1  # else the comparison would say little


@torch.no_grad()
def test_perplexity_ratio_equals_eqs_4_to_6(tiny_lm) -> None:
    labels = ["match", "mismatch", "new york", "apple"]
    without = [tiny_lm.encode(Prompt(str(i), f"question {i} about it"), [label]) for i, label in enumerate(labels)]
    shown = [
        tiny_lm.encode(Prompt(str(i), f"example {label} {i} question {i} about it"), [label])
        for i, label in enumerate(labels)
    ]
    shown[3] = without[3]  # nothing was retrieved
    quality = PerplexityRatio(max_tokens=30, max_rows=2)
    scores = quality.scores(*quality.measure(tiny_lm, shown, without))
    for index in range(4):
        ratio = math.exp(float(plain_loss(tiny_lm, shown[index]))) / math.exp(
            float(plain_loss(tiny_lm, without[index]))
        )
        expected = 1.0 if index == 3 else ratio if 0 <= ratio <= 1 else 0.0
        assert scores[index] == pytest.approx(expected, rel=1e-4)


def test_f_of_eq_6() -> None:
    prior = np.array([1.0, 1.0, 1.0, 1000.0, 0.0, 2.0])
    cond = np.array([0.5, 1.0, 1.5, 1.0, 900.0, 2.0 + 1e-9])
    np.testing.assert_allclose(ratio_scores(cond, prior), [math.exp(-0.5), 1.0, 0.0, 0.0, 0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_losses_are_not_scored_zero(bad: float) -> None:
    with pytest.raises(DataError, match="first is item 1"):
        ratio_scores(np.array([1.0, bad]), np.array([1.0, 2.0]))


def test_bad_items_are_named(tiny_lm) -> None:
    quality = PerplexityRatio()
    good = Encoded((1, 5), ((6, 2),))
    with pytest.raises(DataError, match="Item 1 of the pool takes 70 tokens, and tiny reads 64"):
        label_losses(tiny_lm, [good, Encoded((1, 5), (tuple([7] * 68),))])
    with pytest.raises(DataError, match="no prompt or no label"):
        label_losses(tiny_lm, [Encoded((1, 5), ())])
    with pytest.raises(DataError, match="another label"):
        quality.measure(tiny_lm, [good], [Encoded((1, 5), ((7, 2),))])
    with pytest.raises(DataError, match="1 items with demonstrations, but 2 without"):
        quality.measure(tiny_lm, [good], [good, good])
    with torch.no_grad():
        tiny_lm.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not a number"):
        label_losses(tiny_lm, [good])


def test_the_model_is_left_as_it_was(tiny_lm) -> None:
    tiny_lm.model.train()
    label_losses(tiny_lm, make_items(2, seed=0))
    assert tiny_lm.model.training


def test_no_quality_needs_no_losses() -> None:
    quality = NoQuality()
    assert not quality.needs_losses
    assert quality.scores(np.full(3, np.nan), np.full(3, np.nan)).tolist() == [0.0, 0.0, 0.0]
