"""The losses of the learned routers against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.errors import ConfigError
from meld.router.base import RoutedQuery, routed_query
from meld.router.classifier import ClassifierRouter, cross_entropy, multi_label
from meld.router.contrastive import router_loss


def queries(seed: int, n: int, experts: int) -> list[RoutedQuery]:
    """Answers of random experts over four options."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        probabilities = rng.dirichlet(np.full(4, 0.7), size=experts)
        made.append(routed_query("a.em", "text", probabilities, np.log(probabilities[:, 0])))
    return made


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def naive_router_loss(cosines: list[list[float]], batch: list[RoutedQuery], tau: float, diversity: float) -> float:
    """Eq. 2 as written: attract the positives one by one, and pay for pairs that are wrong alike."""
    terms, pairs = [], 0.0
    for row, query in zip(cosines, batch, strict=True):
        p = softmax([c / tau for c in row])
        if not all(query.positives):
            terms += [-math.log(p[e]) for e, positive in enumerate(query.positives) if positive]
        for i in range(len(row)):
            for j in range(i + 1, len(row)):
                pairs += p[i] * p[j] * query.agreement[i, j]
    return (sum(terms) / len(terms) if terms else 0.0) + diversity * pairs / len(batch)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5), st.floats(0.05, 1.0), st.floats(0.0, 2.0))
def test_the_contrastive_loss_is_eq_2(seed: int, n: int, experts: int, tau: float, diversity: float) -> None:
    batch = queries(seed, n, experts)
    cosines = np.random.default_rng(seed + 1).uniform(-1, 1, (n, experts))
    found = router_loss(torch.tensor(cosines), batch, tau, diversity)
    assert float(found) == pytest.approx(naive_router_loss(cosines.tolist(), batch, tau, diversity), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5))
def test_the_classifiers_losses(seed: int, n: int, experts: int) -> None:
    batch = queries(seed, n, experts)
    scores = np.random.default_rng(seed + 2).normal(0, 2, (n, experts))
    even, yes_or_no = [], []
    for row, query in zip(scores.tolist(), batch, strict=True):
        p = softmax(row)
        even.append(-float(np.mean([math.log(p[e]) for e in range(experts) if query.positives[e]])))
        for x, positive in zip(row, query.positives, strict=True):
            yes = 1 / (1 + math.exp(-x))
            yes_or_no.append(-math.log(yes if positive else 1 - yes))
    assert float(cross_entropy(torch.tensor(scores), batch)) == pytest.approx(float(np.mean(even)), abs=1e-5)
    assert float(multi_label(torch.tensor(scores), batch)) == pytest.approx(float(np.mean(yes_or_no)), abs=1e-5)


def test_a_query_that_all_answer_right_states_no_preference() -> None:
    every = routed_query("u", "t", np.array([[0.9, 0.1], [0.8, 0.2]]), np.zeros(2))
    assert every.right.all()
    assert float(router_loss(torch.tensor([[0.9, -0.9]]), [every], 0.1, 0.0)) == 0.0


def test_written_answers_are_judged_by_the_labels_score() -> None:
    written = routed_query("u", "t", np.ones((3, 1)), np.array([-4.0, -1.0, -2.0]))
    assert written.losses.tolist() == [4.0, 1.0, 2.0]
    assert written.positives.tolist() == [False, True, False]
    assert not written.agreement.any()


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="multi_label") as caught:
        ClassifierRouter(loss="hinge")  # type: ignore[arg-type]
    assert "router.loss=cross_entropy" in str(caught.value)
