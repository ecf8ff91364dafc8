"""Reading users' own tables as text: CSV, Parquet and JSON lines, told apart by the file's suffix.

All three give the same ``TextFrame``, in which nothing has been parsed: ``NA``, ``06000`` and ``1e5`` stay as they are
written.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from meld.dataset.csv_text import TextFrame, read_csv_text, read_text
from meld.errors import DataError

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson")

_LONGEST_CELL = 1 << 30


class _Number(str):
    """A JSON number as it is written."""


def read_table(path: Path | str, encoding: str = "utf-8") -> TextFrame:
    """Read a table as text: Parquet or JSON lines by the file's suffix, else comma-separated text.

    Numbers keep the digits they are written with (Parquet's the shortest that read back the same); null and NaN become
    the empty string, which is a missing value. The ``lines`` of a Parquet file are its rows counted from 1.

    Args:
        path: The file.
        encoding: The encoding of CSV and JSON lines.

    Raises:
        DataError: For a missing, empty or malformed file, naming the file, the line and the column.
        ConfigError: If the encoding's name is unknown.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        return _read_parquet(path)
    if suffix in JSON_LINES:
        return _read_json_lines(path, encoding)
    with long_cells():
        return read_csv_text(path, encoding)


@contextmanager
def long_cells() -> Iterator[None]:
    """The block in which the csv module takes cells above 128 KiB; it has but one switch for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def cell_text(value: object) -> str:
    """A cell as text, without changing it.

    None, NaN and pandas' NaT and NA give the empty string. Numbers are written in the fewest digits that read back the
    same: ``6000`` stays ``6000``, ``0.1`` stays ``0.1`` in any precision; lists and mappings become JSON. Whether the
    text can be written to a file is another question, see ``writable``.
    """
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def writable(text: str) -> bool:
    """Whether a text can be encoded: half of a surrogate pair and bytes that were not UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(path: Path) -> TextFrame:
    header, pieces = parquet_records(path)
    rows = tuple(row for piece in pieces for row in piece)
    check_table(path, header, len(rows))
    return TextFrame(path, header, rows, tuple(range(1, len(rows) + 1)))


def parquet_records(path: Path, size: int = 65_536) -> tuple[tuple[str, ...], Iterator[list[tuple[str, ...]]]]:
    """The header of a Parquet file, and its rows as text, some at a time.

    Args:
        path: The file.
        size: Rows at a time at most.

    Raises:
        DataError: For a missing or malformed file, or a value that is not text; also while the rows are read.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(
            f"{path.name} does not exist.", where=str(path), fix="check the path, or put the file there"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    names = file.schema_arrow.names
    # pandas saves the index of a frame below such a name.
    return tuple("" if name.startswith("__index_level_") else name for name in names), _parquet_pieces(path, file, size)


def _parquet_pieces(path: Path, file: pq.ParquetFile, size: int) -> Iterator[list[tuple[str, ...]]]:
    row = 0
    try:
        for batch in file.iter_batches(batch_size=size):
            columns: list[list[str]] = []
            for place, field in enumerate(batch.schema):
                values = batch.column(place).to_pylist()
                if pa.types.is_float32(field.type):
                    # Python's floats are doubles, in which 0.1 of single precision is 0.10000000149011612.
                    values = [None if value is None else np.float32(value) for value in values]
                columns.append(_texts(values, path, field.name, row))
            yield list(zip(*columns, strict=True))
            row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path.name} is not a readable Parquet file: {str(error).splitlines()[0]}",
        where=str(path),
        fix="write it again, or save the table as CSV",
    )


def _texts(values: Sequence[object], path: Path, column: str, first: int) -> list[str]:
    found = [cell_text(value) for value in values]
    for row, text in enumerate(found, start=first):
        if not writable(text):
            raise _not_text(path, row, row + 1, column)
    return found


def _read_json_lines(path: Path, encoding: str) -> TextFrame:
    found = list(json_records(read_text(path, encoding).split("\n"), path))
    header = tuple(dict.fromkeys(column for _, record in found for column in record))
    rows = tuple(tuple(record.get(column, "") for column in header) for _, record in found)
    check_table(path, header, len(rows))
    return TextFrame(path, header, rows, tuple(number for number, _ in found))


def json_records(lines: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The objects of JSON lines as text, one by one, each with its line.

    Args:
        lines: The lines.
        path: The file, for messages.

    Raises:
        DataError: For a line that is no JSON object or not text.
    """
    row = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _json_object(line, path.name, f"{path}, row {row} (line {number})")
        texts = {column: _json_text(value, top=True) for column, value in record.items()}
        broken = [column for column, text in texts.items() if not writable(column + text)]
        if broken:
            raise _not_text(path, row, number, broken[0])
        yield number, texts
        row += 1


def _json_object(line: str, name: str, place: str) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(
                f"{name} names {twice!r} more than once in an object.",
                where=place,
                fix="give every key a name of its own",
            )
        return found

    keep: Callable[[str], _Number] = _Number
    try:
        record = json.loads(line, parse_int=keep, parse_float=keep, parse_constant=keep, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name} has a line that is not JSON: {error.msg} at character {error.pos + 1}.",
            where=place,
            fix="write one JSON object per line",
        ) from None
    except RecursionError:
        raise DataError(f"{name} has a line nested too deeply.", where=place, fix="write flat objects") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{name} has a line that is no JSON object.", where=place, fix='write objects such as {"name": "sony tv"}'
        )
    return record


def _json_text(value: object, *, top: bool = False) -> str:
    """A JSON value as text; inside lists and objects it stays JSON."""
    if value is None:
        return "" if top else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Number):
        return "" if top and value == "NaN" else str(value)
    if isinstance(value, str):
        return value if top else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(_json_text(item) for item in value)}]"
    assert isinstance(value, dict)
    members = (f"{json.dumps(key, ensure_ascii=False)}: {_json_text(item)}" for key, item in value.items())
    return f"{{{', '.join(members)}}}"


def check_table(path: Path, header: Sequence[str], rows: int) -> None:
    """Refuse a table without columns or rows, or with two columns of one name.

    Raises:
        DataError: Naming them.
    """
    if not header or not rows:
        raise DataError(f"{path.name} has no rows.", where=str(path), fix="it needs columns and at least one row")
    named = [column for column in header if column]
    twice = sorted({column for column in named if named.count(column) > 1})
    if twice:
        raise DataError(
            f"{path.name} names {', '.join(map(repr, twice))} more than once among its columns.",
            where=str(path),
            fix="give every column a name of its own",
        )


def _not_text(path: Path, row: int, line: int, column: str) -> DataError:
    return DataError(
        f"{path.name} has a value that is not text: no encoding can write it.",
        where=f"{path}, row {row} (line {line}), column {column!r}",
        fix="replace the broken characters",
    )
