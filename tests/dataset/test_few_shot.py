"""Sampling: sizes, proportions, determinism."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.dataset.few_shot import (
    choose,
    choose_balanced,
    choose_stratified,
    derive_rng,
    pair_id,
    pick_ids,
    read_ids,
    split_dev,
)
from meld.errors import ConfigError, DataError

GOLDEN = [4, 23, 25, 31, 52]


def test_golden_draws_stay_the_same() -> None:
    # A change here means that every published few-shot sample changes.
    assert choose(range(100), 5, derive_rng(0, "few_shot", "abt_buy")) == GOLDEN
    assert choose(range(100), 5, derive_rng(1, "few_shot", "abt_buy")) != GOLDEN
    assert choose(range(100), 5, derive_rng(0, "dev", "abt_buy")) != GOLDEN
    assert choose(range(100), 5, derive_rng(0, "few_shot", "amazon_google")) != GOLDEN


@given(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 40)), st.integers(0, 5))
def test_choose_is_a_subsequence_of_the_right_size(size: int, count: int | None, seed: int) -> None:
    items = list(range(size))
    picked = choose(items, count, derive_rng(seed, "test", "x"))
    assert picked == sorted(set(picked))
    assert len(picked) == (size if count is None else min(size, count))


def test_choose_is_uniform() -> None:
    counts = Counter(item for seed in range(3000) for item in choose(range(6), 2, derive_rng(seed, "uniform", "x")))
    assert all(abs(counts[item] - 1000) < 130 for item in range(6))  # five standard deviations


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 45), st.integers(0, 3))
def test_stratified_is_proportional(strata: list[int], count: int, seed: int) -> None:
    picked = choose_stratified(list(range(len(strata))), strata, count, derive_rng(seed, "test", "x"))
    assert picked == sorted(set(picked))
    assert len(picked) == min(count, len(strata))
    sizes, shares = Counter(strata), Counter(strata[place] for place in picked)
    for stratum, size in sizes.items():
        assert abs(shares[stratum] - len(picked) * size / len(strata)) < 1


def test_balanced_takes_what_a_small_class_has() -> None:
    rng = derive_rng(0, "test", "x")
    positives, negatives = choose_balanced(list(range(50)), list(range(100, 300)), 21, rng)
    assert (len(positives), len(negatives)) == (10, 11)
    positives, negatives = choose_balanced([1, 2], list(range(100, 300)), 20, rng)
    assert (len(positives), len(negatives)) == (2, 10)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 3))
def test_dev_is_a_fifth_of_each_stratum_and_disjoint(strata: list[bool], seed: int) -> None:
    items = list(range(len(strata)))
    train, dev = split_dev(items, strata, derive_rng(seed, "dev", "x"))
    assert sorted(train + dev) == items
    if len(items) >= 2:
        assert train
        assert dev
    if len(items) >= 5:
        assert abs(len(dev) - len(items) / 5) <= 0.5
        assert abs(sum(strata[item] for item in dev) - len(dev) * sum(strata) / len(strata)) < 1


def test_pair_names_do_not_collide() -> None:
    assert pair_id("445", "910") == "445-910"
    assert pair_id("a-b", "c") != pair_id("a", "b-c")


def test_ids_from_csv_and_json(tmp_path: Path) -> None:
    table = tmp_path / "ids.csv"
    table.write_text("ltable_id,rtable_id,label\n1,2,1\n3,4,0\n")
    listed = tmp_path / "ids.json"
    listed.write_text(json.dumps(["1-2", [3, 4]]))
    for path in (table, listed):
        assert read_ids(str(path), ("ltable_id", "rtable_id"), "x") == ["1-2", "3-4"]
    assert pick_ids(["3-4", "1-2"], ["1-2", "9-9", "3-4"], "ids.csv", "x") == [0, 2]


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1, 1]", "not json"])
def test_bad_ids_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(DataError):
        read_ids(str(path), ("row",), "x")


def test_missing_ids_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="few_shot_ids"):
        read_ids(None, ("row",), "x")
    with pytest.raises(DataError, match="does not exist"):
        read_ids(str(tmp_path / "no.json"), ("row",), "x")
    with pytest.raises(DataError, match="the first is '7'"):
        pick_ids(["1", "7"], ["1", "2"], "ids.csv", "x")
