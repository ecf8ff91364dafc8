"""Which units may be steps of a path, and the steps that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.errors import UserError
from meld.metapath.base import KINDS, Seeds, StepRules
from meld.metapath.edits import walk
from meld.retriever.candidates import Candidates
from meld.stages.paths import SERVES, build_steps, check_seeds, encoder_answers, possible_steps, step_counts
from meld.stages.unit import Unit
from meld.types import Prediction, Query, Sample, UnitData

UNITS = (
    "shop.em", "shop.blk", "people.di", "clinic.ed", "clinic.dc", "listing.ave", "atlas.cta", "atlas.el", "web.cta",
    "more.di", "most.di", "other.blk", "other.em",
)  # fmt: skip
EXPERTS = tuple(u for u in UNITS if u.rpartition(".")[2] not in {"blk", "ed", "el"})
ALL = StepRules(KINDS)
NONE = Seeds(None, 3)


def steps(unit: str, rules: StepRules = ALL, seeds: Seeds = NONE, llm: bool = True) -> tuple[str, ...]:
    return possible_steps(unit, UNITS, EXPERTS, rules, seeds, llm)


def test_kinds_and_datasets_decide_what_may_be_a_step() -> None:
    assert steps("shop.em") == ("shop.blk", "people.di", "more.di", "most.di", "listing.ave", "clinic.dc")
    assert steps("shop.em", StepRules(("blk", "ed", "el", "di"))) == ("shop.blk", "people.di", "more.di", "most.di")
    assert steps("shop.em", llm=False) == ("shop.blk",)
    assert steps("clinic.dc") == ("clinic.ed", "people.di", "more.di", "most.di", "listing.ave")
    assert steps("people.di") == ("more.di", "most.di", "listing.ave", "clinic.dc")
    assert steps("web.cta") == steps("web.cta", llm=False) == ("atlas.el",)
    assert steps("listing.ave") == ("people.di", "more.di", "most.di", "clinic.dc")


def test_a_linker_with_an_expert_is_asked_only_where_experts_are() -> None:
    experts = (*EXPERTS, "atlas.el")
    assert possible_steps("web.cta", UNITS, experts, ALL, NONE, False) == ()
    assert possible_steps("web.cta", UNITS, experts, ALL, NONE, True) == ("atlas.el",)


def test_the_number_of_other_datasets_experts_is_bounded_and_named_ones_are_always_among_them() -> None:
    few = StepRules(("blk", "di"), max_experts=1)
    assert steps("shop.em", few) == ("shop.blk", "people.di")
    seeds = Seeds({"shop.em": ["shop.blk", "most.di", "listing.ave"]}, 3)
    assert steps("shop.em", few, seeds) == ("shop.blk", "people.di", "most.di", "listing.ave")
    assert steps("shop.em", few, seeds, llm=False) == ("shop.blk",)
    assert steps("other.em", few, seeds) == ("other.blk", "people.di")
    # A unit that is withheld is no step, also where a path names it.
    left = tuple(u for u in UNITS if u != "most.di")
    assert "most.di" not in possible_steps("shop.em", left, EXPERTS, few, seeds, True)


@given(st.lists(st.sampled_from(KINDS), unique=True), st.integers(0, 3), st.sampled_from(UNITS))
def test_possible_steps_serve_the_task_and_are_bounded(kinds: list[str], most: int, unit: str) -> None:
    found = steps(unit, StepRules(tuple(kinds), max_experts=most))
    assert len(found) == len(set(found)) <= len(kinds) * (most + 1)
    for step in found:
        kind = step.rpartition(".")[2]
        assert step != unit
        assert kind in kinds
        assert unit.rpartition(".")[2] in SERVES[kind]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (["shop.bkl"], "did you mean shop.blk"),
        (["other.blk"], "other.blk cannot be a step of shop.em"),
        (["shop.em"], "shop.em cannot be a step of shop.em"),
        (["atlas.el"], "atlas.el cannot be a step of shop.em"),
    ],
)
def test_a_path_that_cannot_be_is_refused(path: list[str], message: str) -> None:
    with pytest.raises(UserError, match=r"metapath\.seeds") as found:
        check_seeds(Seeds({"shop.em": path}, 3), UNITS, EXPERTS)
    assert message in str(found.value)


def test_a_path_for_an_unknown_unit_is_refused() -> None:
    check_seeds(Seeds({"em": ["blk"], "shop.em": ["shop.blk"]}, 3), UNITS, EXPERTS)
    check_seeds(Seeds({"shp.em": ["shop.blk"]}, 0), UNITS, EXPERTS)
    with pytest.raises(UserError, match=r"did you mean shop\.em"):
        check_seeds(Seeds({"shp.em": ["shop.blk"]}, 3), UNITS, EXPERTS)


def unit(name: str, samples: Sequence[Sample] = (), **parts: Any) -> Unit:
    """As much of a unit as steps look at."""
    dataset, _, task = name.rpartition(".")
    data = UnitData(name, dataset, task, {}, tuple(samples), (), (), ())
    solver = "encoder" if task in {"blk", "ed", "el"} else "llm"
    base: dict[str, Any] = {"partners": None, "cells": None, "samples": ()}
    fake = SimpleNamespace(
        name=name,
        data=data,
        task=SimpleNamespace(name=task, solver=solver),
        vectors_of=lambda texts: np.eye(len(texts), dtype=np.float32),
        **{**base, **parts},
    )
    return cast(Unit, fake)


def sample(name: str, entity: dict[str, str], target: str, label: str, options: tuple[str, ...] = ()) -> Sample:
    return Sample(Query(f"{name}/1", name, name.rpartition(".")[2], (entity,), target=target, options=options), label)


def test_steps_are_built_with_the_experts_behind_them() -> None:
    di = unit("people.di", [sample("people.di", {"name": "a", "city": "", "state": "s"}, "city", "Aston")])
    ave = unit("listing.ave", [sample("listing.ave", {"title": "t"}, "brand", "sony")])
    asked: list[tuple[str, int]] = []

    def ask(other: Unit, queries: Sequence[Query]) -> list[Prediction]:
        asked.append((other.name, len(queries)))
        return [Prediction(q.id, {"city": "Aston", "brand": "sony"}[str(q.target)], 0.5) for q in queries]

    others = {u.name: u for u in (di, ave)}
    rules = StepRules(KINDS, max_queries=1)
    made = build_steps(list(others), unit("shop.em"), others, ask, rules)
    assert list(made) == ["people.di", "listing.ave"]
    pair = Query("q", "shop.em", "em", ({"title": "sony tv", "city": ""}, {"title": "tv", "city": ""}))
    walked = walk(list(made), made, [pair])
    # Each could act on both tuples; the limit is one question.
    assert [(e.step, e.kind, e.entity, e.after) for e in walked.edits[0]] == [
        ("people.di", "fill", 0, "Aston"),
        ("listing.ave", "add", 0, "sony"),
    ]
    assert asked == [("people.di", 1), ("listing.ave", 1)]
    assert [step_counts(made[name]) for name in others] == [{"asked": 1, "over": 1}] * 2
    assert build_steps(list(others), unit("shop.em"), others, None, rules) == {}


def test_linking_without_an_expert_asks_the_encoder() -> None:
    el = sample("atlas.el", {"cell": "Aston"}, "cell", "Aston - town", ("Aston - town", "Aston - river"))

    def candidates(queries: Sequence[Query]) -> list[Candidates]:
        return [Candidates(q.options, (-2.0, -0.1)) for q in queries]

    linker = unit("atlas.el", [el], candidates=candidates)
    made = build_steps(["atlas.el"], unit("web.cta"), {"atlas.el": linker}, None, ALL)
    column = Query("q", "web.cta", "cta", ({"values": "Aston"},))
    (after,) = walk(["atlas.el"], made, [column]).queries
    assert after.context == (("entities", "town"),)


def test_the_encoders_answer_is_its_likeliest_candidate() -> None:
    found = {"a": Candidates(("x", "y"), (-1.5, -0.25)), "b": Candidates()}
    asking = unit("p.di", candidates=lambda queries: [found[q.id] for q in queries])
    first, second = encoder_answers(asking, [Query(i, "p.di", "di", ()) for i in "ab"])
    assert (first.output, first.score, first.options) == ("y", pytest.approx(np.exp(-0.25), abs=1e-6), ("y", "x"))
    assert (second.output, second.status) == (None, "invalid")
    assert encoder_answers(asking, []) == []
