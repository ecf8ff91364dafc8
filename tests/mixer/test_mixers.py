"""Gates: top k, renormalised, quantised. Options: what they combine, and which engine can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.config.build import build
from meld.config.compose import load_config
from meld.config.presets import shipped
from meld.config.tree import plain
from meld.config.validate import validate
from meld.errors import ConfigErrors
from meld.mixer.gates import top_k_gates
from meld.mixer.mixers import CatMixer, LogitsMixer, PeftMixer, Top1Mixer

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


OPTIONS = sorted(path.stem for path in (shipped("conf") / "mixer").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_gates_and_is_carried_out_by_engine_hf(option: str) -> None:
    tree = plain(load_config([f"mixer={option}", "engine=hf", "k=2", "seed=5"]))
    validate(tree)
    mixer = build(tree["mixer"])
    gates = mixer.gates(np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(gates.sum(axis=1), 1.0)
    assert (gates > 0).sum(axis=1).max() == (1 if option == "top1" else 2)
    assert mixer.mixes == ("answers" if option == "logits" else "weights")
    assert mixer.combination.method == ("cat" if option in {"logits", "top1"} else option)
    assert mixer.combination.seed == (5 if option.startswith("dare") else 0)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_stacked_engine_adds_up_and_says_so_before_any_work(option: str) -> None:
    config = load_config([f"mixer={option}", "engine=stacked"])
    if option in {"cat", "logits", "top1"}:
        validate(config)
        return
    with pytest.raises(ConfigErrors) as caught:
        validate(config)
    (error,) = caught.value.errors
    assert repr(option) in error.what
    assert error.where == "mixer"
    assert "engine=hf" in error.fix


def test_options_that_cannot_be_meant_are_refused() -> None:
    for wrong in (
        {"combination_type": "cat"},
        {"combination_type": "magic", "density": 0.5},
        {"combination_type": "ties"},
        {"combination_type": "ties", "density": 0.0},
        {"combination_type": "ties", "density": 1.5},
        {"combination_type": "ties", "density": 0.5, "majority_sign_method": "loudest"},
    ):
        with pytest.raises(ValueError, match=r"known are|density"):
            PeftMixer(3, **wrong)
    assert PeftMixer(3, "linear").combination == PeftMixer(3, "linear", density=0.3, seed=9).combination


@pytest.mark.parametrize(("overrides", "limit_met"), [(["mixer=cat"], False), (["mixer=top1"], True)])
def test_only_cat_adds_ranks(overrides: list[str], limit_met: bool) -> None:
    tree = plain(load_config([*overrides, "expert.rank=8", "k=3"]))
    tree["engine"]["max_lora_rank"] = 16
    with pytest.raises(ConfigErrors) as caught:  # no shipped engine has the argument; that is the other complaint
        validate(tree)
    assert any("a mixture has rank 24" in e.what for e in caught.value.errors) is not limit_met


def test_updates_that_cannot_be_summed_are_refused_where_an_expert_would_make_them() -> None:
    for flag in ("use_rslora", "use_dora"):
        tree = plain(load_config([]))
        tree["expert"][flag] = True
        with pytest.raises(ConfigErrors) as caught:
            validate(tree)
        assert f"expert.{flag}=false" in str(caught.value)
