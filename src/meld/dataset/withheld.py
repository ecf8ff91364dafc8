"""A unit as it looks to somebody who must not learn from it (masked settings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meld.types import Entity, Query, UnitData


def withhold(data: UnitData) -> UnitData:
    """The unit without its labels and its unlabelled pool.

    What stays is what a test query shows: the tables, the test queries, and the output domain that the question states.
    Imputation writes its labels into the table, so the labelled cells are emptied there and in every query that shows
    their row: nothing of the result depends on a label or on a pool query.

    Args:
        data: The unit.
    """
    hidden: dict[str, set[str]] = {}
    if data.task == "di":
        for sample in (*data.train, *data.dev):
            for row in sample.query.rows:
                hidden.setdefault(row, set()).add(sample.query.target or "")
    tables = {
        key: replace(
            table,
            rows={id_: _blank(entity, hidden.get(f"{table.name}:{id_}", ())) for id_, entity in table.rows.items()},
        )
        for key, table in data.tables.items()
    }
    test = tuple(_shown(query, hidden) for query in data.test)
    return replace(data, tables=tables, train=(), dev=(), pool=(), test=test)


def _shown(query: Query, hidden: Mapping[str, set[str]]) -> Query:
    entities = tuple(
        _blank(entity, hidden.get(query.rows[place], ()) if place < len(query.rows) else ())
        for place, entity in enumerate(query.entities)
    )
    return query if entities == query.entities else replace(query, entities=entities)


def _blank(entity: Entity, attributes: set[str] | tuple[()]) -> Entity:
    return {name: "" if name in attributes else value for name, value in entity.items()} if attributes else entity
