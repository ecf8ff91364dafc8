"""What each step does to a query, where it acts, and what it must never touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from meld.encoder.vectors import Vectors
from meld.metapath.align import Aligner
from meld.metapath.asking import Asker
from meld.metapath.edits import Step, walk
from meld.metapath.extract import AddAttributes, telling_attributes, text_attribute
from meld.metapath.link import AttachEntities
from meld.metapath.revise import ReviseCells
from meld.metapath.steps import AttachCells, AttachPartners, FillMissing
from meld.retriever.cells import CellEvidence
from meld.retriever.partners import Partners
from meld.types import Entity, Prediction, Query, Sample, Table

MEANINGS = {"city": 0.0, "town": 0.2, "state": 1.2, "province": 1.3, "brand": 2.4, "maker": 2.5, "title": 3.5}


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors on a circle: names of like meaning are close."""
    angles = np.array([MEANINGS.get(text, 4.5 + 0.01 * len(text)) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def one(step: Step, query: Query) -> Query:
    assert step.applies(query) or step.edits([query]) == [()]
    return walk([step.name], {step.name: step}, [query]).queries[0]


# -- alignment ------------------------------------------------------------------------------------------------------


def test_names_align_by_spelling_first_and_by_meaning_only_with_a_threshold() -> None:
    assert Aligner().match(("City Name", "town", "x"), ("city_name", "city")) == {"City Name": "city_name"}
    near = Aligner(embed, 0.9)
    assert near.match(("town", "maker"), ("city", "state", "brand")) == {"town": "city", "maker": "brand"}
    # With a city around, the town is something else; a state is never taken for a city.
    assert near.match(("city", "town"), ("city",)) == {"city": "city"}
    assert near.match(("state",), ("city",)) == {}
    assert near.match(("province",), ("city", "state")) == {"province": "state"}
    assert Aligner(embed, 0.999).match(("town",), ("city",)) == {}


@given(
    st.lists(st.sampled_from(sorted(MEANINGS)), unique=True), st.lists(st.sampled_from(sorted(MEANINGS)), unique=True)
)
def test_an_attribute_is_aligned_once_on_either_side(theirs: list[str], own: list[str]) -> None:
    found = Aligner(embed, 0.5).match(theirs, own)
    assert len(set(found.values())) == len(found)
    assert set(found) <= set(theirs)
    assert all(found[name] == name for name in theirs if name in own)
    assert {v: k for k, v in found.items()} == Aligner(embed, 0.5).match(own, theirs)


def test_without_a_threshold_nothing_is_embedded() -> None:
    def never(texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError

    assert Aligner(never, None).match(("a",), ("b",)) == {}


# -- asking -----------------------------------------------------------------------------------------------------------


def test_every_question_is_asked_once_and_no_more_than_allowed(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: (q.id.upper(), 0.5))
    asker = answering.asker(2)
    questions = {key: Query(key, "u.di", "di", ({},)) for key in "abc"}
    assert {k: p.output for k, p in asker.answers(questions).items()} == {"a": "A", "b": "B"}
    assert (asker.asked, asker.over) == (2, 1)
    assert set(asker.answers(questions)) == {"a", "b", "c"}
    assert (asker.asked, asker.over, len(answering.asked)) == (3, 0, 3)
    assert Asker(lambda q: [Prediction(x.id, None, 0.0, status="invalid") for x in q], 9).answers(questions) == {}


# -- DI ---------------------------------------------------------------------------------------------------------------


def fill(expert: Any, aligner: Aligner | None = None, **options: Any) -> FillMissing:
    return FillMissing("p.di", ["City"], ["name", "City", "state"], expert.asker(), aligner or Aligner(), **options)


def test_filling_changes_gaps_only_and_never_the_asked_attribute(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: ("Aville", 0.8))
    step = fill(answering)
    gap = Query("1", "x.em", "em", ({"name": "a", "city": ""}, {"name": "b", "city": "Btown"}))
    own = Query("2", "x.di", "di", ({"name": "a", "city": ""},), target="city")
    walked = walk(["p.di"], {"p.di": step}, [gap, own])
    filled, kept = walked.queries
    assert [dict(e) for e in filled.entities] == [{"name": "a", "city": "Aville"}, {"name": "b", "city": "Btown"}]
    assert kept == own
    (edit,) = walked.edits[0]
    assert (edit.kind, edit.entity, edit.before, edit.after, edit.confidence) == ("fill", 0, "", "Aville", 0.8)
    # The expert reads the tuple under its own names.
    (asked,) = answering.asked
    assert (asked.target, dict(asked.entities[0])) == ("City", {"name": "a", "City": ""})
    assert one(fill(answering, min_confidence=0.9), gap) == gap


def test_filling_by_meaning_needs_the_threshold_and_leaves_columns_alone(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: ("Aville", 0.8))
    gap = Query("1", "x.em", "em", ({"name": "a", "town": "", "province": ""},))
    assert one(fill(answering), gap) == gap
    step = FillMissing("p.di", ["city"], ["name", "city", "state"], answering.asker(), Aligner(embed, 0.9))
    assert dict(one(step, gap).entities[0]) == {"name": "a", "town": "Aville", "province": ""}
    column = Query("1", "x.cta", "cta", ({"column": "", "City": ""},))
    assert one(fill(answering), column) == column


# -- AVE --------------------------------------------------------------------------------------------------------------


def add(expert: Any, aligner: Aligner | None = None, **options: Any) -> AddAttributes:
    aligner = aligner or Aligner()
    return AddAttributes(
        "l.ave", ["brand", "colour"], ["title", "category"], "title", expert.asker(), aligner, **options
    )


def read_title(query: Query) -> tuple[str | None, float]:
    known = {"brand": ("sony", 0.9), "colour": ("red", 0.6)}
    value, score = known[str(query.target)]
    return (value if value in query.entities[0]["title"] else "n/a", score)


def test_adding_reads_the_title_and_adds_what_the_schema_lacks(expert: Callable[..., Any]) -> None:
    answering = expert(read_title)
    pair = Query("1", "x.em", "em", ({"Title": "sony red tv", "price": "3"}, {"name": "tv", "Colour": ""}))
    after = one(add(answering), pair)
    assert dict(after.entities[0]) == {"Title": "sony red tv", "price": "3", "brand": "sony", "colour": "red"}
    assert dict(after.entities[1]) == {"name": "tv", "Colour": ""}
    assert {dict(q.entities[0])["title"] for q in answering.asked} == {"sony red tv", "tv"}
    assert all(list(q.entities[0]) == ["title", "category"] for q in answering.asked)
    assert dict(one(add(answering, min_confidence=0.7), pair).entities[0]) == {
        "Title": "sony red tv", "price": "3", "brand": "sony",
    }  # fmt: skip


def test_what_the_query_asks_for_is_never_added_under_any_name(expert: Callable[..., Any]) -> None:
    answering = expert(read_title)
    for target in ("brand", "BRAND"):
        asked = Query("1", "x.di", "di", ({"title": "sony red tv", target: ""},), target=target)
        assert "brand" not in {k for k in one(add(answering), asked).entities[0] if k != target}
        assert one(add(answering), asked).entities[0][target] == ""
    meant = Query("1", "x.ave", "ave", ({"title": "sony red tv"},), target="maker")
    assert set(one(add(answering, Aligner(embed, 0.9)), meant).entities[0]) == {"title", "colour"}
    assert all(q.target == "colour" for q in answering.asked[-1:])
    schema = Query("1", "x.sm", "sm", ({"name": "sony", "description": ""}, {"name": "b", "description": ""}))
    assert one(add(answering), schema) == schema


def test_an_answer_that_repeats_the_whole_title_is_no_value(expert: Callable[..., Any]) -> None:
    step = add(expert(lambda q: (q.entities[0]["title"].upper(), 1.0)))
    query = Query("1", "x.em", "em", ({"title": "sony tv"},))
    assert one(step, query) == query


def test_telling_attributes_are_the_commonest_that_are_there() -> None:
    def slot(target: str, label: str) -> Sample:
        return Sample(Query("q", "l.ave", "ave", ({"category": "tv", "text": "a long text"},), target=target), label)

    samples = [slot("a", "x"), slot("b", "y"), slot("b", "z"), slot("c", "N/A"), slot("c", "n/a")]
    assert telling_attributes(samples, 9) == ["b", "a"]
    assert telling_attributes(samples, 1) == ["b"]
    assert text_attribute(samples) == "text"
    assert text_attribute([]) == ""


# -- tables -----------------------------------------------------------------------------------------------------------

ROWS = {str(i): {"city": c, "state": s} for i, (c, s) in enumerate([("Aston", "AA"), ("Bex", "BB")] * 6)}


def render(entity: Entity) -> str:
    return " ".join(entity.values())


def cells() -> CellEvidence:
    rows = {**ROWS, "x": {"city": "Astn", "state": "AA"}}
    texts = sorted({render(row) for row in rows.values()})
    angles = np.linspace(0, 1, len(texts))
    vectors = Vectors(texts, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    return CellEvidence(Table("T", "towns", ("city", "state"), rows), vectors, render)


def revise(expert: Any, aligner: Aligner | None = None) -> ReviseCells:
    return ReviseCells(
        "h.dc", "h", cells(), lambda found: [0.9 if e.features[0] < 1 else 0.1 for e in found], 0.5, expert.asker(),
        aligner or Aligner(),
    )  # fmt: skip


def test_revising_asks_about_suspicious_cells_only_and_never_the_asked_one(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: ("Aston", 0.7))
    query = Query("1", "other.em", "em", ({"City": "Astn", "state": "AA", "z": "1"}, {"City": "Bex", "state": ""}))
    walked = walk(["h.dc"], {"h.dc": revise(answering)}, [query])
    assert [dict(e) for e in walked.queries[0].entities] == [
        {"City": "Aston", "state": "AA", "z": "1"},
        {"City": "Bex", "state": ""},
    ]
    (edit,) = walked.edits[0]
    assert (edit.kind, edit.attribute, edit.before, edit.after) == ("revise", "City", "Astn", "Aston")
    (asked,) = answering.asked
    assert (asked.task, asked.target, dict(asked.entities[0])) == ("dc", "city", {"city": "Astn", "state": "AA"})
    assert ("cell", "wrong") in asked.context
    own = Query("2", "h.ed", "ed", ({"city": "Astn", "state": "AA"},), rows=("T:x",), target="city")
    assert one(revise(answering), own) == own


def test_revising_judges_rows_of_its_own_table_as_rows(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: (q.entities[0][str(q.target)].lower(), 0.7))
    own = Query("2", "h.ed", "ed", ({"city": "Astn", "state": "AA"},), rows=("T:x",), target="state")
    assert one(revise(answering), own) == own  # equal but for the case: nothing to revise
    assert [q.rows for q in answering.asked] == [("T:x",)]
    foreign = Query("2", "g.ed", "ed", ({"city": "Astn", "state": "AA"},), rows=("T:x",), target="state")
    one(revise(answering), foreign)
    assert answering.asked[-1].rows == ()


def test_detection_still_acts_after_attributes_were_added() -> None:
    step = AttachCells("h.ed", "h", cells(), lambda found: [0.9] * len(found))
    query = Query("1", "h.dc", "dc", ({"city": "Astn", "state": "AA", "brand": "b"},), rows=("T:x",), target="city")
    after = one(step, query)
    assert ("cell", "wrong") in after.context
    assert after.entities == query.entities
    assert not step.applies(Query("1", "g.dc", "dc", ({"city": "Astn", "state": "AA"},), target="city"))
    assert walk(["h.ed"], {"h.ed": step}, [query]).edits[0][0].confidence == 0.9


def test_blocking_attaches_with_the_similarity_as_confidence() -> None:
    tables = [Table(n, "", ("name",), {"1": {"name": f"{n} one"}, "2": {"name": f"{n} two"}}) for n in "AB"]
    texts = sorted(render(row) for table in tables for row in table.rows.values())
    angles = {"A one": 0.0, "B one": 0.1, "A two": 1.0, "B two": 1.2}
    array = np.array([[np.cos(angles[t]), np.sin(angles[t])] for t in texts], dtype=np.float32)
    step = AttachPartners("d.blk", "d", Partners(*tables, Vectors(texts, array), render))
    query = Query("1", "d.em", "em", ({"name": "A one"}, {"name": "B one"}), rows=("A:1", "B:1"))
    walked = walk(["d.blk"], {"d.blk": step}, [query])
    assert dict(walked.queries[0].context)["nearest"] == "both"
    assert walked.edits[0][0].confidence == pytest.approx((1 + np.cos(0.1)) / 2, abs=1e-5)


# -- EL ---------------------------------------------------------------------------------------------------------------

TOWNS = ("Aston - town in Belmora, founded 1300", "Bexley - town in Ardenia, founded 1400", "Alder Water - river")


def test_linking_attaches_what_a_columns_cells_are(expert: Callable[..., Any]) -> None:
    answering = expert(lambda q: (q.options[0], 0.8 if "Aston" in q.options[0] else 0.4))
    step = AttachEntities("a.el", "cell", TOWNS, answering.asker())
    column = Query("1", "w.cta", "cta", ({"column": "", "values": "Aston | Bexly | 12 | zzz", "other columns": ""},))
    walked = walk(["a.el"], {"a.el": step}, [column])
    assert walked.queries[0].context == (("entities", "town in Belmora; town in Ardenia"),)
    assert walked.edits[0][0].confidence == pytest.approx(0.6)
    assert [(q.task, dict(q.entities[0]), q.options) for q in answering.asked] == [
        ("el", {"cell": "Aston"}, (TOWNS[0],)),
        ("el", {"cell": "Bexly"}, (TOWNS[1],)),
    ]
    numbers = Query("2", "w.cta", "cta", ({"column": "Aston", "values": "12 | 13"},))
    assert not step.applies(numbers)
    assert one(step, numbers) == numbers
    pair = Query("3", "w.re", "re", ({"subject values": "Aston", "object values": "Alder Water"},))
    assert dict(one(step, pair).context) == {"subject entities": "town in Belmora", "object entities": "river"}
