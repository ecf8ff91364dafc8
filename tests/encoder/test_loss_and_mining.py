"""The contrastive loss as the formula says, negatives that are not positives, and vectors that survive the disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.encoder.contrastive import ContrastiveEncoder, LitEncoder, _trim, linear_decay
from meld.encoder.loss import contrastive_loss
from meld.encoder.mining import mine
from meld.encoder.vectors import Vectors
from meld.task.base import Alignment

GROUPS = st.lists(
    st.tuples(st.lists(st.floats(-1, 1), min_size=1, max_size=4), st.lists(st.floats(-1, 1), max_size=5)),
    min_size=1,
    max_size=5,
)


def flat(groups: list[tuple[list[float], list[float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = [
        (score, owner, positive)
        for owner, (positives, negatives) in enumerate(groups)
        for scores, positive in ((positives, True), (negatives, False))
        for score in scores
    ]
    return (
        torch.tensor([r[0] for r in rows], dtype=torch.float64),
        torch.tensor([r[1] for r in rows]),
        torch.tensor([r[2] for r in rows]),
    )


@given(GROUPS, st.sampled_from([0.02, 0.1, 1.0]), st.randoms())
def test_the_loss_is_the_formula(groups: list[tuple[list[float], list[float]]], tau: float, random: object) -> None:
    expected = 0.0
    for positives, negatives in groups:
        denominator = math.fsum(math.exp(s / tau) for s in (*positives, *negatives))
        expected += sum(-math.log(math.exp(p / tau) / denominator) for p in positives)
    scores, owner, positive = flat(groups)
    order = torch.tensor(random.sample(range(len(scores)), len(scores)))  # type: ignore[attr-defined]
    found = contrastive_loss(scores[order], owner[order], positive[order], tau)
    assert float(found) == pytest.approx(expected / len(groups), rel=1e-6, abs=1e-9)


@given(GROUPS)
def test_its_gradient_is_finite_and_points_the_right_way(groups: list[tuple[list[float], list[float]]]) -> None:
    scores, owner, positive = flat(groups)
    scores = scores.float().requires_grad_()
    contrastive_loss(scores, owner, positive, 0.001).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[~positive] >= 0).all()
    for index in range(len(groups)):
        assert float(scores.grad[owner == index].sum()) == pytest.approx(0, abs=1e-2)


class Directions:
    """An encoder without a network: every text has its own fixed direction; what was asked is remembered."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: list[str], progress: object = None) -> np.ndarray:
        self.asked += texts
        rows = [np.random.default_rng([ord(c) for c in text]).normal(size=4) for text in texts]
        array = np.array(rows, dtype=np.float32).reshape(-1, 4)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


WORDS = [f"word {i}" for i in range(12)]
SOME = st.lists(st.sampled_from(WORDS), max_size=3).map(tuple)
ALIGNMENTS = st.lists(
    st.builds(
        Alignment,
        st.sampled_from(WORDS),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple),
        st.lists(st.sampled_from(["far 1", "far 2", "far 3"]), max_size=3, unique=True).map(tuple),
        st.sampled_from(["g", "h", "unknown"]),
        SOME,
    ),
    max_size=5,
)


@settings(max_examples=60)
@given(ALIGNMENTS, st.integers(0, 5))
def test_mined_negatives_are_the_nearest_allowed(alignments: list[Alignment], wanted: int) -> None:
    groups = {"g": WORDS[:9] * 2, "h": WORDS[6:]}
    encoder = Directions()
    made = mine(alignments, groups, encoder, wanted)  # type: ignore[arg-type]
    expected = []
    for a in alignments:
        barred = {a.anchor, *a.positives, *a.excluded, *a.negatives[:wanted]}
        allowed = sorted(set(groups.get(a.group, ())) - barred)
        vector = encoder.embed([a.anchor])[0]
        allowed.sort(key=lambda text, vector=vector: -float(encoder.embed([text])[0] @ vector))
        negatives = [*a.negatives[:wanted], *allowed[: max(0, wanted - len(a.negatives))]]
        if negatives:
            expected.append((a.anchor, a.positives, tuple(negatives)))
    assert len(made) == len(alignments)
    assert [(a.anchor, a.positives, a.negatives) for a in made if a] == expected


def test_trimmed_positives_are_not_mined() -> None:
    a = _trim(Alignment("a", ("b", "c", "d"), (), "g", ("e",)), 1)
    [made] = mine([a], {"g": ["a", "b", "c", "d", "e", "f"]}, Directions(), 5)  # type: ignore[arg-type]
    assert made is not None
    assert made.positives == ("b",)
    assert made.negatives == ("f",)


def test_vectors(tmp_path: Path) -> None:
    encoder = Directions()
    vectors = Vectors.of(["b", "a", "b", "ünï\n"], encoder)  # type: ignore[arg-type]
    assert sorted(encoder.asked) == ["a", "b", "ünï\n"]
    more = vectors.extended(["c", "a"], encoder)  # type: ignore[arg-type]
    assert encoder.asked[3:] == ["c"]
    assert more.extended(["a", "c"], encoder) is more  # type: ignore[arg-type]
    assert np.array_equal(more.get(["a", "c", "a"]), encoder.embed(["a", "c", "a"]))
    assert "c" in more
    assert "c" not in vectors
    with pytest.raises(KeyError):
        vectors.get(["c"])
    mean = more.mean([["a", "b"], ["c"]])
    total = encoder.embed(["a"])[0] + encoder.embed(["b"])[0]
    np.testing.assert_allclose(mean[0], total / np.linalg.norm(total), rtol=1e-5)
    np.testing.assert_allclose(mean[1], encoder.embed(["c"])[0], rtol=1e-5)
    assert more.mean([]).shape == (0, 4)
    more.save(tmp_path)
    loaded = Vectors.load(tmp_path)
    assert loaded.texts == more.texts
    assert np.array_equal(loaded.array, more.array)
    assert len(Vectors.of([], encoder).texts) == 0  # type: ignore[arg-type]


def test_linear_decay() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    factor = linear_decay(optimizer, 20).lr_lambdas[0]
    values = [factor(step) for step in range(30)]
    assert values[:2] == [0.5, 1.0]
    assert values[1:] == sorted(values[1:], reverse=True)
    assert all(0 < value <= 1 for value in values)
    assert [linear_decay(optimizer, 1).lr_lambdas[0](step) for step in range(2)] == [1.0, 0.05]


def test_which_units_train_it() -> None:
    def trains(*names: str) -> list[bool]:
        encoder = ContrastiveEncoder("embedded:minilm", train_on=names or None)
        return [encoder.trains_on(unit) for unit in ("a.em", "a.di", "ab.em")]

    assert trains() == [True, True, True]
    assert trains("a") == [True, True, False]
    assert trains("a.em") == [True, False, False]
    assert not ContrastiveEncoder("embedded:minilm", epochs=0).trains_on("a.em")


def test_a_batch_is_the_sum_of_its_alignments() -> None:
    class Fake(LitEncoder):
        def __init__(self) -> None:
            super().__init__(torch.nn.Linear(1, 1), 0.1, 0.1, 1)

        def vectors(self, texts: list[str]) -> torch.Tensor:  # type: ignore[override]
            return torch.from_numpy(Directions().embed(texts))

    batch = [
        Alignment("a", ("b", "c"), ("d",), "g"),
        Alignment("b", ("a",), ("d", "e", "f"), "g"),
        Alignment("a", ("e",), ("f",), "g"),
    ]
    module = Fake()
    alone = [float(module.loss([alignment])) for alignment in batch]
    assert float(module.loss(batch)) == pytest.approx(sum(alone) / 3, rel=1e-5)
