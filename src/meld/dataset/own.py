"""What the components for users' own tables share: their files, record ids, and what is said about them.

Record ids are the values of the id column, or row numbers from 0 where there is none; they stand in ``Query.rows``, so
that an answer finds its way back to the row it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from meld.dataset.csv_text import TextFrame
from meld.errors import ConfigError, DataError
from meld.types import Table


def check_fraction(name: str, argument: str, value: float) -> float:
    """Return a share after checking that it lies in [0, 1].

    Raises:
        ConfigError: If it does not.
    """
    if not 0 <= value <= 1:
        raise ConfigError(
            f"Dataset '{name}' has {argument}={value}, which is no share.",
            where=f"datasets.{name}.{argument}",
            fix=f"datasets.{name}.{argument}=0.2",
        )
    return value


def own_files(
    name: str, given: Mapping[str, str | None], test: str | None, few_shot: str, few_shot_ids: str | None
) -> tuple[Path, ...]:
    """The files in use, checked to exist.

    Args:
        name: The dataset's name.
        given: Role to path for what is needed, None where it is not given.
        test: The optional file of what is held out.
        few_shot: Says whether ``few_shot_ids`` is read.
        few_shot_ids: The optional file of frozen ids.

    Raises:
        ConfigError: If a role has no path.
        DataError: If a file is not there.
    """
    absent = [role for role, path in given.items() if path is None]
    if absent:
        raise ConfigError(
            f"Dataset '{name}' is read from your own files, and {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not given.",
            where=f"datasets.{name}.{absent[0]}",
            fix=" ".join(f"datasets.{name}.{role}=FILE" for role in absent) + " (CSV, Parquet or JSON lines)",
        )
    optional = {"test": test, "few_shot_ids": few_shot_ids if few_shot == "ids" else None}
    found = {role: Path(path) for role, path in {**given, **optional}.items() if path is not None}
    for role, path in found.items():
        if not path.is_file():
            raise DataError(
                f"Dataset '{name}' cannot find {path.name}.",
                where=f"datasets.{name}.{role}={path}",
                fix="check the path; it is relative to the folder you are in",
            )
    return tuple(found.values())


def record_ids(frame: TextFrame, column: str | None, *, unique: bool = True) -> tuple[str, ...]:
    """Record ids: a column's values, or row numbers from 0.

    Raises:
        DataError: If the column is not there, or an id is empty or occurs twice where ``unique`` is asked for.
    """
    if column is None:
        return tuple(str(row) for row in range(len(frame)))
    ids = frame.column(column)
    if "" in ids:
        raise DataError(
            f"{frame.path.name} has a row without an id.",
            where=frame.at(ids.index(""), column),
            fix="fill the id column, or leave it out: rows are then numbered",
        )
    return frame.unique(column) if unique else ids


def describe_table(name: str, table: Table, file: str, notes: list[str]) -> None:
    """Say in ``notes`` what a table lacks and repeats."""
    blank = [column for column in table.columns if not any(entity[column] for entity in table.rows.values())]
    if blank:
        notes.append(f"{name}: {file} has columns without any value: {some_of(blank)}.")
    empty = sum(not value for entity in table.rows.values() for value in entity.values())
    if empty:
        notes.append(f"{name}: {empty} of {len(table.rows) * len(table.columns)} cells of {file} are empty.")
    repeated = len(table.rows) - len({tuple(entity.values()) for entity in table.rows.values()})
    if repeated:
        notes.append(f"{name}: {repeated} rows of {file} repeat another row; all are kept.")


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def say_without_labels(name: str, count: int) -> list[str]:
    """What to say where no label may be read; nothing where there are some."""
    if count:
        return []
    return [
        f"{name}: there is no readable label; the few-shot set is empty, and nothing can be learnt from this dataset."
    ]
