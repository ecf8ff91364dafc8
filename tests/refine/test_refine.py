"""Refinement's choice of new material, and its information bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.refine.base import Material, Measured, club, info_nce, relevant_not_redundant
from meld.refine.iterative import IterativeRefinement
from meld.refine.mixture import MixtureRefinement, text_of
from meld.seeds import derive
from meld.selector.dsir import dsir_scores, resample
from meld.types import Query, Sample


def _unit(rng: np.random.Generator, n: int, d: int = 6) -> np.ndarray:  # type: ignore[type-arg]
    array = rng.normal(size=(n, d)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def _samples(n: int, unit: str, provenance: str) -> list[Sample]:
    return [
        Sample(Query(f"{unit}/{provenance}/{i}", unit, "di", ({"a": f"word{i} {unit}"},), target="b"), "x", provenance)
        for i in range(n)
    ]


def test_greedy_choice_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    pool, target, own = _unit(rng, 12), _unit(rng, 3), _unit(rng, 5)
    centroid = target.mean(axis=0) / np.linalg.norm(target.mean(axis=0))
    chosen: list[int] = []
    for _ in range(4):
        best, best_gain = -1, -math.inf
        for j in range(12):
            if j in chosen:
                continue
            gain = float(pool[j] @ centroid) - float(np.mean([pool[j] @ x for x in own]))
            gain -= max([float(pool[j] @ pool[c]) for c in chosen] + [0.0])
            if gain > best_gain + 1e-9:
                best, best_gain = j, gain
        chosen.append(best)
    assert relevant_not_redundant(pool, target, own, 4, 1.0) == chosen


def test_info_nce_cannot_exceed_log_n() -> None:
    vectors = np.eye(8, dtype=np.float32)
    assert info_nce(vectors, vectors, 0.01) <= math.log(8) + 1e-9
    assert info_nce(vectors, vectors, 0.01) > math.log(8) - 1e-6


@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([0.05, 0.1, 1.0]))
def test_information_bounds_against_plain_loops(seed: int, n: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    left, right = _unit(rng, n), _unit(rng, n)
    score = [[float(np.dot(x, y)) / tau for y in right] for x in left]
    nce = sum(score[i][i] - math.log(sum(math.exp(s) for s in score[i]) / n) for i in range(n)) / n
    assert info_nce(left, right, tau) == pytest.approx(nce, rel=1e-4, abs=1e-5)
    assert nce <= math.log(n) + 1e-9
    mean_all = sum(sum(row) for row in score) / n**2
    assert club(left, right, tau) == pytest.approx(
        sum(score[i][i] for i in range(n)) / n - mean_all, rel=1e-4, abs=1e-5
    )


def test_bounds_on_vectors_that_have_nothing_or_everything_in_common() -> None:
    same = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (6, 1))
    assert info_nce(same, same, 0.1) == pytest.approx(0.0, abs=1e-6)  # a constant tells nothing
    assert club(same, same, 0.1) == pytest.approx(0.0, abs=1e-6)
    eye = np.eye(6, dtype=np.float32)
    assert club(eye, eye, 0.1) == pytest.approx(10 * (1 - 1 / 6), rel=1e-6)
    assert club(eye, eye, 0.1) > info_nce(eye, eye, 0.1) > 0


def _material() -> Material:
    rng = np.random.default_rng(1)
    own = [*_samples(4, "a.di", "labelled"), *_samples(10, "a.di", "pseudo")]
    others = _samples(20, "b.di", "pseudo")
    return Material(own, _unit(rng, 14), others, _unit(rng, 20), _unit(rng, 4))


def test_rounds_keep_labels_and_use_foreign_samples_once() -> None:
    rounds = IterativeRefinement(sigma=3, share=0.5, delta=0.5).rounds(_material(), seed=0)
    foreign: list[str] = []
    for planned in rounds:
        assert sum(s.provenance == "labelled" for s in planned.samples) == 4
        foreign += [s.id for s in planned.samples if s.query.unit == "b.di"]
    assert len(rounds) == 3
    assert len(foreign) == len(set(foreign)) > 0


def test_mixture_is_one_round_of_everything_selected_and_an_auxiliary_half() -> None:
    (planned,) = MixtureRefinement(2.0, 1.0, auxiliary=0.5).rounds(_material(), seed=0)
    assert planned.added == 7
    assert len(planned.samples) == 21


def test_the_auxiliary_set_is_dsir_then_eq_7_over_what_selection_measured() -> None:
    """Against both steps written out, with labelled samples of other units left alone."""
    base = _material()
    others = [*_samples(3, "b.di", "labelled"), *base.others]
    rng = np.random.default_rng(5)
    measured = Measured(np.arange(3, 23), rng.normal(size=(20, 5)).astype(np.float32), rng.random(20))
    material = Material(base.own, base.own_vectors, others, _unit(rng, 23), base.target, measured)
    (planned,) = MixtureRefinement(2.0, 1.0, auxiliary=0.5, keep=2.0).rounds(material, seed=4)
    chosen = [s.id for s in planned.samples[14:]]

    texts = [text_of(s) for s in others[3:]]
    scores = dsir_scores(texts, [text_of(s) for s in base.own if s.provenance == "labelled"])
    kept = resample(scores, 14, derive(4, "dsir"))
    x = measured.embeddings[kept].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    w, quality = (1 + x @ x.T) / 2, measured.quality[kept]
    factors = 1 / (2 * w.sum(axis=0) - np.diag(w)).std(), 1 / quality.std()
    picks: list[int] = []
    for _ in range(7):

        def value(items: list[int]) -> float:
            redundancy = w[np.ix_(items, items)].sum()
            return factors[0] * (2 * w[:, items].sum() - redundancy) + factors[1] * quality[items].sum()

        rest = [i for i in range(14) if i not in picks]
        picks.append(max(rest, key=lambda i: value([*picks, i])))
    assert chosen == [others[3 + int(kept[i])].id for i in picks]
    assert planned.report["auxiliary_by_eq_7"]


def test_other_units_labels_are_no_auxiliary_samples() -> None:
    base = _material()
    others = [*_samples(30, "b.di", "labelled"), *base.others[:2]]
    material = Material(base.own, base.own_vectors, others, _unit(np.random.default_rng(2), 32), base.target)
    (planned,) = MixtureRefinement(2.0, 1.0).rounds(material, seed=0)
    assert planned.added == 2
    assert not planned.report["auxiliary_by_eq_7"]
    none = Material(base.own, base.own_vectors, others[:30], _unit(np.random.default_rng(2), 30), base.target)
    assert MixtureRefinement(2.0, 1.0).rounds(none, seed=0)[0].added == 0
