"""From a user's rows to queries, for every shape of question."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from meld.bundle.export import card_of
from meld.bundle.rows import known_records, request
from meld.errors import UserError
from meld.types import Query, Sample, Table, UnitData

PEOPLE = Table(
    "T", "people", ("name", "city"), {"1": {"name": "Ann", "city": "Rome"}, "2": {"name": "Bob", "city": ""}}
)


def unit(task: str, queries: list[Query], tables: tuple[Table, ...] = (), options: tuple[str, ...] = ()) -> UnitData:
    train = (Sample(queries[0], "x"),)
    return UnitData(f"d.{task}", "d", task, {t.name: t for t in tables}, train, (), (), tuple(queries), options)


def ask(
    data: UnitData, frame: pd.DataFrame, target: str | None = None, right: pd.DataFrame | None = None
) -> list[Query]:
    asked = request(data.unit, card_of(data), data.tables, frame, right, target)
    known = known_records({table.name: table for table in data.tables.values()})
    return asked.queries(0, len(asked), known)


def cells(task: str, rows: bool = True, targets: tuple[str, ...] = ("city",)) -> UnitData:
    asked = [
        Query(f"d.{task}/{r}/{t}", f"d.{task}", task, (PEOPLE.rows[r],), (f"T:{r}",) if rows else (), t, "people")
        for r in PEOPLE.rows
        for t in targets
    ]
    return unit(task, asked, (PEOPLE,) if rows else ())


def pair(title: str = "shops") -> UnitData:
    tables = tuple(Table(n, title, ("title", "price"), {"1": {"title": f"tv {n}", "price": "9"}}) for n in "AB")
    entities = tuple(table.rows["1"] for table in tables)
    return unit("em", [Query("d.em/1", "d.em", "em", entities, ("A:1", "B:1"), None, title)], tables)


def test_a_pair_is_recognised_by_its_values_and_a_new_tuple_gets_a_name_of_its_own() -> None:
    rows = {
        "left_title": ["tv A", "radio"],
        "left_price": ["9", None],
        "right_title": ["tv B"] * 2,
        "right_price": [9, 9],
    }
    first, second = ask(pair(), pd.DataFrame(rows, dtype=object))
    assert first.rows == ("A:1", "B:1")
    assert second.rows == ("A:new 1", "B:1")
    assert second.entities == ({"title": "radio", "price": ""}, {"title": "tv B", "price": "9"})
    assert first.title == "shops"
    assert first.target is None


def test_two_frames_are_the_sides_of_pairs_in_whatever_order_their_columns_are() -> None:
    left = pd.DataFrame({"more": [1], "price": ["9"], "title": ["tv A"]})
    right = pd.DataFrame({"title": ["tv B"], "price": ["9"]}, index=["other"])
    (found,) = ask(pair(), left, right=right)
    assert found.rows == ("A:1", "B:1")
    with pytest.raises(UserError, match="2 rows and the right one 1"):
        ask(pair(), pd.concat([left, left]), right=right)
    with pytest.raises(UserError, match="single tuples"):
        ask(cells("ed"), left, right=right)


def test_cells_name_their_target_once_or_row_by_row() -> None:
    frame = pd.DataFrame({"city": ["Rome", "Rom"], "name": ["Ann", "Eve"]})
    data = cells("ed", targets=("name", "city"))
    first, second = ask(data, frame, "city")
    assert (first.rows, second.rows) == (("T:1",), ("T:new 1",))
    assert list(first.entities[0]) == ["name", "city"]
    assert [q.target for q in ask(data, frame.assign(target=["name", "city"]))] == ["name", "city"]
    for given, words in (
        ((frame, None), "2 columns"),
        ((frame, "town"), "'town'"),
        ((frame.assign(target=["name", ""]), None), "Row 1"),
        ((frame.assign(target=["name", "town"]), None), "'town'"),
        ((frame.drop(columns="name"), "city"), "'name'"),
    ):
        with pytest.raises(UserError, match=words):
            ask(data, *given)


@pytest.mark.parametrize("value", ["Milan", "", None, np.nan])
def test_the_cell_to_be_filled_is_empty_whatever_the_rows_have_there(value: Any) -> None:
    data = cells("di")
    (found,) = ask(data, pd.DataFrame({"name": ["Bob"], "city": [value]}, dtype=object))
    assert found.entities == ({"name": "Bob", "city": ""},)
    assert found.rows == ("T:2",)
    (new,) = ask(data, pd.DataFrame({"name": ["Eve"]}), "city")
    assert (new.entities, new.rows) == (({"name": "Eve", "city": ""},), ())


def test_a_target_is_named_once() -> None:
    frame = pd.DataFrame({"name": ["Ann"], "city": ["Rome"], "target": ["name"]})
    data = cells("ed", targets=("name", "city"))
    with pytest.raises(UserError, match="named twice") as caught:
        ask(data, frame, "city")
    assert "column 'target'" in caught.value.where
    assert ask(data, frame)[0].target == "name"
    assert ask(data, frame.rename(columns={"target": "other"}), "city")[0].target == "city"


def test_a_column_target_of_the_unit_is_data() -> None:
    table = Table("T", "shots", ("name", "target"), {"1": {"name": "Ann", "target": "disc"}})
    asked = [Query(f"d.ed/{t}", "d.ed", "ed", (table.rows["1"],), ("T:1",), t, "shots") for t in table.columns]
    data, frame = unit("ed", asked, (table,)), pd.DataFrame({"name": ["Ann"], "target": ["disc"]})
    (found,) = ask(data, frame, "target")
    assert (found.target, found.entities, found.rows) == ("target", ({"name": "Ann", "target": "disc"},), ("T:1",))
    with pytest.raises(UserError, match="2 columns"):
        ask(data, frame)


def test_columns_that_rows_may_ask_about_need_not_be_there() -> None:
    """Whether a row is answered does not depend on what the rows beside it ask."""
    data = cells("di", targets=("name", "city"))
    (first,) = ask(data, pd.DataFrame({"name": ["Bob"], "target": ["city"]}))
    assert (first.target, first.entities) == ("city", ({"name": "Bob", "city": ""},))
    second, third = ask(data, pd.DataFrame({"name": ["Bob", "x"], "target": ["city", "name"]}))
    assert (second.entities, third.entities) == (({"name": "Bob", "city": ""},), ({"name": "", "city": ""},))
    with pytest.raises(UserError, match="'name'"):
        ask(data, pd.DataFrame({"city": ["Rome"]}), "city")
    one = cells("di")
    with pytest.raises(UserError, match="'name'"):
        ask(one, pd.DataFrame({"target": ["city"]}))


def test_a_row_that_asks_for_what_was_not_learnt_is_named() -> None:
    frame = pd.DataFrame({"name": ["Bob", "Eve"], "city": [""] * 2, "target": ["city", "ciy"]})
    with pytest.raises(UserError, match=r"Row 1: .* has not learnt .* 'ciy'; it knows city") as caught:
        ask(cells("di"), frame)
    assert (caught.value.where, caught.value.fix) == ("row 1, column 'target'", "did you mean city?")


@pytest.mark.parametrize("target", [5, True, ["city"]])
def test_a_target_is_text(target: Any) -> None:
    with pytest.raises(UserError, match="name of a column"):
        ask(cells("ed"), pd.DataFrame({"name": ["Ann"], "city": ["Rome"]}), target)


def test_columns_and_column_pairs_bring_titles_and_take_the_columns_there_are() -> None:
    first = Query("d.cta/1", "d.cta", "cta", ({"header": "h", "values": "a; b"},), (), None, "one")
    second = Query("d.cta/2", "d.cta", "cta", ({"values": "c"},), (), None, "two")
    card = card_of(unit("cta", [first, second], options=("city", "river")))
    assert (card["sides"], card["title"], card["domain"]) == ([None], None, ["city", "river"])
    frame = pd.DataFrame({"values": ["a; b"], "title": ["one"]})
    (found,) = ask(unit("cta", [first, second]), frame)
    assert (found.entities, found.title, found.rows) == (({"values": "a; b"},), "one", ())


@pytest.mark.parametrize(
    "options", [["Rome, Italy", "Rome, NY"], '["Rome, Italy", "Rome, NY"]', np.array(["Rome, Italy", "Rome, NY"])]
)
def test_linking_takes_the_candidates_of_each_row(options: Any) -> None:
    asked = Query("d.el/1", "d.el", "el", ({"cell": "Rome"},), (), "cell", "cities", (), ("a", "b"))
    data = unit("el", [asked])
    (found,) = ask(data, pd.DataFrame({"cell": ["Rome"], "options": pd.Series([options], dtype=object)}))
    assert found.options == ("Rome, Italy", "Rome, NY")
    for wrong in (None, "Rome", "[", [], "{}"):
        with pytest.raises(UserError, match="answers there are"):
            ask(data, pd.DataFrame({"cell": ["Rome"], "options": pd.Series([wrong], dtype=object)}))
    with pytest.raises(UserError, match="'options'"):
        ask(data, pd.DataFrame({"cell": ["Rome"]}))


def test_an_attribute_that_training_did_not_ask_for_can_be_extracted() -> None:
    asked = Query("d.ave/1", "d.ave", "ave", ({"title": "red tv"},), (), "colour", "listings")
    (found,) = ask(unit("ave", [asked]), pd.DataFrame({"title": ["red tv"]}), "brand")
    assert found.target == "brand"


def test_single_precision_and_missing_values_are_written_as_they_read() -> None:
    frame = pd.DataFrame({"name": pd.Series([0.1], dtype="float32"), "city": pd.Series([pd.NA], dtype="Int64")})
    (found,) = ask(cells("ed"), frame, "city")
    assert found.entities == ({"name": "0.1", "city": ""},)


def test_broken_characters_are_named() -> None:
    with pytest.raises(UserError, match="not text") as caught:
        ask(cells("ed"), pd.DataFrame({"name": ["\ud800"], "city": ["x"]}, dtype=object), "city")
    assert "row 0, column 'name'" in str(caught.value)


def test_only_frames_are_rows_and_no_column_is_there_twice() -> None:
    with pytest.raises(UserError, match="not as list"):
        ask(cells("ed"), [{"name": "Ann", "city": "Rome"}], "city")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'city' twice"):
        ask(cells("ed"), pd.DataFrame([["Ann", "Rome", "Rom"]], columns=["name", "city", "city"]), "city")
    assert ask(cells("ed"), pd.DataFrame({"name": [], "city": []}), "city") == []
