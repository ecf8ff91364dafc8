"""Prompts: what they show, what they must not show, and how they fit a budget."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.serializer.col_val import ColVal
from meld.serializer.json_dict import JsonDict
from meld.serializer.prompt import PromptWriter
from meld.serializer.sentences import Sentences
from meld.task.base import read_answer
from meld.task.dc import DataCleaning
from meld.task.di import Imputation
from meld.task.ed import ErrorDetection
from meld.task.em import EntityMatching
from meld.types import Query, Sample

TASKS: dict[str, Any] = {t.name: t for t in (EntityMatching(), ErrorDetection(), DataCleaning(), Imputation())}
SERIALIZERS = (JsonDict, ColVal, Sentences)
EVERY = list(product(SERIALIZERS, ("full", "brief"), sorted(TASKS)))
NASTY = [
    'say "hi"', "{{ asked }}", "{% raw %}", "{# gone #}", "}}{{", "<b>&amp;</b>", "back\\slash \\n", "two\nlines",
    "tab\there", "it's", "{'a': 1}", "${oc.env:HOME}", "ünïcödé 漢字", "%s %(x)s {0}",
]  # fmt: skip


def count(text: str) -> int:
    return len(text.split())


def writer(serializer: Any, template: str, budget: int = 100_000) -> PromptWriter:
    return PromptWriter(serializer(template=template), TASKS, count, budget)


def query(task: str, entities: list[dict[str, str]], identity: str = "ID-7f3a", **more: Any) -> Query:
    rows = tuple(f"TBL:{identity}{i}" for i in range(len(entities)))
    target = None if task == "em" else next(iter(entities[0]))
    return Query(f"SET.{task}/{identity}", f"SET.{task}", task, tuple(entities), rows, target, **more)


def entities_of(task: str, first: dict[str, str], second: dict[str, str]) -> list[dict[str, str]]:
    return [first, second] if task == "em" else [first]


@pytest.mark.parametrize(("serializer", "template", "task"), EVERY)
@pytest.mark.parametrize("nasty", NASTY)
def test_nasty_text_stays_literal(serializer: Any, template: str, task: str, nasty: str) -> None:
    asked = query(task, entities_of(task, {"name": nasty, "x": "1"}, {"name": "b"}), context=(("fact", nasty),))
    demo = Sample(query(task, entities_of(task, {"name": "demo", "x": nasty}, {"name": nasty}), "OTHER"), nasty)
    prompt = writer(serializer, template).write(asked, [demo])
    written = json.dumps(nasty, ensure_ascii=False)[1:-1]
    in_entity = written if serializer is JsonDict else nasty
    assert prompt.text.count(in_entity) >= 2
    assert nasty in prompt.text  # the fact
    assert (written + '"}' if template == "full" else nasty) in prompt.text  # the demonstration's answer
    assert "\n" not in prompt.text or template == "full" or "\n" in nasty
    if template == "full":
        assert prompt.text.endswith('{"answer": "')
        assert read_answer('{"answer": "' + prompt.answer_text(nasty)) == nasty
    else:
        assert prompt.text.endswith(" = ")
        assert prompt.answer_text(nasty) == nasty


@pytest.mark.parametrize(("serializer", "template", "task"), EVERY)
def test_the_exact_options_and_title(serializer: Any, template: str, task: str) -> None:
    asked = query(task, entities_of(task, {"name": "a", "x": "1"}, {"name": "b"}), title="Products of a shop")
    prompt = writer(serializer, template).write(asked)
    assert prompt.query_id == asked.id
    assert prompt.options == TASKS[task].options
    assert prompt.json_form == (template == "full")
    if template == "full":
        assert "Table: Products of a shop" in prompt.text
        assert ("Choose one of: " in prompt.text) == (TASKS[task].options is not None)
    ranked = writer(serializer, template).write(asked, options=["SECRET1", "SECRET2"])
    assert ranked.options == ("SECRET1", "SECRET2")
    assert ranked.text == prompt.text  # candidates are ranked, not shown


def test_a_full_prompt_reads_as_meant() -> None:
    asked = query("dc", [{"city": "yxrk", "zip": "100", "gone": ""}], title="Towns", context=(("table says", "york"),))
    demo = Sample(query("dc", [{"city": "ledes", "zip": "200"}], "OTHER"), "leeds")
    assert writer(JsonDict, "full").write(asked, [demo]).text == (
        "You are an expert in data preprocessing. The named attribute of the entity may hold an error. Write its"
        ' correct value; repeat the value if it is correct.\nAnswer as JSON: {"answer": "<the correct value>"}\n\n'
        'Entity: {"city": "ledes", "zip": "200"}\nAttribute: city\nValue: ledes\n{"answer": "leeds"}\n\n'
        'Table: Towns\nEntity: {"city": "yxrk", "zip": "100"}\nAttribute: city\nValue: yxrk\ntable says: york\n'
        '{"answer": "'
    )


def test_a_brief_prompt_reads_as_meant() -> None:
    asked = query("em", [{"name": "tv"}, {"name": "television"}], context=(("nearest", "both"),))
    demo = Sample(query("em", [{"name": "cd"}, {"name": "dvd"}], "OTHER"), "mismatch")
    assert writer(Sentences, "brief").write(asked, [demo]).text == (
        "same? name: cd | name: dvd = mismatch ; name: tv | name: television | nearest: both = "
    )


VALUES = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="§"), max_size=30)
ENTITY = st.dictionaries(st.sampled_from(["name", "price", "city", "brand"]), VALUES, min_size=1, max_size=4)


@settings(max_examples=40)
@given(ENTITY, ENTITY, ENTITY, st.sampled_from(EVERY))
def test_ids_labels_and_hidden_values_never_appear(
    first: dict[str, str], second: dict[str, str], third: dict[str, str], how: tuple[Any, str, str]
) -> None:
    serializer, template, task = how
    if task == "di":
        first = {**first, next(iter(first)): ""}
        third = {**third, next(iter(third)): ""}
    asked = query(task, entities_of(task, first, second), "§asked§")
    demo = Sample(query(task, entities_of(task, third, first), "§demo§"), "§label§")
    text = writer(serializer, template).write(asked, [demo]).text
    assert text.count("§") == 2  # the demonstration's answer and nothing else: no id, no record, no unit
    assert text.count("§label§") == 1
    assert "TBL:" not in text
    assert "SET." not in text
    assert "§" not in writer(serializer, template).write(asked).text


def test_an_empty_asked_value_is_not_invented() -> None:
    for serializer, template in product(SERIALIZERS, ("full", "brief")):
        text = writer(serializer, template).write(query("di", [{"city": "", "zip": "100"}])).text
        assert "100" in text
        assert "city" in text
        assert "Value:" not in text


@pytest.mark.parametrize(("serializer", "template", "task"), EVERY)
def test_demonstrations_go_first_the_least_similar_first(serializer: Any, template: str, task: str) -> None:
    entity = {"name": "alpha beta gamma", "x": "1"}
    asked = query(task, entities_of(task, entity, entity))
    demos = [
        Sample(query(task, entities_of(task, {"name": f"demo{i}"}, {"name": "b"}), f"D{i}"), "match") for i in range(5)
    ]
    everything = writer(serializer, template).write(asked, demos)
    assert everything.n_demos == 5
    assert everything.shortened == 0
    for budget in range(count(everything.text), 0, -1):
        prompt = writer(serializer, template, budget).write(asked, demos)
        shown = [i for i in range(5) if f"demo{i}" in prompt.text]
        assert shown == list(range(prompt.n_demos))
        if prompt.n_demos:
            assert prompt.shortened == 0
            assert count(prompt.text) <= budget
            # one more would not have fitted
            more = writer(serializer, template).write(asked, demos[: prompt.n_demos + 1])
            assert prompt.n_demos == 5 or count(more.text) > budget


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=4),
    st.lists(st.integers(0, 400), max_size=2),
    st.integers(1, 900),
    st.sampled_from([(s, t) for s, t in product(SERIALIZERS, ("full", "brief"))]),
)
def test_values_are_shortened_until_they_fit(
    lengths: list[int], facts: list[int], budget: int, how: tuple[Any, str]
) -> None:
    entity = {f"a{i}": "abc de"[: n % 6 + 1] + "x" * n for i, n in enumerate(lengths)}
    context = tuple((f"fact{i}", "y" * n) for i, n in enumerate(facts))
    asked = query("em", [entity, {"b": "short"}], context=context)
    write = PromptWriter(how[0](template=how[1]), TASKS, len, budget)
    demo = Sample(query("em", [{"c": "d"}, {"e": "f"}], "D"), "match")
    prompt = write.write(asked, [demo])
    whole = PromptWriter(how[0](template=how[1]), TASKS, len, 10**6).write(asked)
    smallest = PromptWriter(how[0](template=how[1]), TASKS, len, 0).write(asked)
    assert len(prompt.text) <= max(budget, len(smallest.text))
    assert smallest.n_demos == 0
    last = (next(iter(entity.values())), *(v for _, v in context))
    assert smallest.shortened == len(entity) - 1 + sum(len(v) > 24 for v in last)
    if prompt.text != whole.text and prompt.n_demos == 0:
        assert len(whole.text) > budget  # nothing is cut without need
        assert prompt.shortened > 0
    if not all(name in prompt.text for name in entity):
        short = {name: v if len(v) <= 24 else v[:23] + "…" for name, v in entity.items()}
        facts_too = tuple((name, v[:24]) for name, v in context)
        narrow = query("em", [short, {"b": "short"}], context=facts_too)
        # Attributes are left out only where shortening every value is not enough.
        assert len(PromptWriter(how[0](template=how[1]), TASKS, len, 10**6).write(narrow).text) > budget
    assert "a0" in prompt.text
    assert "short" in prompt.text
    if not prompt.shortened:
        assert all(value in prompt.text for value in entity.values())


def test_a_long_fact_is_cut_no_more_than_needed() -> None:
    asked = query("em", [{"a": "tiny"}, {"b": "tiny"}], context=(("fact", "y" * 1000),))
    budget = 700
    prompt = PromptWriter(Sentences("brief"), TASKS, len, budget).write(asked)
    assert len(prompt.text) <= budget
    assert prompt.text.count("y") > 400
    assert prompt.shortened == 1


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("template", ["full", "brief"])
def test_hundreds_of_columns_fit_and_keep_the_asked_one(serializer: Any, template: str) -> None:
    wide = {f"column {i}": f"value {i}" for i in range(200)}
    asked = Query("SET.dc/1", "SET.dc", "dc", (wide,), ("T:1",), "column 187")
    prompt = writer(serializer, template, 150).write(asked)
    assert count(prompt.text) <= 150
    assert "value 187" in prompt.text
    assert "column 0" in prompt.text
    shown = {int(number) for number in re.findall(r"value (\d+)", prompt.text)}
    assert shown == {*range(len(shown) - 1), 187}
    assert prompt.shortened == 200 - len(shown)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_entity_texts(serializer: Any) -> None:
    entity = {"name": "sony tv", "price": "", "size": '32"'}
    made = serializer()
    assert "price" not in made.entity(entity)
    assert made.text(entity) == 'sony tv 32"'
    assert serializer(encoder_text="same").text(entity) == made.entity(entity)
    assert made.entity({}) in {"", "{}"}


def test_written_forms() -> None:
    entity = {"name": "sony tv", "price": "399"}
    assert json.loads(JsonDict().entity(entity)) == entity
    assert ColVal().entity(entity) == "COL name VAL sony tv COL price VAL 399"
    assert Sentences().entity(entity) == "name: sony tv, price: 399"
