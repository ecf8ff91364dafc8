"""Reading published files line by line: plain lines, JSON lines and JSON arrays; errors name their line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from meld.dataset.csv_text import read_text
from meld.errors import DataError

JsonObject = Mapping[str, object]


def read_lines(path: Path | str, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file, blank ones included; only LF and CRLF end a line, and the last end adds none.

    ``str.splitlines`` would also break at characters that published values contain, such as U+2028 and U+0085.

    Raises:
        DataError: For a missing, empty, unreadable or wrongly encoded file, with the line and what to do.
        ConfigError: If the encoding's name is unknown.
    """
    path = Path(path)
    lines = [line.removesuffix("\r") for line in read_text(path, encoding).split("\n")]
    if not lines[-1]:
        lines.pop()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path.name} is empty.", where=str(path), fix="put the publisher's file there")
    return lines


def read_json_objects(path: Path | str, encoding: str = "utf-8") -> list[tuple[str, JsonObject]]:
    """Read JSON lines, or one JSON array of objects; numbers stay as they are written.

    Returns:
        For each object where it stands, for messages, and the object.

    Raises:
        DataError: For a file that ``read_lines`` refuses, text that is not JSON, or something that is no object.
    """
    path = Path(path)
    lines = read_lines(path, encoding)
    if next(line for line in lines if line.strip()).lstrip().startswith("["):
        array = _parse("\n".join(lines), path, 0)
        found = [
            (f"{path}, record {number}", item) for number, item in enumerate(array if isinstance(array, list) else [])
        ]
    else:
        found = [
            (f"{path}, line {number}", _parse(line, path, number))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if not found:
        raise DataError(f"{path.name} has no records.", where=str(path), fix="put the publisher's file there")
    objects: list[tuple[str, JsonObject]] = []
    for place, item in found:
        if not isinstance(item, dict):
            raise DataError(
                f"{path.name} has a record that is no JSON object.",
                where=place,
                fix='write objects such as {"title": "tv"}',
            )
        objects.append((place, item))
    return objects


def flat_text(value: object) -> str:
    """A JSON value as text: null is empty, lists are joined by commas, objects become ``key: value; key: value``.

    Args:
        value: What ``json.loads`` gives; nesting is flattened, and empty parts are left out.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        parts = ((str(key).strip().rstrip(":"), flat_text(part)) for key, part in value.items())
        return "; ".join(f"{encodable(key)}: {part}" for key, part in parts if part)
    if isinstance(value, (list, tuple)):
        return ", ".join(part for part in map(flat_text, value) if part)
    return encodable(str(value)).strip()


def encodable(text: str) -> str:
    """Half of a surrogate pair, which JSON escapes can smuggle in, cannot be written to any file: it becomes ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parse(text: str, path: Path, line: int) -> object:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name} is not JSON: {error.msg}.",
            where=f"{path}, line {line or error.lineno}, character {error.colno}",
            fix="correct that line, or fetch the file again",
        ) from None
    except RecursionError:
        raise DataError(
            f"{path.name} is nested too deeply.", where=f"{path}, line {line or 1}", fix="fetch the file again"
        ) from None
