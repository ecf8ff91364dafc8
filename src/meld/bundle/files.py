"""Tables from and to files for ``meld predict``: CSV, Parquet and JSON lines, with every cell as it is written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from meld.dataset.table_files import JSON_LINES, PARQUET, cell_text, read_table
from meld.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

Format = Literal["csv", "parquet", "jsonl"]
_SUFFIX = {"csv": ".csv", "parquet": ".parquet", "jsonl": ".jsonl"}
STREAM = "-"
"""Names standard input or output."""


def format_of(name: str, given: str | None) -> Format:
    """The format of a file: as given, else by its suffix; CSV for standard input and output.

    Raises:
        UserError: For an unknown format.
    """
    if given is not None:
        if given not in _SUFFIX:
            raise UserError(f"There is no format {given!r}.", fix=f"one of {', '.join(_SUFFIX)}")
        return cast(Format, given)
    suffix = Path(name).suffix.lower()
    return "parquet" if suffix in PARQUET else "jsonl" if suffix in JSON_LINES else "csv"


def read_frame(name: str, given: str | None = None) -> DataFrame:
    """A table as text: ``NA`` and ``06000`` stay what they are, an empty cell is the empty text.

    Args:
        name: The file, or ``-`` for standard input.
        given: Its format, where the suffix does not say.

    Raises:
        DataError: For a missing, empty or malformed file, naming file, line and column.
    """
    import pandas as pd

    kind = format_of(name, given)
    path = Path(name)
    if name == STREAM or path.suffix.lower() != _SUFFIX[kind]:
        content = sys.stdin.buffer.read() if name == STREAM else None
        if content is not None or given is not None:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / f"{'stdin' if name == STREAM else path.stem}{_SUFFIX[kind]}"
                copy.write_bytes(path.read_bytes() if content is None else content)
                frame = read_table(copy)
                return pd.DataFrame(list(frame.rows), columns=list(frame.columns), dtype=object)
    frame = read_table(path)
    return pd.DataFrame(list(frame.rows), columns=list(frame.columns), dtype=object)


def write_frame(frame: DataFrame, name: str, given: str | None = None) -> None:
    """Write a table; a file appears whole or not at all.

    Lists (experts, weights) are lists in Parquet and JSON lines, and JSON in CSV; a missing answer is an empty cell, or
    null.

    Args:
        frame: What to write, without its index.
        name: The file, or ``-`` for standard output.
        given: Its format, where the suffix does not say.

    Raises:
        UserError: If the file cannot be written.
    """
    content = _bytes(frame, format_of(name, given))
    if name == STREAM:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_whole(Path(name), content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, in the place of any that was there.

    Raises:
        UserError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be written: {error.strerror or error}.",
            where=str(path),
            fix="name a file in a folder that you may write to and that has room",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _bytes(frame: DataFrame, kind: Format) -> bytes:
    if kind == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    names = [str(column) for column in frame.columns]
    rows = zip(*(list(frame.iloc[:, place]) for place in range(len(names))), strict=True)
    if kind == "jsonl":
        lines = (json.dumps(dict(zip(names, map(_json, row), strict=True)), ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode("utf-8")
    text = io.StringIO(newline="")
    # With a terminator of \n alone, the writer would leave a carriage return inside a value unquoted.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([cell_text(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8")


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    plain = value.item() if hasattr(value, "item") else value
    # A missing answer beside others becomes NaN in a column of text.
    return None if isinstance(plain, float) and math.isnan(plain) else plain
