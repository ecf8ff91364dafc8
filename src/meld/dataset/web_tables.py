"""Web tables and their ground truths as text: JSON and CSV forms, CSV truths, members of archives."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from meld.dataset.labelled import as_list, clean_text, distinct, is_place, join_title, parse_json
from meld.errors import DataError

MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 32 * 2**20
MAX_ARCHIVE_BYTES = 2**30

_FETCH = "download the archive again from its publisher"

_JOINED = re.compile(r"(.+) (\d+)")


class WebTable(NamedTuple):
    """A table by columns.

    Attributes:
        title: What is known about it.
        headers: One a column; empty where unknown.
        columns: The values, without the header.
    """

    title: str
    headers: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]


class Truth(NamedTuple):
    """One line of a ground truth.

    Attributes:
        table: The table's name.
        column: Which column, counted from 0.
        types: The acceptable types, the most specific first.
        where: Its place, for messages.
    """

    table: str
    column: int
    types: tuple[str, ...]
    where: str


def read_truth(text: str, what: str, where: str, *, joined: bool) -> list[Truth]:
    """Read a ground truth without a header.

    Args:
        text: CSV lines.
        what: The file or member, for messages.
        where: Its place, for messages.
        joined: Whether table and column are one field (``"<table> <column>","<type>", ...``) or two
            (``<table>,<column>,<type>``).

    Raises:
        DataError: For a line that does not have this form, naming it.
    """
    lines: list[Truth] = []
    for number, row in _csv_rows(text, what, where):
        place = f"{where}, line {number}"
        if joined:
            key = _JOINED.fullmatch(row[0].strip())
            table, column, types = (key[1], key[2], row[1:]) if key else ("", "", row[1:])
        else:
            table, column, types = row[0].strip(), row[1].strip() if len(row) > 1 else "", row[2:]
        names = distinct(_local_name(kind) for field in types for kind in (field.split() if not joined else [field]))
        if not table or not is_place(column) or not names:
            form = '"TABLE COLUMN","TYPE"' if joined else "TABLE,COLUMN,TYPE"
            raise DataError(
                f"{what} has a line that does not name a table, a column number and a type.",
                where=place,
                fix=f"write {form}, columns counted from 0",
            )
        lines.append(Truth(table, int(column), names, place))
    if not lines:
        raise DataError(f"{what} is empty.", where=where, fix="it needs one line a labelled column")
    return lines


def parse_table(text: str, suffix: str, what: str, where: str, *, header: bool = True) -> WebTable:
    """Read a web table; shorter rows and columns are padded with empty cells.

    Args:
        text: The file's or member's text.
        suffix: ``.json`` or ``.csv``.
        what: The file or member, for messages.
        where: Its place, for messages.
        header: Whether the first row of a CSV file is the header.

    Raises:
        DataError: If it is not in one of the known forms (see ``AnnotatedTables`` and ``TableArchive``).
    """
    if suffix == ".csv":
        rows = [row for _, row in _csv_rows(text, what, where)]
        first = tuple(rows[0]) if header and rows else ()
        return _from_rows("", first, rows[1:] if header else rows)
    content = parse_json(text, what, where)
    if isinstance(content, dict):
        if "relation" in content:
            columns = _texts(content["relation"], what, f"{where}, field relation")
            row = _header_row(content)
            names = tuple(column[row] if 0 <= row < len(column) else "" for column in columns)
            height = max((len(column) for column in columns), default=0)
            return WebTable(
                join_title(*(clean_text(content.get(key)) for key in ("title", "pageTitle"))),
                names,
                tuple(
                    tuple(value for place, value in enumerate(_pad(column, height)) if place != row)
                    for column in columns
                ),
            )
        if "contents" in content:
            rows = _texts(content["contents"], what, f"{where}, field contents")
            return _from_rows(clean_text(content.get("title")), (), rows)
        if "content" in content:
            rows = _texts(content["content"], what, f"{where}, field content")
            header_row = _texts([content.get("header") or []], what, f"{where}, field header")[0]
            return _from_rows(clean_text(content.get("title")), header_row, rows)
    raise DataError(
        f"{what} is no table: it has none of the fields relation, contents and content.",
        where=where,
        fix="use a file of the published layout",
    )


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Read some members of a ``.tar.gz`` archive into memory; nothing is extracted to disk.

    Raises:
        DataError: If the archive is broken or too large, or a member's path leaves the archive or is a link or device.
    """
    found: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for number, member in enumerate(archive):
                where = f"{path}, member {member.name}"
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name:
                    raise DataError(f"{path.name} has a member outside the archive.", where=where, fix=_FETCH)
                if not member.isfile() and not member.isdir():
                    raise DataError(f"{path.name} has a member that is no plain file.", where=where, fix=_FETCH)
                total += member.size
                if number >= MAX_MEMBERS or member.size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
                    raise DataError(
                        f"{path.name} is larger than expected: at most {MAX_MEMBERS:,} members of "
                        f"{MAX_MEMBER_BYTES:,} bytes, {MAX_ARCHIVE_BYTES:,} bytes together.",
                        where=where,
                        fix=_FETCH,
                    )
                key = "/".join(parts)
                if member.isfile() and wanted(key):
                    stream = archive.extractfile(member)
                    found[key] = stream.read() if stream is not None else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path.name} is no readable .tar.gz archive: {error}.", where=str(path), fix=_FETCH) from None
    return found


def _local_name(kind: str) -> str:
    """``Book`` of ``http://dbpedia.org/ontology/Book``."""
    return re.split(r"[/#]", kind.strip())[-1] if "://" in kind else kind.strip()


def _csv_rows(text: str, what: str, where: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{what} is not well-formed CSV: {error}.",
                where=f"{where}, line {reader.line_num}",
                fix="check the quotes on that line",
            ) from None
        if row is None:
            return
        if row:
            yield reader.line_num, row


def _texts(lists: Any, what: str, where: str) -> list[list[str]]:
    """A list of lists of cells as text; a cell is a scalar or ``{"data": scalar}``."""
    made: list[list[str]] = []
    for number, part in enumerate(as_list(lists, what, where)):
        cells = [
            cell.get("data") if isinstance(cell, dict) else cell
            for cell in as_list(part, what, f"{where}, entry {number}")
        ]
        if any(isinstance(cell, dict | list) for cell in cells):
            raise DataError(
                f"{what} has a cell that is no text.", where=f"{where}, entry {number}", fix="write cells as text"
            )
        made.append([clean_text(cell) for cell in cells])
    return made


def _header_row(content: Mapping[str, Any]) -> int:
    row = str(content.get("headerRowIndex", "-1"))
    return int(row) if content.get("hasHeader") is True and is_place(row) else -1


def _pad(cells: Sequence[str], width: int) -> list[str]:
    return [*cells, *[""] * (width - len(cells))]


def _from_rows(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> WebTable:
    width = max([len(header), *(len(row) for row in rows)])
    padded = [_pad(row, width) for row in rows]
    columns = tuple(tuple(row[place] for row in padded) for place in range(width))
    return WebTable(title, tuple(_pad(header, width)), columns)
