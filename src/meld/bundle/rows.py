"""From a user's rows to a unit's queries: which columns, which target, and which records the unit knows already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meld.config.targets import nearest
from meld.dataset.table_files import cell_text, writable
from meld.errors import DataError, UserError
from meld.types import Query, Table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SIDES = ("left", "right")
"""Prefixes of the columns of pair tasks: ``left_title``, ``right_title``."""

_TARGET, _OPTIONS, _TITLE = "target", "options", "title"
_PLAIN_CELLS = {"ed", "dc"}
_BY_THEMSELVES = {"di", "ave"}
"""Tasks that do not judge a tuple by its place in a table, so that a new tuple needs none."""


@dataclass(frozen=True)
class Request:
    """One question form over a frame: how its rows become queries.

    Attributes:
        unit: The unit asked.
        card: What the unit says it needs (:func:`meld.bundle.export.card_of`).
        tables: The unit's tables.
        frames: One frame, or for pair tasks the left and the right one.
        columns: For each side the frame's column behind each of the unit's attributes; None for a side whose attributes
            differ from query to query, which takes all columns there are.
        target: The attribute asked about; None where the task asks about none, or each row names its own.
        row_targets: Whether the column ``target`` names it row by row.
        first: The number of the first row, where the frames are a piece of longer ones.
    """

    unit: str
    card: Mapping[str, Any]
    tables: Mapping[str, Table]
    frames: tuple[DataFrame, ...]
    columns: tuple[dict[str, Any], ...]
    target: str | None
    row_targets: bool
    first: int = 0

    def __len__(self) -> int:
        return len(self.frames[0])

    def queries(self, start: int, stop: int, known: Mapping[str, Mapping[tuple[str, ...], str]]) -> list[Query]:
        """The queries of some rows.

        Args:
            start: First row.
            stop: Behind the last row.
            known: From :func:`known_records`: such tuples are asked about as the records they are, others as new ones.

        Raises:
            DataError: For a value that no encoding can write, or options or targets that do not fit.
        """
        found = []
        parts = [frame.iloc[start:stop] for frame in self.frames]
        texts = [
            {attribute: _texts(parts[min(side, len(parts) - 1)], column) for attribute, column in columns.items()}
            for side, columns in enumerate(self.columns)
        ]
        extra = {name: list(parts[0][name]) for name in self._extras(parts[0])}
        for place in range(len(parts[0])):
            row = self.first + start + place
            target = self._target(extra, place, row)
            entities = [{attribute: values[place] for attribute, values in side.items()} for side in texts]
            for entity in entities:
                self._check(entity, row)
            if self.card["task"] == "di" and target is not None:
                entities[0] = {name: "" if name == target else value for name, value in entities[0].items()}
            elif target is not None and self.card["task"] in _PLAIN_CELLS | {"el"} and target not in entities[0]:
                raise DataError(f"Row {row} asks about {target!r}, which is none of its columns.", where=self.unit)
            found.append(
                Query(
                    id=f"{self.unit}/row/{row}",
                    unit=self.unit,
                    task=self.card["task"],
                    entities=tuple(entities),
                    rows=self._references(entities, row, known),
                    target=target,
                    title=self.card["title"] if self.card["title"] is not None else self._own_title(extra, place),
                    options=_options(extra[_OPTIONS][place], row) if self.card["own_options"] else (),
                )
            )
        return found

    def _extras(self, frame: DataFrame) -> list[str]:
        names = [_TARGET] if self.row_targets else []
        names += [_OPTIONS] if self.card["own_options"] else []
        names += [_TITLE] if self.card["title"] is None and _TITLE in frame.columns else []
        return names

    def _target(self, extra: Mapping[str, list[Any]], place: int, row: int) -> str | None:
        if not self.row_targets:
            return self.target
        target = cell_text(extra[_TARGET][place])
        if not target:
            raise DataError(f"Row {row} does not say what it asks about: its {_TARGET} is empty.", where=self.unit)
        # In the other tasks a row must have the cell that it asks about, which is found out there.
        if self.card["task"] == "di" and target not in self.card["targets"]:
            raise _not_learnt(self.unit, self.card, target, f"row {row}, column {_TARGET!r}", f"Row {row}: ")
        return target

    def _own_title(self, extra: Mapping[str, list[Any]], place: int) -> str:
        return cell_text(extra[_TITLE][place]) if _TITLE in extra else ""

    def _check(self, entity: Mapping[str, str], row: int) -> None:
        broken = next((name for name, value in entity.items() if not writable(value)), None)
        if broken is not None:
            raise DataError(
                f"Row {row} has a value that is not text: no encoding can write it.",
                where=f"row {row}, column {broken!r}",
                fix="replace the broken characters",
            )

    def _references(
        self,
        entities: Sequence[Mapping[str, str]],
        row: int,
        known: Mapping[str, Mapping[tuple[str, ...], str]],
    ) -> tuple[str, ...]:
        """Which records the tuples are; a tuple that no table has gets a name of its own."""
        names = list(self.tables)
        if not self.card["linked"] or len(names) < len(entities):
            return ()
        found = []
        for name, entity in zip(names, entities, strict=False):
            record = known[name].get(tuple(entity.values()))
            if record is None and self.card["task"] in _BY_THEMSELVES:
                return ()
            if record is None:
                record = f"new {row}"
                while record in self.tables[name].rows:
                    record = f"{record}'"
            found.append(f"{name}:{record}")
        return tuple(found)


def known_records(tables: Mapping[str, Table]) -> dict[str, dict[tuple[str, ...], str]]:
    """For each table its records by their values; of equal ones the first."""
    found: dict[str, dict[tuple[str, ...], str]] = {}
    for name, table in tables.items():
        records: dict[tuple[str, ...], str] = {}
        for record, entity in table.rows.items():
            records.setdefault(tuple(entity.values()), record)
        found[name] = records
    return found


def request(
    unit: str,
    card: Mapping[str, Any],
    tables: Mapping[str, Table],
    frame: DataFrame,
    right: DataFrame | None,
    target: str | None,
    first: int = 0,
) -> Request:
    """Check that frames bring what a unit's questions need.

    Args:
        unit: The unit.
        card: Its card.
        tables: Its tables by name.
        frame: The rows; of pair tasks with prefixed columns, or the left ones.
        right: The right rows, one for each left one.
        target: The attribute asked about.
        first: The number of the first row, where the frames are a piece of longer ones.

    Raises:
        UserError: For anything but a frame, a column that is missing or there twice (named), a target that the unit
            cannot be asked about, or two ways of naming it.
    """
    for given in (frame, right):
        if given is not None:
            check_frame(given)
    pairs = len(card["sides"]) == 2
    if right is not None and not pairs:
        raise UserError(f"{unit} asks about single tuples.", where="right=...", fix="leave out right=...")
    if right is not None:
        check_lengths(len(frame), len(right))
    frames = (frame,) if right is None else (frame, right)
    row_targets, target = _targets(unit, card, frame, target)
    columns = []
    for side, attributes in enumerate(card["sides"]):
        source = frames[min(side, len(frames) - 1)]
        prefix = f"{SIDES[side]}_" if pairs and right is None else ""
        columns.append(_columns(unit, card, source, attributes, prefix, card["targets"] if row_targets else [target]))
    if card["own_options"] and _OPTIONS not in frame.columns:
        raise _missing(unit, [_OPTIONS], frame, "each row names the answers there are, as a list or a JSON list")
    return Request(unit, card, {t.name: t for t in tables.values()}, frames, tuple(columns), target, row_targets, first)


def check_lengths(left: int, right: int) -> None:
    """Refuse two sides of pairs that are not equally long.

    Raises:
        UserError: Naming both lengths.
    """
    if left != right:
        raise UserError(
            f"The left frame has {left} rows and the right one {right}; row by row they are the pairs.",
            fix="give as many right rows, or find the pairs: match(left, right) in Python",
        )


def check_frame(frame: object) -> None:
    """Refuse anything but a frame, and a column that is there twice.

    Raises:
        UserError: Naming it.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"Rows come as a DataFrame, not as {type(frame).__name__}.", fix="pandas.DataFrame(rows)")
    twice = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if twice:
        raise UserError(f"The rows have the column {twice[0]!r} twice.", where=f"column {twice[0]!r}", fix="rename one")


def _targets(unit: str, card: Mapping[str, Any], frame: DataFrame, target: str | None) -> tuple[bool, str | None]:
    """Whether rows name their targets, and the target if they do not."""
    targets = list(card["targets"])
    if target is not None and not isinstance(target, str):
        raise UserError(
            f"A target is the name of a column, not {type(target).__name__}.", where=f"target={target!r}", fix="as text"
        )
    if not targets:
        if target is not None:
            raise UserError(f"{unit} asks about no column.", where=f"target={target}", fix="leave target out")
        return False, None
    # A unit whose own rows have a column of that name is asked about one target at a time.
    named_by_rows = _TARGET in frame.columns and _TARGET not in (card["sides"][0] or ())
    if named_by_rows and target is not None:
        raise UserError(
            f"What is asked about is named twice: by the target {target!r}, and row by row by the column {_TARGET!r}.",
            where=f"target={target}, column {_TARGET!r}",
            fix="leave one out, or rename the column if it is something else",
        )
    if named_by_rows:
        return True, None
    if target is None and len(targets) == 1:
        return False, targets[0]
    if target is None:
        raise UserError(
            f"{unit} can be asked about {len(targets)} columns: {', '.join(targets)}.",
            where="target",
            fix=f"say which: target={targets[0]!r}, or name it row by row in a column {_TARGET!r}",
        )
    # An attribute of a product is asked for by name, also one that training did not ask for.
    if target not in targets and card["task"] != "ave":
        raise _not_learnt(unit, card, target, f"target={target}")
    return False, target


def _not_learnt(unit: str, card: Mapping[str, Any], target: str, where: str, who: str = "") -> DataError:
    guess = nearest(target, card["targets"])
    return DataError(
        f"{who}{unit} has not learnt to be asked about {target!r}; it knows {', '.join(card['targets'])}.",
        where=where,
        fix=f"did you mean {guess}?" if guess else "train on labels of that column",
    )


def _columns(
    unit: str,
    card: Mapping[str, Any],
    frame: DataFrame,
    attributes: Sequence[str] | None,
    prefix: str,
    asked: Sequence[str | None],
) -> dict[str, Any]:
    """The frame's column behind each attribute; None behind one that may be asked about and the frame need not have.

    Where rows name their targets these are all that the unit knows, whatever rows are beside them.
    """
    names = {str(column): column for column in frame.columns}
    if attributes is None:
        taken = {_TARGET, _OPTIONS, _TITLE}
        found = {name[len(prefix) :]: column for name, column in names.items() if name.startswith(prefix)}
        return {name: column for name, column in found.items() if name not in taken}
    optional = set(asked) if card["task"] == "di" else set()
    missing = [f"{prefix}{name}" for name in attributes if prefix + name not in names and name not in optional]
    if missing:
        raise _missing(unit, missing, frame, "other columns may be there as well; missing values are empty cells")
    return {name: names.get(prefix + name) for name in attributes}


def _missing(unit: str, missing: Sequence[str], frame: DataFrame, hint: str) -> UserError:
    several = "s" if len(missing) > 1 else ""
    guess = nearest(missing[0], [str(column) for column in frame.columns])
    return UserError(
        f"{unit} needs the column{several} {', '.join(map(repr, missing))}; "
        f"there are {', '.join(repr(str(column)) for column in frame.columns)}.",
        where=f"column {missing[0]!r}",
        fix=f"rename {guess!r} to {missing[0]!r}; {hint}" if guess else f"add it; {hint}",
    )


def _texts(frame: DataFrame, column: Any) -> list[str]:
    if column is None:
        return [""] * len(frame)
    series: Series[Any] = frame[column]
    # Iterating makes doubles of single-precision numbers, and 0.1 would become 0.10000000149011612.
    values = series.to_numpy() if str(series.dtype) in ("float16", "float32") else series
    return [cell_text(value) for value in values]


def _options(value: Any, row: int) -> tuple[str, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(
            f"Row {row} does not name the answers there are.",
            where=f"row {row}, column {_OPTIONS!r}",
            fix='write a list, in files a JSON list: ["Paris, France", "Paris, Texas"]',
        )
    return tuple(cell_text(option) for option in value)
