"""Pairs of records that somebody has judged, or that are candidates for it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from meld.dataset.csv_text import TextFrame
from meld.dataset.few_shot import choose, derive_rng
from meld.errors import DataError
from meld.text import words
from meld.types import Entity, Table

_LABELS = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "match"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n", "mismatch", "non-match", "nonmatch"), False),
}

_COMMON_WORD = 100
"""Right records in which a word may occur for candidates to be looked up by it; bounds the work for large tables."""

Judged = dict[tuple[str, str], "bool | None"]
"""(left id, right id) to match, mismatch or not known, in the order of the file."""


def word_candidates(left: Table, right: Table, count: int) -> list[tuple[str, str]]:
    """For each left record the right records that share its rarest words, best first; at least one each.

    A pair's weight is the sum over shared words of log(1 + n / df), n right records of which df have the word; words of
    more than 100 right records are passed over. Ties go to the earlier record.

    Args:
        left: The table of the records to find partners for.
        right: The table to search.
        count: Most right records per left one.

    Returns:
        (left id, right id), in the order of the left table.
    """
    records = list(right.rows)
    index: dict[str, list[int]] = {}
    for place, entity in enumerate(right.rows.values()):
        for word in _words(entity):
            index.setdefault(word, []).append(place)
    found: list[tuple[str, str]] = []
    for number, (record, entity) in enumerate(left.rows.items()):
        weights: dict[int, float] = {}
        for word in sorted(_words(entity)):
            places = index.get(word, ())
            if len(places) <= _COMMON_WORD:
                for place in places:
                    weights[place] = weights.get(place, 0.0) + math.log(1 + len(records) / len(places))
        best = sorted(weights, key=lambda place: (-weights[place], place))[:count] or [number % len(records)]
        found += [(record, records[place]) for place in best]
    return found


def _words(entity: Entity) -> set[str]:
    return {word for value in entity.values() for word in words(value)}


def named_pairs(frame: TextFrame, columns: tuple[str, str], tables: tuple[Table, Table]) -> list[tuple[str, str]]:
    """The records that each row of a file of pairs names.

    Args:
        frame: The file.
        columns: Its columns with the left and with the right id.
        tables: The tables that the ids are of, left and right.

    Raises:
        DataError: For an id that its table does not have, naming the place.
    """
    frame.require(*columns)
    for column, table in zip(columns, tables, strict=True):
        for number, record in enumerate(frame.column(column)):
            if record not in table.rows:
                raise DataError(
                    f"{frame.path.name} names record '{record}', which the "
                    f"{'left' if table.name == 'A' else 'right'} table does not have.",
                    where=frame.at(number, column),
                    fix="pairs name ids (left_id and right_id say in which column they are), or row numbers from 0",
                )
    return list(zip(frame.column(columns[0]), frame.column(columns[1]), strict=True))


def judge(name: str, frame: TextFrame, keys: Iterable[tuple[str, str]], column: str | None, notes: list[str]) -> Judged:
    """Each distinct pair with its label.

    Args:
        name: The dataset's name.
        frame: The file.
        keys: The pair of each row.
        column: Where the labels are; None where there are none.
        notes: Repetitions are said here.

    Raises:
        DataError: For a label that is neither, and for a pair that has both.
    """
    labels = frame.column(column) if column is not None else ("",) * len(frame)
    judged: Judged = {}
    for number, (key, label) in enumerate(zip(keys, labels, strict=True)):
        text = label.strip().lower()
        if text and text not in _LABELS:
            raise DataError(
                f"{frame.path.name} has the label '{label}', which is neither match nor mismatch.",
                where=frame.at(number, column or ""),
                fix="write 1 for a match, 0 for a mismatch, nothing where it is not known",
            )
        match = _LABELS.get(text)
        before = judged.get(key)
        if before is not None and match is not None and before != match:
            raise DataError(
                f"{frame.path.name} labels a pair both match and mismatch.",
                where=frame.at(number, column or ""),
                fix="keep one of the two labels",
            )
        judged[key] = before if match is None else match
    if len(judged) < len(frame):
        notes.append(f"{name}: {len(frame) - len(judged)} repeated pairs in {frame.path.name}; each is kept once.")
    return judged


def hold_out(name: str, judged: Judged, fraction: float, data_seed: int) -> Judged:
    """A seeded share of the labelled pairs, drawn without regard to their labels."""
    labelled = [key for key, match in judged.items() if match is not None]
    picked = choose(labelled, round(fraction * len(labelled)), derive_rng(data_seed, "held_out", name))
    return {key: judged[key] for key in picked}
