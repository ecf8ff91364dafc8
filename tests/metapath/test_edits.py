"""How the changes of a path come together: Theorem 4 under ``frozen``, and what order does under ``sequential``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.metapath.align import Aligner
from meld.metapath.asking import Asker
from meld.metapath.edits import Edit, Step, apply_path, edited, join, walk
from meld.metapath.extract import AddAttributes
from meld.metapath.steps import FillMissing
from meld.text import fold
from meld.types import Prediction, Query

ATTRIBUTES = ("title", "brand", "Brand", "city", "state")
TARGET = "state"


@dataclass(frozen=True)
class Rule:
    """A made-up step: where ``reads`` has a value, ``writes`` becomes it with a letter more; facts for entity -1."""

    name: str
    reads: str
    writes: str
    letter: str
    confidence: float

    def applies(self, query: Query) -> bool:
        return bool(self.edits([query])[0])

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> tuple[Edit, ...]:
        entity = query.entities[0]
        value = entity.get(self.reads, "")
        if not value or self.writes == query.target:
            return ()
        after = value[:6] + self.letter
        if self.letter == "!":
            return (Edit(self.name, "attach", -1, self.writes, "", after, self.confidence),)
        before = entity.get(self.writes, "")
        kind = "revise" if before else "fill" if self.writes in entity else "add"
        return (Edit(self.name, kind, 0, self.writes, before, after, self.confidence),)


rules = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["a.di", "b.di", "c.ave", "d.dc", "e.el"]),
        st.sampled_from(ATTRIBUTES),
        st.sampled_from(ATTRIBUTES),
        st.sampled_from("xy!"),
        st.sampled_from([0.2, 0.5, 0.5, 0.9]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda rule: rule.name,
)
entities = st.dictionaries(st.sampled_from(ATTRIBUTES), st.sampled_from(["", "v", "w"]), min_size=2)
queries = st.lists(st.builds(lambda e: Query("q", "u.di", "di", (e,), target=TARGET), entities), min_size=1, max_size=3)


def naive(query: Query, made: Sequence[Edit]) -> dict[tuple[int, str], tuple[str, float, str]]:
    """Per attribute the winning value, confidence and expert, in the plainest way."""
    best: dict[tuple[int, str], tuple[str, float, str]] = {}
    for edit in sorted(made, key=lambda e: e.step):
        key = (edit.entity, fold(edit.attribute))
        if key not in best or edit.confidence > best[key][1]:
            best[key] = (edit.after, edit.confidence, edit.step)
    return best


@given(steps=rules, asked=queries)
@settings(max_examples=60, deadline=None)
def test_theorem_4_under_frozen_no_order_of_the_path_changes_the_queries(steps: list[Rule], asked: list[Query]) -> None:
    named: dict[str, Step] = {step.name: step for step in steps}
    walks = [walk(path, named, asked, "frozen") for path in itertools.permutations(named)]
    for other in walks[1:]:
        assert other == walks[0]
        # Attribute and fact order reaches the prompt, and equal dicts may differ in it.
        assert [[list(e.items()) for e in q.entities] for q in other.queries] == [
            [list(e.items()) for e in q.entities] for q in walks[0].queries
        ]
    for query, after, edits in zip(asked, walks[0].queries, walks[0].edits, strict=True):
        every = [edit for step in steps for edit in step.edits([query])[0]]
        winners = {(e.entity, fold(e.attribute)): (e.after, e.confidence, e.step) for e in edits}
        assert winners == naive(query, every)
        assert after == edited(query, edits)


@given(steps=rules, asked=queries, chase=st.sampled_from(["sequential", "frozen"]))
def test_edits_tell_the_whole_difference_and_the_asked_attribute_stays(
    steps: list[Rule], asked: list[Query], chase: str
) -> None:
    named: dict[str, Step] = {step.name: step for step in steps}
    walked = walk(list(named), named, asked, chase)
    assert apply_path(list(named), named, asked, chase) == list(walked.queries)
    for before, after, edits in zip(asked, walked.queries, walked.edits, strict=True):
        assert edited(before, edits) == after
        assert after.entities[0].get(TARGET) == before.entities[0].get(TARGET)


def test_sequential_depends_on_the_order_and_frozen_does_not() -> None:
    steps: dict[str, Step] = {
        "city.di": Rule("city.di", "title", "city", "x", 0.9),
        "brand.di": Rule("brand.di", "city", "brand", "y", 0.9),
    }
    query = Query("q", "u.em", "em", ({"title": "t", "city": "", "brand": ""},))

    def brand(path: Sequence[str], chase: str) -> str:
        return apply_path(path, steps, [query], chase)[0].entities[0]["brand"]

    assert brand(["city.di", "brand.di"], "sequential") == "txy"
    assert brand(["brand.di", "city.di"], "sequential") == ""
    assert brand(["city.di", "brand.di"], "frozen") == brand(["brand.di", "city.di"], "frozen") == ""


def test_ties_go_to_the_expert_whose_name_comes_first() -> None:
    def edit(step: str, value: str, confidence: float, attribute: str = "Color") -> Edit:
        return Edit(step, "add", 0, attribute, "", value, confidence)

    for made in itertools.permutations([edit("b", "red", 0.5), edit("a", "blue", 0.5, "color"), edit("c", "x", 0.4)]):
        assert [e.after for e in join(made)] == ["blue"]
    assert [e.after for e in join([edit("b", "red", 0.6), edit("a", "blue", 0.5)])] == ["red"]


@pytest.mark.parametrize("chase", ["sequential", "frozen"])
def test_real_steps_under_both_chases(chase: str, expert: Callable[..., object]) -> None:
    """Filling and adding with experts that read the whole tuple: only ``frozen`` is free of the order."""

    def answers(asked: Sequence[Query]) -> list[Prediction]:
        return [
            Prediction(q.id, f"{q.target}:{len([v for v in q.entities[0].values() if v])}", 0.5 + 0.1 * len(q.unit) / 9)
            for q in asked
        ]

    def steps() -> dict[str, Step]:
        return {
            "p.di": FillMissing("p.di", ["city"], ["name", "city", "state"], Asker(answers, 9), Aligner()),
            "qq.di": FillMissing("qq.di", ["city", "state"], ["name", "city", "state"], Asker(answers, 9), Aligner()),
            "l.ave": AddAttributes("l.ave", ["brand"], ["title"], "title", Asker(answers, 9), Aligner()),
        }

    query = Query(
        "q", "x.em", "em", ({"name": "a b", "city": "", "state": ""}, {"name": "c", "city": "", "state": "s"})
    )
    results = {str(apply_path(path, steps(), [query], chase)) for path in itertools.permutations(steps())}
    assert (len(results) == 1) == (chase == "frozen")
