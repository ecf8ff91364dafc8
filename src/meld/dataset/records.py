"""Records that come without ids: equal ones become one, and pairs of them are counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld.dataset.pairs import Pair
from meld.types import Entity


def even_columns(records: Sequence[Mapping[str, str]]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Give all records the same columns: those of any, in order of appearance; what a record lacks is empty."""
    columns = tuple(dict.fromkeys(column for record in records for column in record))
    return columns, [{column: record.get(column, "") for column in columns} for record in records]


def merge_equal(records: Mapping[str, Entity]) -> tuple[dict[str, Entity], dict[str, str]]:
    """Keep one of the records that show the same, since nobody could say which of them a question is about.

    Args:
        records: Record id to entity, all with the same columns.

    Returns:
        The records kept, under the id of the first of each; and for every id the one that stands for it.
    """
    first: dict[tuple[str, ...], str] = {}
    stands_for = {record: first.setdefault(tuple(entity.values()), record) for record, entity in records.items()}
    return {record: records[record] for record in first.values()}, stands_for


def settle_pairs(
    name: str, train: Sequence[Pair], valid: Sequence[Pair], test: Sequence[Pair], notes: list[str]
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Keep the first of repeated pairs in each split, and take test pairs out of training.

    Which pairs are kept depends on no label. What was dropped is added to ``notes``.

    Args:
        name: The dataset's name, for the notes.
        train: Training pairs.
        valid: Validation pairs.
        test: Test pairs.
        notes: Receives what was done.

    Returns:
        Training, validation and test pairs.
    """
    kept = {part: _distinct(pairs) for part, pairs in (("train", train), ("valid", valid), ("test", test))}
    for part, pairs in (("train", train), ("valid", valid), ("test", test)):
        if len(kept[part]) < len(pairs):
            against = sum(kept[part][pair.left, pair.right].match != pair.match for pair in pairs)
            notes.append(
                f"{name}: {len(pairs) - len(kept[part])} of {len(pairs)} {part} pairs repeat another; "
                "the first of each was kept" + (f" ({against} contradict it)." if against else ".")
            )
    leaked = kept["train"].keys() & kept["test"].keys()
    if leaked:
        notes.append(f"{name}: {len(leaked)} training pairs that are also test pairs were left out.")
    fit = [pair for key, pair in kept["train"].items() if key not in leaked]
    return fit, list(kept["valid"].values()), list(kept["test"].values())


def _distinct(pairs: Sequence[Pair]) -> dict[tuple[str, str], Pair]:
    found: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        found.setdefault((pair.left, pair.right), pair)
    return found
