"""Labelled columns as items, and lists of labels: what the sets of column type annotation share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from meld.dataset.labelled import (
    Item,
    distinct,
    read_labels,
    show_values,
)
from meld.dataset.web_tables import Truth, WebTable
from meld.errors import ConfigError, DataError

TASKS = ("cta",)


def column_entity(header: str, values: str, others: Sequence[str] = ()) -> dict[str, str]:
    """A column as it is shown: its header, some values, the headers of the table's other columns."""
    return {"column": header, "values": values, "other columns": ", ".join(distinct(others))}


def column_items(
    name: str,
    lines: Sequence[Truth],
    tables: Mapping[str, WebTable],
    max_values: int,
    title: str,
    notes: list[str],
    prefix: str = "",
) -> list[Item]:
    """The labelled columns of some tables.

    Args:
        name: The dataset's name, for messages.
        lines: The ground truth.
        tables: The tables by name; those that the ground truth names and that are not here are left out and said.
        max_values: How many distinct values of a column are shown.
        title: Said of tables without a title of their own.
        notes: What was handled is appended here.
        prefix: Put before the tables' names in ids and groups.

    Raises:
        DataError: If a table has no such column, or none of the tables is there.
    """
    items: dict[str, Item] = {}
    absent = 0
    for line in lines:
        table = tables.get(line.table)
        if table is None:
            absent += 1
            continue
        if line.column >= len(table.columns):
            raise DataError(
                f"The ground truth names column {line.column} of table '{line.table}', which has "
                f"{len(table.columns)} columns.",
                where=line.where,
                fix="columns are counted from 0; check that the ground truth and the tables belong together",
            )
        others = [header for place, header in enumerate(table.headers) if place != line.column]
        entity = column_entity(table.headers[line.column], show_values(table.columns[line.column], max_values), others)
        identifier = f"{prefix}{line.table}/{line.column}"
        items.setdefault(identifier, Item(identifier, prefix + line.table, entity, line.types, table.title or title))
    if absent:
        notes.append(f"{name}: {absent} labelled columns belong to tables that are not there; they were left out.")
    if not items:
        raise DataError(
            f"None of the tables that the ground truth of '{name}' names is there.",
            where=lines[0].where,
            fix=f"check datasets.{name}.tables",
        )
    repeated = len(lines) - absent - len(items)
    if repeated:
        notes.append(f"{name}: {repeated} columns are labelled more than once; the first label of each was kept.")
    return list(items.values())


def label_file(labels: str | Collection[str] | None) -> tuple[str, ...]:
    """The file of a label list, as the argument ``labels`` gives it; empty where it gives names or nothing."""
    return (labels,) if isinstance(labels, str) else ()


def load_labels(labels: str | Sequence[str] | None, base: Path, encoding: str = "utf-8") -> Sequence[str] | None:
    """The published label list: read from a file below ``base``, given as names, or unknown (None)."""
    return read_labels(base / labels, encoding) if isinstance(labels, str) else labels


def some_files(name: str, argument: str, files: Sequence[str]) -> Sequence[str]:
    """The files that an argument of a dataset names.

    Raises:
        ConfigError: If there is none.
    """
    if not files:
        raise ConfigError(
            f"Dataset '{name}' names no file.", where=f"datasets.{name}.{argument}", fix="name at least one file"
        )
    return files
