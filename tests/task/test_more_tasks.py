"""CTA, RE, EL, SM and AVE: alignments, prompts, and extraction samples made of tuples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace as changed
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from meld.serializer.json_dict import JsonDict
from meld.serializer.prompt import PromptWriter
from meld.task.ave import ABSENT, AttributeValueExtraction, ave_from_tuples
from meld.task.base import Alignment, Task
from meld.task.cta import ColumnTypeAnnotation
from meld.task.di import value_text
from meld.task.el import EntityLinking, entity_text
from meld.task.em import EntityMatching
from meld.task.re import RelationExtraction
from meld.task.sm import SchemaMatching
from meld.types import Query, Sample, UnitData


def render(entity: Mapping[str, str]) -> str:
    return " | ".join(f"{k}={v}" for k, v in entity.items())


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ColumnTypeAnnotation(),
        RelationExtraction(),
        EntityLinking(),
        SchemaMatching(),
        AttributeValueExtraction(),
    )
}


def unit(task: str, samples: list[Sample], options: tuple[str, ...] = ()) -> UnitData:
    return UnitData(f"d.{task}", "d", task, {}, tuple(samples), (), (), (), options)


def column(number: int, label: str, task: str = "cta", **cells: str) -> Sample:
    entity = cells or {"column": "", "values": f"v{number}", "other columns": ""}
    return Sample(Query(f"d.{task}/train/{number}", f"d.{task}", task, (entity,)), label)


def link(number: int, cell: str, label: str, options: tuple[str, ...], row: str = "") -> Sample:
    entity = {"cell": cell, "row": row or f"row {number}"}
    return Sample(Query(f"d.el/train/{number}", "d.el", "el", (entity,), target="cell", options=options), label)


def schema(left: str, right: str, label: str) -> Sample:
    entities = ({"name": left, "description": f"the {left}"}, {"name": right, "description": f"a {right}"})
    return Sample(Query(f"d.sm/train/{left}-{right}", "d.sm", "sm", entities), label)


def slot(title: str, target: str, label: str) -> Sample:
    entity = {"title": title, "category": "Shoes"}
    return Sample(Query(f"d.ave/{title}/{target}", "d.ave", "ave", (entity,), target=target), label)


PARIS = ("Paris - city of France", "Paris - city of Texas", "Paris Hilton - heiress")
UNITS = {
    "cta": unit(
        "cta",
        [column(i, ["city", "person", "capital city", "City"][i % 4]) for i in range(12)],
        ("city", "person", "capital city", "film", "musicalArtist", "artist"),
    ),
    "re": unit("re", [column(i, ["born in", "capital of"][i % 2], "re") for i in range(6)], ("born in", "capital of")),
    "el": unit(
        "el",
        [
            link(0, "Paris", PARIS[0], PARIS),
            link(1, "Paris", PARIS[1], PARIS),
            link(2, "Bath", "Bath", ("Bath", "Bath, Maine")),
            link(3, "Unknown", "Nowhere", ()),
        ],
    ),
    "sm": unit(
        "sm",
        [schema(a, b, "match" if a[-1] == b[-1] else "mismatch") for a in ("p1", "p2", "p3") for b in ("q1", "q2")],
    ),
    "ave": unit(
        "ave",
        [
            slot("Nike Air red shoe", "Brand", "Nike"),
            slot("Nike Air red shoe", "Color", "red"),
            slot("Puma dark red shoe", "Brand", "Puma"),
            slot("Puma dark red shoe", "Color", "dark red"),
            slot("nike blue boot", "Brand", "nike"),
            slot("nike blue boot", "Color", "blue"),
            slot("leather boot", "Color", "n/a"),
            slot("Vans Red", "Color", "Red"),
        ],
    ),
}


def minable(alignment: Alignment, groups: Mapping[str, object]) -> set[str]:
    """What may become a negative: those given, and those that hard-negative mining may take."""
    found = groups.get(alignment.group, ())
    assert isinstance(found, list | tuple)
    return {*alignment.negatives, *found} - {alignment.anchor, *alignment.positives, *alignment.excluded}


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("seed", range(3))
def test_alignments_never_contradict_themselves(name: str, seed: int) -> None:
    task, data = TASKS[name], UNITS[name]
    groups = task.mining_texts(data, render)
    made = task.alignments(data, render, np.random.default_rng(seed))
    assert made == task.alignments(data, render, np.random.default_rng(seed))
    aligned: dict[str, set[str]] = {}
    for alignment in made:
        assert alignment.positives
        assert alignment.anchor not in alignment.positives or name == "el"
        assert not set(alignment.positives) & set(alignment.negatives)
        assert alignment.negatives or alignment.group in groups
        aligned.setdefault(alignment.anchor, set()).update(alignment.positives)
    for alignment in made:
        assert not aligned[alignment.anchor] & minable(alignment, groups)
    asked = {text for sample in data.train for text in task.encoder_texts(sample.query, render)}
    assert {a.anchor for a in made} <= asked, "anchors are what queries are embedded as"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "A ", "b", "b c", "c", "+"])), max_size=12))
@settings(deadline=None, max_examples=60)
def test_class_alignments_hold_whatever_the_labels(cases: list[tuple[int, str]]) -> None:
    # A few distinct columns under many labels: texts that repeat, and that are labelled in several ways.
    samples = [
        Sample(changed(column(n, label).query, id=f"d.cta/train/{i}"), label) for i, (n, label) in enumerate(cases)
    ]
    data = unit("cta", samples, ("b", "d"))
    task = ColumnTypeAnnotation()
    groups = task.mining_texts(data, render)
    right: dict[str, set[str]] = {}
    for n, label in cases:
        right.setdefault(render(column(n, label).query.entities[0]), set()).add(label.strip().lower())
    for alignment in task.alignments(data, render, np.random.default_rng(0)):
        own = right[alignment.anchor]
        if alignment.group == "name":
            assert set(alignment.positives) == own
            assert not own & minable(alignment, groups)
        else:
            assert all(right[p] & own for p in alignment.positives)
            assert not any(right[n] & own for n in minable(alignment, groups))


def test_columns_of_a_kindred_type_are_neither_aligned_nor_negatives() -> None:
    data = UNITS["cta"]
    groups = ColumnTypeAnnotation().mining_texts(data, render)
    made = ColumnTypeAnnotation().alignments(data, render, np.random.default_rng(0))
    labels = {render(s.query.entities[0]): s.label.lower() for s in data.train}
    of = {(a.anchor, a.group): a for a in made}
    city = next(text for text, label in labels.items() if label == "city")
    name = of[city, "name"]
    assert name.positives == ("city",)
    assert minable(name, groups) == {"person", "film", "musicalartist", "artist"}
    member = of[city, "member"]
    assert {labels[t] for t in member.positives} == {"city"}
    assert {labels[t] for t in minable(member, groups)} == {"person"}
    # Camel case is read as words, so a musicalArtist may be an artist.
    artist = unit("cta", [column(0, "artist"), column(1, "musicalArtist"), column(2, "film")])
    (first, *_) = ColumnTypeAnnotation().alignments(artist, render, np.random.default_rng(0))
    assert first.negatives == ("film",)


def test_types_nobody_labelled_are_negatives_too() -> None:
    data = unit("cta", [column(0, "city")], ("city", "film"))
    (made,) = ColumnTypeAnnotation().alignments(data, render, np.random.default_rng(0))
    assert (made.positives, made.negatives, made.group) == (("city",), ("film",), "name")


def test_linking_negatives_are_the_other_candidates() -> None:
    made = EntityLinking().alignments(UNITS["el"], render, np.random.default_rng(0))
    of = {a.anchor: a for a in made}
    row = of[render({"cell": "Paris", "row": "row 0"})]
    assert row.positives == (entity_text(PARIS[0]),)
    assert set(row.negatives) == {entity_text(PARIS[1]), entity_text(PARIS[2])}
    # The cell alone may mean either; only the third candidate is wrong whatever the row.
    cell = of["paris"]
    assert set(cell.positives) == {entity_text(PARIS[0]), entity_text(PARIS[1])}
    assert cell.negatives == (entity_text(PARIS[2]),)
    assert of[render({"cell": "Unknown", "row": "row 3"})].positives == ("nowhere",)
    assert EntityLinking().encoder_texts(changed(UNITS["el"].train[0].query, target=None), render) == (
        render({"cell": "Paris", "row": "row 0"}),
    )


def test_schema_pairs_are_aligned_like_tuples() -> None:
    data = UNITS["sm"]
    made = {(a.group, a.anchor): a for a in SchemaMatching().alignments(data, render, np.random.default_rng(0))}
    left, right = (render(e) for e in data.train[0].query.entities)
    assert made["B", left].positives == (right,)
    assert made["B", left].negatives == (render({"name": "q2", "description": "a q2"}),)
    groups = SchemaMatching().mining_texts(data, render)
    assert left in groups["A"]
    assert right in groups["B"]
    assert not set(groups["A"]) & set(groups["B"])
    assert ("B", render({"name": "p3", "description": "the p3"})) not in made


def test_what_a_title_holds_is_no_negative() -> None:
    task, data = AttributeValueExtraction(), UNITS["ave"]
    groups = task.mining_texts(data, render)
    of = {(a.anchor, a.group): a for a in task.alignments(data, render, np.random.default_rng(0))}
    texts = {s.id: task.encoder_texts(s.query, render)[0] for s in data.train}
    dark, nike = texts["d.ave/Puma dark red shoe/Color"], texts["d.ave/Nike Air red shoe/Color"]
    assert of[dark, "value:Color"].positives == ("Color: dark red",)
    assert minable(of[dark, "value:Color"], groups) == {"Color: blue"}  # red is in the title, too
    assert minable(of[nike, "value:Color"], groups) == {"Color: dark red", "Color: blue"}
    titles = of[nike, "title:Color"]
    assert titles.positives == (texts["d.ave/Vans Red/Color"],)
    assert minable(titles, groups) == {texts["d.ave/leather boot/Color"], texts["d.ave/nike blue boot/Color"]}
    # n/a is no value: nobody is aligned with it, and it is never mined.
    assert not any(a.anchor == texts["d.ave/leather boot/Color"] for a in of.values())
    assert not any(ABSENT in value for value in groups["value:Color"])
    brand = of[texts["d.ave/Nike Air red shoe/Brand"], "title:Brand"]
    assert brand.positives == (texts["d.ave/nike blue boot/Brand"],)


def test_titles_of_a_value_that_may_also_be_right_are_no_negatives() -> None:
    # The first title holds red as well, so the third, labelled red, may be of its value; the last one is not.
    slots = [("wine dark red", "dark red"), ("port dark red", "dark red"), ("a bottle", "red"), ("a can", "blue")]
    data = unit("ave", [slot(title, "Color", label) for title, label in slots])
    task = AttributeValueExtraction()
    texts = [task.encoder_texts(s.query, render)[0] for s in data.train]
    made = {(a.anchor, a.group): a for a in task.alignments(data, render, np.random.default_rng(0))}
    titles = made[texts[0], "title:Color"]
    assert titles.positives == (texts[1],)
    assert minable(titles, task.mining_texts(data, render)) == {texts[3]}


@pytest.mark.parametrize("raw", ["n/a", "N/A", '{"answer": "n/a"}', 'None"}', '{"answer": "NONE"}'])
def test_an_absent_value_is_read(raw: str) -> None:
    assert AttributeValueExtraction().parse(raw) == ABSENT


@pytest.mark.parametrize("raw", ["nap", '{"answer": null}', "", "none of these", '{"answer": ""}'])
def test_nothing_else_is_an_absent_value(raw: str) -> None:
    assert AttributeValueExtraction().parse(raw) != ABSENT


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_offers_the_protocol_and_gives_no_labels(name: str) -> None:
    task = TASKS[name]
    for method in ("encoder_texts", "alignments", "mining_texts", "transforms", "parse"):
        expected = list(inspect.signature(getattr(Task, method)).parameters)[1:]
        assert list(inspect.signature(getattr(task, method)).parameters) == expected
    assert task.transforms(UNITS[name].train, UNITS[name], np.random.default_rng(0)) == []
    assert task.solver == ("encoder" if name == "el" else "llm")
    assert task.options == (("match", "mismatch") if name == "sm" else None)
    assert getattr(task, "max_candidates", None) == (None if name == "sm" else 24)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_option_builds_the_task(name: str) -> None:
    content = OmegaConf.to_container(
        OmegaConf.create(files("meld.conf").joinpath(f"task/{name}.yaml").read_text("utf-8"))
    )
    assert isinstance(content, dict)
    target = content.pop("_target_")
    assert target == f"{type(TASKS[name]).__module__}.{type(TASKS[name]).__qualname__}"
    built = type(TASKS[name])(**content)
    assert vars(built) == vars(TASKS[name])


@pytest.mark.parametrize("style", ["full", "brief"])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_prompts_ask_and_end_with_the_answer_form(name: str, style: str) -> None:
    serializer = JsonDict(template="full" if style == "full" else "brief")
    writer = PromptWriter(serializer, TASKS, lambda text: len(text.split()), 500)
    first, second = UNITS[name].train[:2]
    prompt = writer.write(changed(first.query, title="A title"), [second])
    assert second.label in prompt.text
    assert prompt.n_demos == 1
    if style == "full":
        assert prompt.text.endswith('{"answer": "')
        assert "Table: A title" in prompt.text
    else:
        assert len(prompt.text.split()[0]) > 2
        assert prompt.text.endswith(" = ")
    if first.query.target:
        assert first.query.target in prompt.text


@pytest.mark.parametrize("name", ["cta", "re", "el"])
def test_few_options_are_shown_and_many_are_not(name: str) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("meld.task", "templates"), undefined=StrictUndefined)
    asked = {"title": "", "entities": ["E"], "target": "", "value": "", "context": []}
    for count in (0, 1, 12, 13, 300):
        options = tuple(f"option {i}" for i in range(count)) or None
        text = environment.get_template(f"full/{name}.j2").render(asked=asked, demos=[], options=options)
        assert ("Choose one of: option 0" in text) == (1 <= count <= 12)
        assert ("option" in text) == (1 <= count <= 12)


def product(number: int, label: str, *entities: Mapping[str, str]) -> Sample:
    return Sample(Query(f"d.em/train/{number}", "d.em", "em", tuple(entities)), label)


def test_tuples_whose_title_holds_a_value_become_extraction_samples() -> None:
    left = {"name": "Sony KDL-40 LCD TV", "brand": "sony", "price": "40", "category": "TV"}
    right = {"Title": "television by Sony", "maker": "Sony Corp"}
    made = ave_from_tuples([product(0, "mismatch", left, right)], np.random.default_rng(0), per_tuple=9)
    found = {s.query.target: s for s in made}
    assert set(found) == {"brand", "category"}  # 40 is inside a code and no words, Sony Corp is not in the other title
    brand = found["brand"]
    assert (brand.label, brand.provenance, brand.confidence) == ("Sony", "transformed:em", 0.9)
    assert brand.id == "d.em/train/0>ave/0/brand"
    assert brand.query.entities == ({"title": "Sony KDL-40 LCD TV", "category": "TV"},)
    assert found["category"].query.entities[0]["category"] == ""
    assert len(ave_from_tuples([product(0, "match", left, right)], np.random.default_rng(0))) == 1
    # The same tuple in another pair gives nothing new.
    assert len(ave_from_tuples([product(0, "match", left), product(1, "match", left)], np.random.default_rng(0))) == 1


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("red bull red can", "red"),  # twice
        ("model A-red shoe", "red"),  # inside a code
        ("shoe 50 pack", "50"),
        ("shoe", "shoe"),  # nothing else in the title
        ("shoe", ""),
        ("x y shoe", "x"),
        ("redder shoe", "red"),
        ("one two three four five six seven", "one two three four five six"),
        ("", "red"),
    ],
)
def test_unsafe_values_are_left_out(title: str, value: str) -> None:
    assert ave_from_tuples([product(0, "match", {"name": title, "a": value})], np.random.default_rng(0)) == []


def test_imputation_fills_the_asked_attribute_with_its_label() -> None:
    query = Query("d.di/1/brand", "d.di", "di", ({"name": "Sony TV", "brand": ""},), ("T:1",), "brand")
    (made,) = ave_from_tuples([Sample(query, "sony", confidence=0.5)], np.random.default_rng(0))
    assert (made.label, made.query.target, made.provenance) == ("Sony", "brand", "transformed:di")
    assert made.confidence == pytest.approx(0.45)
    assert query.entities[0]["brand"] == ""


@given(st.text("ab. -(\n", max_size=12), st.text("ab. -(\n", max_size=6), st.integers(0, 5))
@settings(deadline=None, max_examples=200)
def test_a_span_is_in_its_title(title: str, value: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for made in ave_from_tuples([product(0, "match", {"name": title, "a": value})], rng):
        assert made.label in title
        assert made.label.split() == value.split()
        assert made.label != made.query.entities[0]["title"].strip()
        assert made.query.task == "ave"
        assert EntityMatching().encoder_texts(made.query, render) == (render(made.query.entities[0]),)
        assert AttributeValueExtraction().encoder_texts(made.query, render) == (
            value_text("a", render(made.query.entities[0])),
        )
