"""Samples made of other units' tuples: what agrees by name is used, what is asked is never shown."""

from __future__ import annotations

import numpy as np

from meld.annotator.across import columns, extractions, made_of_tuples
from meld.stages.annotate import donors
from meld.types import Query, Sample, Table, UnitData

TITLE = "Acme drill X-100 red"


def unit(task: str, train: tuple[Sample, ...] = (), options: tuple[str, ...] = (), **tables: Table) -> UnitData:
    return UnitData(f"shop.{task}", "shop", task, tables, train, (), (), (), options)


def pair(**right: str) -> Sample:
    left = {"title": TITLE, "brand": "acme", "colour": "red"}
    return Sample(Query("shop.em/1-2", "shop.em", "em", (left, {"title": "Bolt saw", **right})), "mismatch")


def slot(target: str) -> Sample:
    query = Query(f"listings.ave/0/{target}", "listings.ave", "ave", ({"title": "Other thing"},), target=target)
    return Sample(query, "other")


def people() -> Table:
    rows = {str(i): {"name": f"n{i}", "City": f"town {i % 7}", "zip": ""} for i in range(20)}
    return Table("T", "people", ("name", "City", "zip"), rows)


def test_extraction_takes_the_attributes_that_are_asked_in_their_spelling() -> None:
    made = extractions([pair(brand="Bolt")], unit("ave", (slot("Brand"),)), np.random.default_rng(0))
    assert {(s.query.target, s.label) for s in made} == {("Brand", "Acme"), ("Brand", "Bolt")}
    assert {s.provenance for s in made} == {"transformed:em"}
    assert all(s.label in s.query.entities[0]["title"] for s in made)


def test_a_column_named_as_a_type_becomes_a_question_that_does_not_show_its_name() -> None:
    given = unit("di", T=people())
    made = columns(given, unit("cta", options=("city", "zip", "film")), np.random.default_rng(0))
    assert len(made) == 3
    assert {s.label for s in made} == {"city"}
    for sample in made:
        entity = sample.query.entities[0]
        assert entity["column"] == ""
        assert "city" not in str(entity).lower()
        assert "town" in entity["values"]
    assert len({s.id for s in made}) == 3


def test_other_tasks_get_nothing_this_way() -> None:
    rng = np.random.default_rng(0)
    assert made_of_tuples(unit("em", (pair(),)), unit("di"), rng) == []
    assert columns(unit("di", T=people()), unit("cta", options=("film",)), rng) == []
    assert extractions([pair()], unit("ave", (slot("Flavour"),)), rng) == []


def test_tuples_that_may_be_wrong_are_no_donors() -> None:
    units = ("a.em", "a.blk", "b.di", "c.ed", "c.dc", "d.ave", "e.cta")
    assert donors("d.ave", units) == donors("e.cta", units) == ("a.em", "b.di")
