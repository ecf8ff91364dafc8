"""A withheld unit shows what a test query shows, and nothing that depends on a label or on the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meld.config.build import build
from meld.config.compose import load_config, plain
from meld.dataset.io import digest_unit
from meld.dataset.withheld import withhold
from meld.types import Query, Sample, Table, UnitData


def quickstart() -> dict[str, UnitData]:
    tree = plain(load_config(["suite=quickstart10"]))
    found: dict[str, UnitData] = {}
    for name, node in tree["datasets"].items():
        found.update(build(node, place=name).load().units)
    return found


@pytest.fixture(scope="module")
def units() -> dict[str, UnitData]:
    return quickstart()


def test_labels_and_pool_are_gone_and_the_test_stays(units: dict[str, UnitData]) -> None:
    assert len(units) >= 10
    for data in units.values():
        masked = withhold(data)
        assert (masked.train, masked.dev, masked.pool) == ((), (), ())
        assert [query.id for query in masked.test] == [query.id for query in data.test]
        assert masked.options == data.options
        if data.task != "di":
            assert masked.tables == data.tables
            assert masked.test == data.test


def poisons() -> list[tuple[str, Callable[[UnitData], UnitData]]]:
    def labels(data: UnitData) -> UnitData:
        poison = [replace(s, label=f"poison {i}") for i, s in enumerate((*data.train, *data.dev))]
        return replace(data, train=tuple(poison[: len(data.train)]), dev=tuple(poison[len(data.train) :]))

    def pool(data: UnitData) -> UnitData:
        return replace(data, pool=tuple(replace(q, title="poison") for q in data.pool[::2]))

    def split(data: UnitData) -> UnitData:
        return replace(data, train=data.dev, dev=data.train)

    return [("labels", labels), ("pool", pool), ("split", split)]


@pytest.mark.parametrize(("name", "poison"), poisons(), ids=[name for name, _ in poisons()])
def test_nothing_depends_on_labels_or_pool(
    units: dict[str, UnitData], name: str, poison: Callable[[UnitData], UnitData]
) -> None:
    changed = 0
    for data in units.values():
        poisoned = poison(data)
        changed += digest_unit(poisoned) != digest_unit(data)
        assert digest_unit(withhold(poisoned)) == digest_unit(withhold(data))
    assert changed >= len(units) // 2


def test_labels_that_stand_in_the_table_are_emptied_everywhere() -> None:
    rows = {"1": {"name": "a", "city": "Rome", "zip": "1"}, "2": {"name": "b", "city": "", "zip": "2"}}
    table = Table("T", "", ("name", "city", "zip"), rows)

    def query(row: str, target: str, **shown: str) -> Query:
        entity = {**rows[row], target: "", **shown}
        return Query(f"d.di/{row}/{target}", "d.di", "di", (entity,), (f"T:{row}",), target)

    data = UnitData(
        "d.di",
        "d",
        "di",
        {"T": table},
        (Sample(query("1", "city"), "Rome"),),
        (),
        (),
        (query("1", "zip"), query("2", "city")),
    )
    masked = withhold(data)
    assert masked.tables["T"].rows["1"] == {"name": "a", "city": "", "zip": "1"}
    assert masked.tables["T"].rows["2"] == rows["2"]
    # The test query about another attribute of the same row showed the label too.
    assert data.test[0].entities[0]["city"] == "Rome"
    assert masked.test[0].entities[0] == {"name": "a", "city": "", "zip": ""}
    assert masked.test[1] == data.test[1]


def test_imputation_labels_of_the_quickstart_are_gone(units: dict[str, UnitData]) -> None:
    (data,) = (found for found in units.values() if found.task == "di")
    masked = withhold(data)
    for sample in (*data.train, *data.dev):
        (row,) = sample.query.rows
        name, _, record = row.partition(":")
        table = next(t for t in masked.tables.values() if t.name == name)
        assert table.rows[record][sample.query.target or ""] == ""
