"""Gates: top k, renormalised, quantised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.mixer.gates import top_k_gates
from meld.mixer.mixers import CatMixer, LogitsMixer, Top1Mixer

rows = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8)


@given(rows, st.integers(1, 8), st.integers(0, 40))
def test_gates_sum_to_one_and_stay_among_the_top_k(weights: list[float], k: int, levels: int) -> None:
    array = np.array([weights])
    gates = top_k_gates(array, k, levels)[0]
    assert gates.sum() == pytest.approx(1.0, abs=1e-9)
    chosen = np.flatnonzero(gates)
    assert 1 <= len(chosen) <= min(k, len(weights))
    rest = np.setdiff1d(np.arange(len(weights)), np.argsort(-array[0], kind="stable")[:k])
    assert not gates[rest].any()
    if levels:
        assert np.allclose(gates * levels, np.round(gates * levels), atol=1e-9)


def test_a_case_by_hand() -> None:
    gates = top_k_gates(np.array([[0.5, 0.3, 0.2, 0.0]]), 2, 20)
    # 0.625 and 0.375 are 12.5 and 7.5 twentieths: the remainder goes to the first.
    np.testing.assert_allclose(gates, [[0.65, 0.35, 0.0, 0.0]])


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k_gates(np.ones((1, 2)), 0, 0)


def test_mixers_agree_on_gates_and_differ_in_what_they_mix() -> None:
    weights = np.array([[0.6, 0.4]])
    assert (CatMixer(5).gates(weights) == LogitsMixer(5).gates(weights)).all()
    assert (CatMixer(2).mixes, LogitsMixer(2).mixes) == ("weights", "answers")
    np.testing.assert_array_equal(Top1Mixer().gates(weights), [[1.0, 0.0]])
