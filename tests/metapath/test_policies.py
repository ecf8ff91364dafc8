"""The search for a path on made-up Evals: every option meets the same checks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.config.build import build
from meld.config.compose import load_config
from meld.config.presets import shipped
from meld.config.tree import plain
from meld.errors import ConfigError
from meld.metapath.base import Found, MetaPathPolicy, StepRules
from meld.metapath.beam import BeamMetaPath
from meld.metapath.fixed import FixedMetaPath
from meld.metapath.greedy import GreedyMetaPath
from meld.metapath.none import NoMetaPath
from meld.metapath.random import RandomMetaPath

STEPS = ("d.blk", "e.di", "f.di", "g.ave")
KINDS = ["blk", "di", "ave"]
OPTIONS = ("beam", "fixed", "greedy", "none", "random")


def option(name: str, **changes: Any) -> MetaPathPolicy:
    node = plain(load_config([f"metapath={name}"]))["metapath"]
    made: MetaPathPolicy = build({**node, **changes}, place="metapath")
    return made


class Worth:
    """An Eval that looks a path up and remembers what was asked."""

    def __init__(self, values: dict[tuple[str, ...], float]) -> None:
        self.values = values
        self.seen: list[tuple[str, ...]] = []

    def __call__(self, path: tuple[str, ...]) -> float:
        self.seen.append(path)
        return self.values.get(path, 0.0)


def every_path(steps: Sequence[str], longest: int) -> list[tuple[str, ...]]:
    return [path for n in range(longest + 1) for path in itertools.permutations(steps, n)]


worths = st.lists(st.integers(-3, 3), min_size=41, max_size=41).map(
    lambda values: dict(zip(every_path(STEPS, 3), map(float, values), strict=True))
)


def test_every_option_is_tested() -> None:
    assert sorted(path.stem for path in (Path(str(shipped("conf"))) / "metapath").glob("*.yaml")) == sorted(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
@given(worth=worths, longest=st.integers(0, 3), bound=st.integers(1, 12), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_search_is_bounded_repeatable_and_says_what_it_tried(
    name: str, worth: dict[tuple[str, ...], float], longest: int, bound: int, seed: int
) -> None:
    bounded = {"max_evaluations": bound} if name in {"greedy", "beam", "random"} else {}
    changes = {} if name == "none" else {"max_path": longest, "steps": KINDS, **bounded}
    made = CLASSES[name](**({} if name == "none" else {"seeds": {"em": ["blk"]}, **changes}))
    evaluate = Worth(worth)
    found = made.search("d.em", STEPS, evaluate, seed)
    assert found == made.search("d.em", STEPS, Worth(worth), seed)
    assert len(found.path) == len(set(found.path)) <= longest
    assert set(found.path) <= set(STEPS)
    assert list(found.tried) == evaluate.seen
    assert len(evaluate.seen) <= bound
    assert all(value == worth.get(path, 0.0) for path, value in found.tried.items())
    if name in {"greedy", "beam"}:
        assert found.tried[found.path] == max(found.tried.values())
        assert () in found.tried


CLASSES: dict[str, Any] = {
    "beam": BeamMetaPath,
    "fixed": FixedMetaPath,
    "greedy": GreedyMetaPath,
    "none": NoMetaPath,
    "random": RandomMetaPath,
}


def reference_greedy(worth: dict[tuple[str, ...], float], seeds: list[tuple[str, ...]], longest: int) -> float:
    """Greedy search as the paper tells it, in the plainest way; the Eval it reaches."""
    best = max([*seeds, ()], key=lambda p: worth.get(p, 0.0))
    while len(best) < longest:
        longer = [(*best, s) for s in STEPS if s not in best]
        candidate = max(longer, key=lambda p: worth.get(p, 0.0))
        if worth.get(candidate, 0.0) <= worth.get(best, 0.0):
            break
        best = candidate
    return worth.get(best, 0.0)


@given(worth=worths, longest=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_greedy_is_the_plain_search_and_a_beam_of_one_is_greedy(
    worth: dict[tuple[str, ...], float], longest: int
) -> None:
    greedy = GreedyMetaPath(longest, KINDS, {"em": ["blk"]}, max_evaluations=99)
    found = greedy.search("d.em", STEPS, Worth(worth), 0)
    assert worth.get(found.path, 0.0) == reference_greedy(worth, [("d.blk",)], longest)
    one = BeamMetaPath(longest, KINDS, {"em": ["blk"]}, max_evaluations=99, width=1)
    assert one.search("d.em", STEPS, Worth(worth), 0).path == found.path


def test_a_beam_finds_steps_that_help_only_together() -> None:
    worth = {(): 0.0, ("d.blk",): 1.0, ("e.di",): 0.5, ("f.di",): 0.6, ("f.di", "e.di"): 5.0}
    greedy = GreedyMetaPath(3, KINDS).search("d.em", STEPS[:3], Worth(worth), 0)
    beam = BeamMetaPath(3, KINDS, width=3).search("d.em", STEPS[:3], Worth(worth), 0)
    assert (greedy.path, beam.path) == (("d.blk",), ("f.di", "e.di"))
    assert beam.tried[beam.path] == 5.0


def test_greedy_extends_while_eval_rises_and_says_why_it_stops() -> None:
    worth = {(): 0.0, ("d.blk",): 1.0, ("e.di",): 2.0, ("d.blk", "e.di"): 3.0, ("d.blk", "e.di", "f.di"): 2.9}
    found = GreedyMetaPath(3, KINDS, {"em": ["blk"]}).search("d.em", STEPS[:3], Worth(worth), 0)
    assert found.path == ("d.blk", "e.di")
    assert found.tried[("d.blk", "e.di", "f.di")] == 2.9
    assert found.stopped == "no further step improves Eval"
    spent = GreedyMetaPath(3, KINDS, max_evaluations=2).search("d.em", STEPS, lambda path: float(len(path)), 0)
    assert (len(spent.path), spent.stopped) == (1, "max_evaluations are spent")
    full = GreedyMetaPath(1, KINDS).search("d.em", STEPS, lambda path: float(len(path)), 0)
    assert (len(full.path), full.stopped) == (1, "the path is as long as allowed")


def test_random_draws_depend_on_the_seed_alone_and_cover_the_steps() -> None:
    drawn = {RandomMetaPath(3, KINDS).search("d.em", STEPS, lambda p: 0.0, seed).path for seed in range(60)}
    assert {len(path) for path in drawn} == {1, 2, 3}
    assert {step for path in drawn for step in path} == set(STEPS)
    assert RandomMetaPath(3, KINDS).search("d.em", (), lambda p: 0.0, 0).path == ()
    best = RandomMetaPath(1, KINDS, max_evaluations=4).search("d.em", STEPS, Worth({("f.di",): 1.0}), 3)
    assert best.path == ("f.di",)
    assert len(best.tried) == 4


def test_seeds_are_task_level_or_unit_level_and_fixed_takes_the_units_own() -> None:
    seeds = {"em": ["blk"], "abt_buy.em": ["abt_buy.blk", "walmart.di"], "dc": [["ed"], ["ed", "di"]]}
    policy = FixedMetaPath(3, ["blk", "di", "ed"], seeds)
    available = ("abt_buy.blk", "walmart.di", "restaurant.di")
    assert policy.search("abt_buy.em", available, lambda p: 0.0, 0) == Found(
        ("abt_buy.blk", "walmart.di"), stopped="the user's path, without a search"
    )
    assert policy.search("other.em", ("other.blk",), lambda p: 0.0, 0).path == ("other.blk",)
    assert policy.search("other.sm", available, lambda p: 0.0, 0).path == ()
    assert policy.seeds.named("abt_buy.em") == ("abt_buy.blk", "walmart.di")
    assert policy.seeds.named("other.em") == ()
    assert policy.seeds.paths("h.dc", ("h.ed", "a.di", "b.di")) == [("h.ed",), ("h.ed", "a.di", "b.di")]
    assert FixedMetaPath(2, ["ed", "di"], seeds | {"abt_buy.em": ["blk"]}).seeds.paths(
        "h.dc", ("h.ed", "a.di", "b.di")
    )[1] == ("h.ed", "a.di")
    # What is not there (here: what asks a language model) is left out.
    assert policy.seeds.paths("abt_buy.em", ("abt_buy.blk",)) == [("abt_buy.blk",)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ["blk", "sm"]}, "no expert of 'sm' can be a step"),
        ({"chase": "parallel"}, "chase is 'parallel'"),
        ({"align": 1.5}, "align is 1.5"),
        ({"max_queries": -1}, "max_queries is -1"),
        ({"min_confidence": 2}, "min_confidence is 2"),
        ({"max_evaluations": 0}, "max_evaluations is 0"),
        ({"seeds": {"em": "blk"}}, "seeds.em is 'blk'"),
        ({"seeds": {"em": [["blk"], "di"]}}, "seeds.em"),
        ({"seeds": {"a.em": ["a.blk", "b.di", "c.di", "d.di"]}}, "longer than max_path = 3"),
    ],
)
def test_a_wrong_option_is_refused_where_it_stands(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="metapath") as found:
        option("greedy", **change)
    assert message in str(found.value)


def test_max_path_0_switches_paths_off_whatever_the_seeds() -> None:
    policy = GreedyMetaPath(0, KINDS, {"em": ["blk"], "a.em": ["a.blk", "b.di"]})
    assert policy.search("a.em", ("a.blk",), lambda p: float(len(p)), 0).path == ()
    assert policy.seeds.named("a.em") == ()
    assert StepRules() == NoMetaPath().rules
