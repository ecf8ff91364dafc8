"""Paired differences against a naive bootstrap that draws queries one by one and scores them anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.evaluate.counting import Counted
from meld.evaluate.metrics import counted, score
from meld.evaluate.paired import paired_difference
from meld.types import Prediction


def _system(rng: np.random.Generator, truth: Sequence[str], right: float) -> list[str]:
    other = {"match": "mismatch", "mismatch": "match"}
    return [label if rng.random() < right else other[label] for label in truth]


def _f1(truth: Sequence[str], said: Sequence[str]) -> float:
    """By the textbook."""
    hits = sum(t == s == "match" for t, s in zip(truth, said, strict=True))
    wrong = sum(t != s for t, s in zip(truth, said, strict=True))
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 0.0


def _counted(truth: Sequence[str], said: Sequence[str], task: str = "em") -> Counted:
    ids = [f"d.{task}/test/{i}" for i in range(len(truth))]
    predictions = [Prediction(i, answer, 1.0) for i, answer in zip(ids, said, strict=True)]
    return counted(task, predictions, {i: (t,) for i, t in zip(ids, truth, strict=True)}, {})


@pytest.fixture
def pair() -> tuple[list[str], list[list[str]], list[list[str]]]:
    rng = np.random.default_rng(5)
    truth = ["match" if rng.random() < 0.3 else "mismatch" for _ in range(80)]
    return truth, [_system(rng, truth, 0.75) for _ in range(3)], [_system(rng, truth, 0.9) for _ in range(3)]


def test_against_a_naive_paired_bootstrap(pair: tuple[list[str], list[list[str]], list[list[str]]]) -> None:
    truth, base, new = pair
    found = paired_difference(
        [_counted(truth, s) for s in base], [_counted(truth, s) for s in new], "f1", seed=0, resamples=4000
    )
    assert found.value == pytest.approx(
        np.mean([_f1(truth, b) - _f1(truth, a) for a, b in zip(base, new, strict=True)]), abs=1e-12
    )
    assert (found.groups, found.seeds) == (80, 3)
    rng = np.random.default_rng(99)
    naive = []
    for _ in range(4000):
        draw = rng.integers(len(truth), size=len(truth))
        drawn: Callable[[Sequence[str]], list[str]] = lambda side, draw=draw: [side[i] for i in draw]  # type: ignore[misc]  # noqa: E731
        naive.append(
            np.mean([_f1(drawn(truth), drawn(b)) - _f1(drawn(truth), drawn(a)) for a, b in zip(base, new, strict=True)])
        )
    low, high = np.percentile(naive, [2.5, 97.5])
    # Two Monte Carlo estimates of the same interval; the standard error of either end is below 0.006 here.
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_pairing_cancels_what_is_hard_for_both(pair: tuple[list[str], list[list[str]], list[list[str]]]) -> None:
    truth, base, _ = pair
    nearly = list(base[0])
    change = next(i for i, (t, s) in enumerate(zip(truth, nearly, strict=True)) if t == "match" != s)
    nearly[change] = "match"
    one, two = _counted(truth, base[0]), _counted(truth, nearly)
    found = paired_difference([one], [two], "f1", seed=0)
    alone = score("em", [], {}, {}, 0)[0]
    assert alone.n == 0
    assert found.low >= 0
    assert found.high < 0.2
    assert not found.clear  # a resample may lack the one query


@given(st.lists(st.sampled_from(["match", "mismatch"]), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_system_does_not_differ_from_itself_and_signs_turn(truth: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = (_counted(truth, _system(rng, truth, 0.6)) for _ in range(2))
    same = paired_difference([one], [one], "f1", seed, resamples=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    there = paired_difference([one], [two], "f1", seed, resamples=50)
    back = paired_difference([two], [one], "f1", seed, resamples=50)
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)


def test_cells_are_drawn_by_tuple() -> None:
    ids = [f"d.ed/{row}/{column}" for row in range(4) for column in "ab"]
    gold = dict.fromkeys(ids, ("error",))
    wrong = counted("ed", [Prediction(i, "correct", 1.0) for i in ids], gold, {})
    right = counted("ed", [Prediction(i, "error", 1.0) for i in ids], gold, {})
    assert paired_difference([wrong], [right], "f1", 0).groups == 4


def test_what_cannot_be_paired_is_refused() -> None:
    one, longer = _counted(["match"], ["match"]), _counted(["match", "match"], ["match", "match"])
    with pytest.raises(ValueError, match="same queries"):
        paired_difference([one], [longer], "f1", 0)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([one], [], "f1", 0)
    with pytest.raises(ValueError, match="no query"):
        paired_difference([_counted([], [])], [_counted([], [])], "f1", 0)
    with pytest.raises(KeyError):
        paired_difference([one], [one], "accuracy@7", 0)
