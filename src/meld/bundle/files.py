"""Tables from and to files for ``meld predict``: CSV, Parquet and JSON lines, with every cell as it is written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from meld.dataset.table_files import JSON_LINES, PARQUET, cell_text
from meld.dataset.table_pieces import Format, TableFile
from meld.errors import DataError, UserError

if TYPE_CHECKING:
    from pandas import DataFrame

_FORMATS = ("csv", "parquet", "jsonl")
STREAM = "-"
"""Names standard input or output."""


_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    **dict.fromkeys(PARQUET, "parquet"),
    **dict.fromkeys(JSON_LINES, "jsonl"),
}


def format_of(name: str, given: str | None, option: str = "file_format") -> Format:
    """The format of a file: as given, else by its suffix; CSV for standard input and output.

    Args:
        name: The file, or ``-``.
        given: Its format, where the suffix does not say.
        option: The argument by which it is given, for messages.

    Raises:
        UserError: For an unknown format, or a suffix that names none.
    """
    if given is not None:
        if given not in _FORMATS:
            raise UserError(f"There is no format {given!r}.", fix=f"one of {', '.join(_FORMATS)}")
        return cast(Format, given)
    if name == STREAM:
        return "csv"
    suffix = Path(name).suffix
    found = _SUFFIXES.get(suffix.lower())
    if found is None:
        raise UserError(
            f"The suffix {suffix!r} names no format." if suffix else "Without a suffix the file has no format.",
            where=name,
            fix=f"name a file that ends in {', '.join(_SUFFIXES)}, or say which of {', '.join(_FORMATS)} it is: "
            f"{option}='csv'",
        )
    return found


def check_output(name: str, sources: Sequence[Path]) -> None:
    """Refuse an output that can be no file, or that is one of the files read; nothing is written yet.

    Args:
        name: The file, or ``-`` for standard output.
        sources: The files that are read.

    Raises:
        UserError: Naming it.
    """
    path = Path(name)
    if name == STREAM:
        return
    with said(path):
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no ordinary file"
            raise UserError(
                f"{path.name or name} is {what}.", where=name, fix="name a file to write, or - for a stream"
            )
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(
                f"{path.name} cannot be written: {above} is no folder that you may write to.",
                where=name,
                fix="name a file in a folder that you may write to",
            )
        # Also by another spelling, or through a link.
        same = next((s for s in sources if path.exists() and s.exists() and path.samefile(s)), None)
    if same is not None:
        raise UserError(
            f"{path.name} is the file with the rows; the answers would take its place.",
            where=name if name == str(same) else f"{name}, which is {same}",
            fix="write another file",
        )


@contextmanager
def rows_in(name: str, given: str | None = None) -> Iterator[TableFile]:
    """A table to read piece by piece: ``NA`` and ``06000`` stay what they are, an empty cell is the empty text.

    Standard input is copied to a temporary file first, since rows are read more than once.

    Args:
        name: The file, or ``-`` for standard input.
        given: Its format, where the suffix does not say.

    Raises:
        DataError: For a missing, empty or malformed file, naming file, line and column.
        UserError: For an unknown format, or a suffix that names none.
    """
    kind = format_of(name, given, "given")
    if name != STREAM:
        yield TableFile(Path(name), kind)
        return
    with tempfile.TemporaryDirectory(prefix="meld-") as folder:
        copy = Path(folder) / f"stdin.{kind}"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield TableFile(copy, kind)
        except DataError as error:
            what, where = (
                error.what.replace(copy.name, "Standard input"),
                error.where.replace(str(copy), "standard input"),
            )
            raise DataError(what, where=where, fix=error.fix) from error


class TableWriter:
    """A table that is written piece by piece; at the end of the block a file appears whole, or not at all.

    Lists (experts, weights) are lists in Parquet and JSON lines, and JSON in CSV; a missing answer is an empty cell, or
    null.

    Args:
        name: The file, or ``-`` for standard output.
        kind: Its format.
        schema: Types of the columns in Parquet; None takes those of the first piece.
        partial: Where the file grows; None for beside it.

    Raises:
        UserError: If the file cannot be written.
    """

    def __init__(self, name: str, kind: Format, schema: pa.Schema | None = None, partial: Path | None = None) -> None:
        self.kind, self._schema = kind, schema
        self._path = None if name == STREAM else Path(name)
        self._partial: Path | None = None
        # Nobody can read a Parquet file before its end, and half of one must not look like a whole.
        held = kind == "parquet" and name == STREAM
        self._file: IO[bytes] = tempfile.TemporaryFile() if held else sys.stdout.buffer  # noqa: SIM115 - closed below
        self._parquet: pq.ParquetWriter | None = None
        self._begun = False
        if self._path is not None:
            self._partial = partial or _beside(self._path)
            with said(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._partial.open("wb")

    def __enter__(self) -> TableWriter:
        return self

    def add(self, frame: DataFrame) -> None:
        """Write further rows, without their index; they have the columns of the first ones."""
        with said(self._path):
            if self.kind == "parquet":
                self._add_parquet(frame)
            else:
                self._file.write(_text_of(frame, self.kind, header=not self._begun).encode("utf-8"))
            self._begun = True
            if self._path is None:
                self._file.flush()

    def _add_parquet(self, frame: DataFrame) -> None:
        named = frame.set_axis([str(column) for column in frame.columns], axis=1)
        table = pa.Table.from_pandas(named, schema=self._schema, preserve_index=False)
        if self._parquet is None:
            self._schema = table.schema
            self._parquet = pq.ParquetWriter(self._file, table.schema)
        self._parquet.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            with said(self._path):
                if self._parquet is not None:
                    self._parquet.close()
                if self._path is not None and self._partial is not None:
                    self._finish(self._path, self._partial, whole=error is None)
                elif self.kind == "parquet" and error is None:
                    self._file.seek(0)
                    shutil.copyfileobj(self._file, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
                    self._file.close()
        finally:
            if self._partial is not None:
                with suppress(OSError):
                    self._partial.unlink()

    def _finish(self, path: Path, partial: Path, whole: bool) -> None:
        with self._file:
            if whole:
                self._file.flush()
                os.fsync(self._file.fileno())
        if whole:
            os.replace(partial, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, in the place of any that was there.

    Raises:
        UserError: If it cannot be written.
    """
    partial = _beside(path)
    try:
        with said(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def said(path: Path | None) -> Iterator[None]:
    """The block whose failures to write a file are said to the user; those of a stream (None) are the caller's."""
    try:
        yield
    except OSError as error:
        if path is None:
            raise
        raise UserError(
            f"{path.name} cannot be written: {error.strerror or error}.",
            where=str(path),
            fix="name a file in a folder that you may write to and that has room",
        ) from error


def _text_of(frame: DataFrame, kind: Format, header: bool) -> str:
    """Rows as CSV or JSON lines."""
    names = [str(column) for column in frame.columns]
    rows = zip(*(list(frame.iloc[:, place]) for place in range(len(names))), strict=True)
    if kind == "jsonl":
        lines = (json.dumps(dict(zip(names, map(_json, row), strict=True)), ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines)
    text = io.StringIO(newline="")
    # With a terminator of \n alone, the writer would leave a carriage return inside a value unquoted.
    writer = csv.writer(text, lineterminator="\r\n")
    if header:
        writer.writerow(names)
    writer.writerows([cell_text(value) for value in row] for row in rows)
    return text.getvalue()


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    plain = value.item() if hasattr(value, "item") else value
    # A missing answer beside others becomes NaN in a column of text.
    return None if isinstance(plain, float) and math.isnan(plain) else plain
