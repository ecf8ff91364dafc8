"""A small unit for each task, and how its entities are written."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from meld.types import Query, Sample, Table, UnitData


def render(entity: Mapping[str, str]) -> str:
    return " | ".join(f"{k}={v}" for k, v in entity.items())


LEFT = {f"l{i}": {"name": f"tv {i}", "brand": "sony", "price": str(i)} for i in range(6)}
RIGHT = {f"r{i}": {"name": f"television {i}", "brand": "sony" if i % 2 else "", "price": str(i)} for i in range(6)}


def pair(left: int, right: int, label: str) -> Sample:
    query = Query(
        f"d.em/train/{left}-{right}",
        "d.em",
        "em",
        (LEFT[f"l{left}"], RIGHT[f"r{right}"]),
        (f"A:l{left}", f"B:r{right}"),
    )
    return Sample(query, label)


@pytest.fixture
def em() -> UnitData:
    train = [pair(i, j, "match" if i == j else "mismatch") for i in range(4) for j in range(4)]
    train.append(pair(0, 5, "match"))
    columns = ("name", "brand", "price")
    tables = {"A": Table("A", "", columns, LEFT), "B": Table("B", "", columns, RIGHT)}
    return UnitData("d.em", "d", "em", tables, tuple(train), (), (), ())


ROWS = {str(i): {"city": ["york", "leeds"][i % 2], "zip": ["100", "200"][i % 2], "name": f"n{i}"} for i in range(8)}


def cell(task: str, row: str, target: str, label: str, value: str | None = None) -> Sample:
    entity = dict(ROWS[row])
    if value is not None:
        entity[target] = value
    return Sample(Query(f"d.{task}/{row}/{target}", f"d.{task}", task, (entity,), (f"T:{row}",), target), label)


@pytest.fixture
def table() -> Table:
    return Table("T", "", ("city", "zip", "name"), ROWS)


@pytest.fixture
def dc(table: Table) -> UnitData:
    train = (
        cell("dc", "0", "city", "york", "yxrk"),
        cell("dc", "1", "city", "leeds"),
        cell("dc", "2", "city", "york", "leeds"),
        cell("dc", "3", "city", "leeds", "yxrk"),
        cell("dc", "4", "zip", "100", ""),
    )
    return UnitData("d.dc", "d", "dc", {"T": table}, train, (), (), ())


@pytest.fixture
def ed(table: Table) -> UnitData:
    train = (*(cell("ed", str(i), "city", "correct") for i in range(4)), cell("ed", "5", "zip", "error", "2x0"))
    return UnitData("d.ed", "d", "ed", {"T": table}, train, (), (), ())


@pytest.fixture
def di(table: Table) -> UnitData:
    train = tuple(cell("di", str(i), "city", ROWS[str(i)]["city"].title(), "") for i in range(5))
    return UnitData("d.di", "d", "di", {"T": table}, train, (), (), ())
