"""A user's own table on disk, read piece by piece: its length does not count for memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from meld.dataset.csv_text import csv_records, other_separator, read_text
from meld.dataset.table_files import check_table, json_records, long_cells, parquet_records
from meld.errors import DataError

Format = Literal["csv", "parquet", "jsonl"]

Line = tuple[str, ...]

_ROWS = 512
"""Rows of a Parquet file that are text at a time."""


class TableFile:
    """A table as :func:`meld.dataset.table_files.read_table` reads it, but some rows at a time; none will do.

    The whole file is looked through once, so that what is wrong with its last line is said before its first is used.

    Args:
        path: The file, in UTF-8.
        kind: Its format.

    Attributes:
        columns: Its columns; of JSON lines all keys that any object has.

    Raises:
        DataError: For a missing, empty or malformed file, naming the file, the line and the column.
    """

    def __init__(self, path: Path, kind: Format) -> None:
        self.path, self.kind = path, kind
        if kind == "jsonl":
            names: dict[str, None] = {}
            rows = sum(1 for record in self._objects() if names.update(dict.fromkeys(record)) is None)
            self.columns = tuple(names)
        elif kind == "parquet":
            self.columns, pieces = parquet_records(path, _ROWS)
            rows = sum(map(len, pieces))
        else:
            lines = self._csv_lines()
            self.columns = next(lines)
            _check_separator(self.columns, path)
            rows = sum(1 for _ in lines)
        if kind != "csv":  # of which everything has been checked on the way
            check_table(path, self.columns, rows if kind == "jsonl" else max(rows, 1))
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def pieces(self, size: int) -> Iterator[list[Line]]:
        """The rows in order, ``size`` at a time, the last ones perhaps fewer."""
        rows = self._lines()
        while piece := list(islice(rows, size)):
            yield piece

    def _lines(self) -> Iterator[Line]:
        if self.kind == "jsonl":
            return (tuple(record.get(name, "") for name in self.columns) for record in self._objects())
        if self.kind == "parquet":
            return (row for piece in parquet_records(self.path, _ROWS)[1] for row in piece)
        return islice(self._csv_lines(), 1, None)

    def _csv_lines(self) -> Iterator[Line]:
        with long_cells():
            yield from (values for _, values in csv_records(_text_lines(self.path, ""), self.path, bare=True))

    def _objects(self) -> Iterator[dict[str, str]]:
        return (record for _, record in json_records(_text_lines(self.path, "\n"), self.path))


def _save_anew(encoding: str) -> str:
    # Of the names of this encoding the one that every iconv knows.
    name = "ISO-8859-1" if encoding == "latin-1" else encoding.upper()
    return f"save it as UTF-8, for example: iconv -f {name} -t UTF-8 OLD > NEW"


def _check_separator(header: Sequence[str], path: Path) -> None:
    mark = other_separator(header)
    if mark:
        raise DataError(
            f"{path.name} is one column {header[0]!r} for commas: it looks separated by {mark}.",
            where=f"{path}, line 1",
            fix="save it as comma-separated CSV",
        )


def _text_lines(path: Path, newline: str) -> Iterable[str]:
    """The lines of a file with their ends, without a byte order mark.

    Args:
        path: The file.
        newline: As for :func:`open`: what ends a line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield from file
    except (OSError, UnicodeDecodeError):
        read_text(path, advice=_save_anew)  # says what is wrong, and where
        raise
