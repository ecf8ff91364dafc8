"""Datasets from pandas frames: written as text files, then read by the components for users' own tables.

Frames reach the pipeline as files, because everything a run computes is named by the contents of the files it read::

    import meld

    config = meld.frames_config("em", left=shop_a, right=shop_b, labels=pairs, name="shops")
    # datasets.shops of a configuration; or, as a component: meld.from_frames(...).load()

Values become text without being changed: integers stay ``6000``, floats are written in the fewest digits that read back
the same, and None, NaN and NaT are the empty text, a missing value. Rows keep their order. Where no id column is named,
a unique index names the records: ``Query.rows`` then holds ``<table>:<index label>``, for writing answers back (``ed``
and ``dc``: always the row's number from 0); an index with repeated labels is replaced by row numbers.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.config.targets import nearest
from meld.dataset.base import Dataset
from meld.dataset.own_cells import CsvCells, CsvDirty
from meld.dataset.own_columns import CsvColumns
from meld.dataset.own_pairs import CsvPairs, CsvTables
from meld.dataset.table_files import cell_text, writable
from meld.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pandas import DataFrame

INDEX = "__index__"
"""The column in which a frame's index is written; it is an id, and never shown."""

_TASKS = ("em", "blk", "ed", "dc", "di", "cta")


def frames_config(
    task: str | Sequence[str],
    *,
    left: DataFrame | None = None,
    right: DataFrame | None = None,
    labels: DataFrame | None = None,
    test: DataFrame | None = None,
    table: DataFrame | None = None,
    clean: DataFrame | None = None,
    tables: Mapping[str, DataFrame] | None = None,
    target: str | Sequence[str] | None = None,
    name: str = "own",
    folder: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write frames into files and return the dataset's configuration, as ``datasets.<name>`` takes it.

    Which frames a task needs:

    * ``em``: ``labels`` with the columns ``left``, ``right`` and ``label``, and the two tables ``left`` and ``right``;
      or ``labels`` alone, whose columns begin with ``left_`` and ``right_``. Without ``labels`` candidates are found.
    * ``blk``, or ``["em", "blk"]``: ``left`` and ``right``, and ``labels`` if there are some.
    * ``ed``, ``dc`` or both: the dirty ``table``, and ``clean``, or ``labels`` with the columns ``row``, ``column`` and
      ``value``, or neither.
    * ``di``: ``table`` and ``target``.
    * ``cta``: ``tables`` by name (or one ``table``, called ``table``), and ``labels`` with the columns ``table``,
      ``column`` and ``type``.

    Args:
        task: The task, or several that share their frames.
        left: The left table.
        right: The right table.
        labels: What is known.
        test: What is held out, in the form of ``labels``; None to hold out a share.
        table: The table.
        clean: The table without errors, of the same index or the same order.
        tables: Several tables by name.
        target: The column or columns to fill.
        name: The dataset's name.
        folder: Where to write; None for ``outputs/frames/<hash of the contents>``.
        **options: Further arguments of the component, such as ``title`` or ``n_few_shot``; see
            ``meld.dataset.own_pairs``, ``own_cells`` and ``own_columns``.

    Returns:
        Plain data with ``_target_``. The same frames and options always give the same.

    Raises:
        ConfigError: For a task, frame or option that does not belong together.
        DataError: For an empty frame, or a value that cannot be written.
    """
    tasks = [task] if isinstance(task, str) else list(task)
    given = {"left": left, "right": right, "labels": labels, "test": test, "table": table, "clean": clean}
    frames = {role: frame for role, frame in given.items() if frame is not None}
    component, roles = _component(name, tasks, frames, tables)
    _check_options(component, (*roles.values(), "name", "tasks", "targets", "tables"), tasks, options)
    config: dict[str, Any] = {
        "_target_": f"{component.__module__}.{component.__qualname__}",
        "name": name,
        "tasks": tasks,
        **{option: list(value) if isinstance(value, (tuple, set)) else value for option, value in options.items()},
    }
    if component is CsvCells:
        config["targets"] = _known_columns(frames["table"], [target] if isinstance(target, str) else target or ())
    indexed = _indexed(component, frames, config)
    contents = {role: _csv(frame, role, index=role in indexed) for role, frame in frames.items()}
    named = dict(tables or {}) if component is CsvColumns else {}
    if component is CsvColumns and "table" in contents:
        named = {"table": frames["table"]}
        del contents["table"]
    for label, frame in named.items():
        if not label or Path(label).name != label:
            raise ConfigError(
                f"A table cannot be called {label!r}.", where="from_frames(tables=...)", fix="use a plain name"
            )
        contents[f"tables/{label}"] = _csv(frame, f"tables[{label!r}]", index=False)
    base = Path(folder) if folder is not None else Path("outputs") / "frames" / _hash(contents)
    for role, content in contents.items():
        _write(base / f"{role}.csv", content)
    for role in frames:
        if role in contents:
            config[roles[role]] = (base / f"{role}.csv").as_posix()
    if component is CsvColumns:
        config["tables"] = [(base / "tables" / f"{label}.csv").as_posix() for label in named]
    return config


def from_frames(
    task: str | Sequence[str],
    *,
    left: DataFrame | None = None,
    right: DataFrame | None = None,
    labels: DataFrame | None = None,
    test: DataFrame | None = None,
    table: DataFrame | None = None,
    clean: DataFrame | None = None,
    tables: Mapping[str, DataFrame] | None = None,
    target: str | Sequence[str] | None = None,
    name: str = "own",
    folder: str | Path | None = None,
    **options: Any,
) -> Dataset:
    """A dataset component from pandas frames; ``load()`` gives its units. See ``frames_config`` for the arguments.

    Raises:
        ConfigError: For a task, frame or option that does not belong together.
        DataError: For an empty frame, or a value that cannot be written.
    """
    config = frames_config(
        task,
        left=left,
        right=right,
        labels=labels,
        test=test,
        table=table,
        clean=clean,
        tables=tables,
        target=target,
        name=name,
        folder=folder,
        **options,
    )
    classes: tuple[type, ...] = (CsvPairs, CsvTables, CsvDirty, CsvCells, CsvColumns)
    component = next(found for found in classes if config["_target_"].endswith(f".{found.__qualname__}"))
    made: Dataset = component(**{key: value for key, value in config.items() if key != "_target_"})
    return made


def _check_options(component: type, taken: Sequence[str], tasks: Sequence[str], options: Mapping[str, Any]) -> None:
    """Check that a component takes the options, and that no frame gives them already."""
    known = inspect.signature(component).parameters
    for option in options:
        if option not in known or option in taken:
            guess = nearest(option, list(known))
            raise ConfigError(
                f"from_frames takes no option '{option}' for {' and '.join(tasks)}.",
                where=f"from_frames(task={list(tasks)!r}, {option}=...)",
                fix=f"did you mean {guess}?" if guess else f"options are {', '.join(known)}",
            )


def _known_columns(table: DataFrame, targets: Sequence[str]) -> list[str]:
    """The targets, which are columns of the table."""
    columns = [str(column) for column in table.columns]
    for target in targets:
        if target not in columns:
            guess = nearest(str(target), columns)
            raise ConfigError(
                f"The frame 'table' has no column {target!r}.",
                where="from_frames(target=...)",
                fix=f"did you mean {guess}?" if guess else f"its columns are {', '.join(columns)}",
            )
    return list(targets)


def _component(
    name: str, tasks: Sequence[str], frames: Mapping[str, DataFrame], tables: Mapping[str, DataFrame] | None
) -> tuple[type, dict[str, str]]:
    """The component for the tasks, and the argument that takes each frame."""
    has = set(frames) | ({"tables"} if tables else set())
    asked = set(tasks)
    if not asked or not asked <= set(_TASKS):
        raise ConfigError(
            f"from_frames cannot make a dataset for {list(tasks)}.",
            where="from_frames(task=...)",
            fix=f"choose among {', '.join(_TASKS)}",
        )
    if asked == {"em"} and "labels" in has:
        sides = {"left", "right"} & has
        return _checked(
            CsvPairs, has, {"labels"} | ({"left", "right"} if sides else set()), {"test"}, {"labels": "pairs"}
        )
    if asked <= {"em", "blk"}:
        return _checked(CsvTables, has, {"left", "right"}, {"labels", "test"}, {})
    if asked <= {"ed", "dc"}:
        return _checked(CsvDirty, has, {"table"}, {"clean", "labels"}, {"table": "dirty"})
    if asked == {"di"}:
        return _checked(CsvCells, has, {"table"}, {"test"}, {})
    if asked == {"cta"}:
        return _checked(CsvColumns, has, {"table" if "table" in has else "tables"}, {"labels", "test"}, {})
    raise ConfigError(
        f"The tasks {list(tasks)} need different frames.",
        where="from_frames(task=...)",
        fix="make one dataset for em and blk, one for ed and dc, and so on",
    )


def _checked(
    component: type, has: set[str], needed: set[str], optional: set[str], renamed: Mapping[str, str]
) -> tuple[type, dict[str, str]]:
    lacking, foreign = sorted(needed - has), sorted(has - needed - optional)
    if lacking or foreign:
        said = [f"needs {', '.join(lacking)}"] if lacking else []
        said += [f"has no use for {', '.join(foreign)}"] if foreign else []
        raise ConfigError(
            f"from_frames {' and '.join(said)} here.",
            where=f"from_frames({', '.join(f'{role}=...' for role in sorted(has))})",
            fix=f"give {', '.join(sorted(needed))}, and if you like {', '.join(sorted(optional)) or 'nothing else'}",
        )
    return component, {role: renamed.get(role, role) for role in (*needed, *optional)}


def _indexed(component: type, frames: Mapping[str, DataFrame], config: dict[str, Any]) -> set[str]:
    """The frames whose index is written as ids, which ``config`` then names."""
    found: set[str] = set()
    if component in (CsvPairs, CsvTables):
        for role in ("left", "right"):
            if role in frames and config.get(f"{role}_id") is None and _names_rows(frames[role]):
                config[f"{role}_id"] = INDEX
                found.add(role)
    elif component in (CsvDirty, CsvCells) and config.get("id") is None and _names_rows(frames["table"]):
        clean = frames.get("clean")
        if clean is None:
            found = {"table"}
        elif _names_rows(clean) and set(_index(clean)) == set(_index(frames["table"])):
            found = {"table", "clean"}
        if found:
            config["id"] = INDEX
    return found


def _index(frame: DataFrame) -> list[str]:
    return [cell_text(label) for label in frame.index]


def _names_rows(frame: DataFrame) -> bool:
    labels = _index(frame)
    return "" not in labels and len(set(labels)) == len(labels)


def _csv(frame: DataFrame, role: str, *, index: bool) -> bytes:
    """A frame as comma-separated text."""
    if not len(frame) or not len(frame.columns):
        raise DataError(
            "A frame is empty.", where=f"from_frames({role}=...)", fix="it needs at least one column and one row"
        )
    header = [cell_text(column) for column in frame.columns]
    columns = []
    for place, column in enumerate(header):
        series = frame.iloc[:, place]
        # Iterating makes doubles of single-precision numbers, and 0.1 would become 0.10000000149011612.
        values = series.to_numpy() if str(series.dtype) in ("float16", "float32") else series
        texts = [cell_text(value) for value in values]
        broken = next((row for row, text in enumerate(texts) if not writable(text)), None)
        if broken is not None:
            raise DataError(
                "A frame has a value that is not text: no encoding can write it.",
                where=f"from_frames({role}=...), row {broken}, column {column!r}",
                fix="replace the broken characters",
            )
        columns.append(texts)
    if index:
        header.insert(0, INDEX)
        columns.insert(0, _index(frame))
    buffer = io.StringIO(newline="")
    # With a terminator of \n alone, the writer would leave a carriage return inside a value unquoted.
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return buffer.getvalue().encode("utf-8")


def _hash(contents: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for role, content in sorted(contents.items()):
        found.update(f"{role} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
