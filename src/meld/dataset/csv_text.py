"""Reading CSV as text, exactly: nothing is parsed into numbers or missing values, and errors name their line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meld.errors import ConfigError, DataError

Advice = Callable[[str], str]


@dataclass(frozen=True)
class TextFrame:
    """A CSV file as text.

    Attributes:
        path: The file.
        columns: The header.
        rows: The values, each row as long as the header.
        lines: For each row the line of the file on which it ends, counted from 1.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def require(self, *columns: str) -> None:
        """Check that the columns exist.

        Raises:
            DataError: Naming the missing columns and those present.
        """
        missing = [column for column in columns if column not in self.columns]
        if missing:
            several = len(missing) > 1
            hint = "rename them in the header or in the dataset's options"
            if other_separator(self.columns):
                hint = "the file seems not to be separated by commas: save it as comma-separated CSV"
            raise DataError(
                f"{self.path.name} has no column{'s' if several else ''} {', '.join(map(repr, missing))}; "
                f"its columns are {', '.join(map(repr, self.columns))}.",
                where=f"{self.path}, line 1",
                fix=hint,
            )

    def column(self, name: str) -> tuple[str, ...]:
        """The values of one column.

        Raises:
            DataError: If there is no such column.
        """
        self.require(name)
        position = self.columns.index(name)
        return tuple(row[position] for row in self.rows)

    def unique(self, name: str) -> tuple[str, ...]:
        """The values of a column of ids.

        Raises:
            DataError: If there is no such column, or an id occurs twice.
        """
        ids = self.column(name)
        seen: dict[str, int] = {}
        for number, record in enumerate(ids):
            if record in seen:
                raise DataError(
                    f"{self.path.name} has two rows with {name} '{record}'.",
                    where=f"{self.at(number, name)}; first on line {self.lines[seen[record]]}",
                    fix="ids must be unique",
                )
            seen[record] = number
        return ids

    def at(self, row: int, column: str) -> str:
        """Where a cell stands, for messages: file, row (counted from 0), line and column."""
        return f"{self.path}, row {row} (line {self.lines[row]}), column '{column}'"

    def entities(self, drop: Sequence[str] = ()) -> tuple[tuple[str, ...], list[dict[str, str]]]:
        """The columns to show and each row as an entity.

        Args:
            drop: Columns to leave out: ids, labels, cluster keys. Columns without a name are a saved index and left out
                as well.

        Raises:
            DataError: If no column remains.
        """
        keep = [(place, column) for place, column in enumerate(self.columns) if column and column not in drop]
        if not keep:
            raise DataError(
                f"{self.path.name} has no columns besides ids.",
                where=str(self.path),
                fix="add the columns that describe the records",
            )
        return tuple(column for _, column in keep), [
            {column: row[place] for place, column in keep} for row in self.rows
        ]


def read_csv_text(path: Path | str, encoding: str = "utf-8") -> TextFrame:
    """Read comma-separated text with a header; ``NA``, ``null`` and ``06000`` survive, BOM and CRLF are accepted.

    Raises:
        DataError: For a missing, empty, header-only, wrongly encoded or malformed file; with the line and what to do.
        ConfigError: If the encoding's name is unknown.
    """
    path = Path(path)
    (_, header), *records = csv_records(io.StringIO(read_text(path, encoding), newline=""), path)
    return TextFrame(path, header, tuple(values for _, values in records), tuple(line for line, _ in records))


def other_separator(header: Sequence[str]) -> str:
    """What else seems to separate the columns of a header that is one column for commas; empty if nothing does."""
    marks = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
    return next((name for mark, name in marks.items() if len(header) == 1 and mark in header[0]), "")


def csv_records(lines: Iterable[str], path: Path, *, bare: bool = False) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The header and the rows of comma-separated text, one by one, each with the line on which it ends.

    Args:
        lines: The text, with its line ends.
        path: The file, for messages.
        bare: Whether a header will do.

    Raises:
        DataError: If it is empty, has a header only where that will not do, or is malformed; with the line and what to
            do.
    """
    reader = csv.reader(lines, strict=True)
    header: tuple[str, ...] = ()
    rows = -1
    try:
        for values in reader:
            if not values:  # a blank line is no row
                continue
            rows += 1
            if rows == 0:
                header = tuple(values)
                _check_header(header, path, reader.line_num)
            elif len(values) != len(header):
                raise _ragged(path, header, len(values), rows - 1, reader.line_num)
            yield reader.line_num, tuple(values)
    except csv.Error as error:
        raise DataError(
            f"{path.name} is not well-formed CSV: {error}.",
            where=f"{path}, line {reader.line_num}",
            fix="check the quotes on that line",
        ) from None
    if rows < 0:
        raise DataError(f"{path.name} is empty.", where=str(path), fix="it needs a header line and at least one row")
    if rows == 0 and not bare:
        raise DataError(f"{path.name} has a header but no rows.", where=str(path), fix="it needs at least one row")


def _check_header(header: Sequence[str], path: Path, line: int) -> None:
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(
            f"{path.name} names {', '.join(repr(column) for column in twice)} more than once in its header.",
            where=f"{path}, line {line}",
            fix="give every column a name of its own",
        )


def _ragged(path: Path, header: Sequence[str], values: int, row: int, line: int) -> DataError:
    first = header[values] if values < len(header) else None
    return DataError(
        f"{path.name} has a row with {values} values where the header names {len(header)} columns"
        + (f"; '{first}' is the first without a value." if first is not None else "."),
        where=f"{path}, row {row} (line {line})",
        fix="quote values that contain commas, or add the missing ones",
    )


def _set_encoding(encoding: str) -> str:
    """What to do about another encoding, where there is an option for it."""
    return f"set encoding={encoding}"


def read_text(path: Path, encoding: str = "utf-8", advice: Advice = _set_encoding) -> str:
    """The text of a file, without a byte order mark.

    Args:
        path: The file.
        encoding: Its encoding.
        advice: What to do if it has another, of which the name is given.

    Raises:
        DataError: If it is missing, cannot be read or is not so encoded, with the line and what to do.
        ConfigError: If the encoding's name is unknown.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path.name} does not exist.", where=str(path), fix="check the path, or put the file there"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read: {error.strerror}.",
            where=str(path),
            fix="check what it is and its permissions",
        ) from None
    return decode(content, path.name, str(path), encoding, advice)


def decode(content: bytes, what: str, where: str, encoding: str = "utf-8", advice: Advice = _set_encoding) -> str:
    """Decode, without a byte order mark.

    Args:
        content: The bytes.
        what: What they are, for messages.
        where: Where they stand, for messages.
        encoding: Their encoding.
        advice: As for :func:`read_text`.

    Raises:
        DataError: If the bytes are not so encoded, naming the line.
        ConfigError: If the encoding's name is unknown.
    """
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # the same, but a byte order mark does not become part of the first column's name
    try:
        return content.decode(encoding)
    except LookupError:
        raise ConfigError(
            f"There is no encoding '{encoding}'.", where=where, fix="use encoding=utf-8 or encoding=latin-1"
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        better = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise DataError(
            f"{what} is not {encoding.removesuffix('-sig')}: "
            f"byte {content[error.start]:#04x} at offset {error.start} is not valid.",
            where=f"{where}, line {line}",
            fix=advice(better),
        ) from None
