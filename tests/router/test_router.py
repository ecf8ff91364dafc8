"""What the router learns from, against plain loops."""

from __future__ import annotations

import numpy as np
import torch

from meld.progress import Silent
from meld.router.base import RoutedQuery, off_gold_agreement
from meld.router.contrastive import diversity_penalty
from meld.router.fixed import OwnExpert, Uniform


def test_agreement_counts_wrong_answers_only() -> None:
    both_right = np.array([[0.9, 0.1, 0.0], [0.9, 0.0, 0.1]])
    both_wrong = np.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    assert off_gold_agreement(both_right, 0)[0, 1] == 0.0
    assert off_gold_agreement(both_wrong, 0)[0, 1] == 0.9 * 0.8
    assert (np.diag(off_gold_agreement(both_wrong, 0)) == 0).all()


def test_diversity_penalty_is_the_sum_over_pairs() -> None:
    torch.manual_seed(0)
    weights = torch.rand(4, 3).softmax(dim=1)
    agreement = torch.rand(4, 3, 3)
    agreement = (agreement + agreement.transpose(1, 2)) / 2
    agreement.diagonal(dim1=1, dim2=2).zero_()
    expected = 0.0
    for n in range(4):
        for i in range(3):
            for j in range(i + 1, 3):
                expected += float(weights[n, i] * weights[n, j] * agreement[n, i, j]) / 4
    assert abs(float(diversity_penalty(weights, agreement)) - expected) < 1e-6


def test_positives_are_right_experts_or_the_least_wrong_one() -> None:
    nothing = np.zeros((3, 3))
    some = RoutedQuery("u", "t", np.array([2.0, 1.0, 3.0]), np.array([True, False, True]), nothing)
    none = RoutedQuery("u", "t", np.array([2.0, 1.0, 3.0]), np.zeros(3, dtype=bool), nothing)
    assert some.positives.tolist() == [True, False, True]
    assert none.positives.tolist() == [False, True, False]


def test_fixed_routers(tmp_path: object) -> None:
    experts = ("a.em", "b.di")
    own = OwnExpert().open(None, experts).weights(["b.di", "c.dc"], ["x", "y"], Silent())  # type: ignore[arg-type]
    np.testing.assert_allclose(own, [[0.0, 1.0], [0.5, 0.5]])
    uniform = Uniform().open(None, experts).weights(["b.di"], ["x"], Silent())  # type: ignore[arg-type]
    np.testing.assert_allclose(uniform, [[0.5, 0.5]])
