"""The few-shot sample: which items carry a readable label, and which of them are held out as dev.

Everything is drawn from ``random.Random.random``, whose sequence Python guarantees across versions, seeded by a hash of
(data seed, purpose, dataset); so a sample depends on neither the run's seed nor on library versions.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from meld.dataset.csv_text import read_csv_text
from meld.errors import ConfigError, DataError
from meld.types import Sample

T = TypeVar("T")

DEV_FRACTION = 0.2


def derive_rng(data_seed: int, purpose: str, name: str) -> random.Random:
    """A generator of its own for each (data seed, purpose, dataset)."""
    digest = hashlib.sha256(json.dumps([data_seed, purpose, name]).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def choose(items: Sequence[T], count: int | None, rng: random.Random) -> list[T]:
    """``count`` items drawn without replacement, in their original order; all if ``count`` is None or too large."""
    if count is None or count >= len(items):
        return list(items)
    keys = [rng.random() for _ in items]
    picked = sorted(sorted(range(len(items)), key=keys.__getitem__)[: max(count, 0)])
    return [items[place] for place in picked]


def choose_stratified(items: Sequence[T], strata: Sequence[Hashable], count: int, rng: random.Random) -> list[T]:
    """``count`` items in their order, each stratum in proportion to its size (largest remainders, ties by lot).

    Args:
        items: What to draw from.
        strata: The stratum of each item, same length.
        count: How many; all items if there are not so many.
        rng: The source of chance.
    """
    count = max(0, min(count, len(items)))
    members: dict[Hashable, list[int]] = {}
    for place, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(place)
    quotas = {stratum: count * len(places) / max(len(items), 1) for stratum, places in members.items()}
    shares = {stratum: int(quota) for stratum, quota in quotas.items()}
    lots = {stratum: rng.random() for stratum in members}
    by_remainder = sorted(members, key=lambda stratum: (shares[stratum] - quotas[stratum], lots[stratum]))
    for stratum in by_remainder[: count - sum(shares.values())]:
        shares[stratum] += 1
    picked = [place for stratum, places in members.items() for place in choose(places, shares[stratum], rng)]
    return [items[place] for place in sorted(picked)]


def choose_balanced(
    positives: Sequence[T], negatives: Sequence[T], count: int, rng: random.Random
) -> tuple[list[T], list[T]]:
    """Half positives, half negatives (the odd one is a negative); a class that is too small gives what it has."""
    return choose(positives, count // 2, rng), choose(negatives, count - count // 2, rng)


def split_dev(items: Sequence[T], strata: Sequence[Hashable], rng: random.Random) -> tuple[list[T], list[T]]:
    """Split the few-shot items once into (train, dev), 80/20 by stratum; two items or more leave neither side empty."""
    count = round(DEV_FRACTION * len(items))
    if len(items) >= 2:
        count = min(max(count, 1), len(items) - 1)
    places = list(range(len(items)))
    held_out = set(choose_stratified(places, strata, count, rng))
    return [items[place] for place in places if place not in held_out], [items[place] for place in sorted(held_out)]


def pair_id(left: str, right: str) -> str:
    """The name of a pair, ``445-910``; a hyphen inside the left id is escaped, so that two pairs never share a name."""
    return f"{left.replace('-', '%2D')}-{right}"


def few_shot_ids(samples: Sequence[Sample]) -> list[str]:
    """The ids that freeze a sample through ``few_shot=ids``: pairs ``445-910``, else record ids, else item ids."""
    found: dict[str, None] = {}
    for sample in samples:
        if not sample.query.rows:
            found[sample.id.split("/", 2)[2]] = None
            continue
        rows = [row.split(":", 1)[1] for row in sample.query.rows]
        if sample.query.task == "blk":
            rows.append(sample.label.split(":", 1)[1])
        found[pair_id(*rows) if len(rows) == 2 else rows[0]] = None
    return list(found)


def read_ids(path: str | None, columns: Sequence[str], dataset: str) -> list[str]:
    """Read frozen few-shot ids: a CSV with id columns, or a JSON list (pairs as ``445-910`` or ``["445", "910"]``).

    Args:
        path: The file.
        columns: The one or two CSV columns that make an id. Labels in the file are not read.
        dataset: The dataset's name, for messages.

    Raises:
        ConfigError: If no file is given.
        DataError: If it cannot be read, or names an id twice.
    """
    if path is None:
        raise ConfigError(
            f"Dataset '{dataset}' has few_shot=ids but no file of ids.",
            where=f"datasets.{dataset}.few_shot_ids",
            fix=f"set datasets.{dataset}.few_shot_ids=FILE (CSV or JSON), or another few_shot",
        )
    file = Path(path)
    if file.suffix.lower() == ".json":
        ids = _read_json_ids(file)
    else:
        frame = read_csv_text(file)
        frame.require(*columns)
        ids = [_join(values) for values in zip(*(frame.column(column) for column in columns), strict=True)]
    repeated = sorted(identifier for identifier, count in Counter(ids).items() if count > 1)
    if repeated:
        raise DataError(f"{file.name} names {repeated[0]} more than once.", where=str(file), fix="name every id once")
    return ids


def _read_json_ids(file: Path) -> list[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{file.name} does not exist.", where=str(file), fix="check the path of few_shot_ids") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file.name} is not readable JSON: {error}.", where=str(file), fix="write a JSON list of ids"
        ) from None
    if not isinstance(content, list) or not content:
        raise DataError(
            f"{file.name} holds no list of ids.", where=str(file), fix='write a JSON list such as ["445-910", "12-7"]'
        )
    return [_join([str(part) for part in item]) if isinstance(item, list) else str(item) for item in content]


def _join(values: Sequence[str]) -> str:
    return pair_id(values[0], values[1]) if len(values) == 2 else values[0] if values else ""


def pick_ids(wanted: Sequence[str], known: Sequence[str], path: str | None, dataset: str) -> list[int]:
    """The places in ``known`` of the wanted ids, in the order of ``known`` (so the file's order does not matter).

    Raises:
        DataError: For an id that the training data does not have.
    """
    places = {identifier: place for place, identifier in enumerate(known)}
    unknown = [identifier for identifier in wanted if identifier not in places]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(wanted)} few-shot ids are not in the training data of '{dataset}': "
            f"the first is '{unknown[0]}'.",
            where=str(path),
            fix="use ids of the training split (pairs as LEFT-RIGHT)",
        )
    return sorted(places[identifier] for identifier in wanted)


def unknown_few_shot(dataset: str, value: str, known: Sequence[str]) -> ConfigError:
    """The error for a ``few_shot`` value that the layout does not offer."""
    return ConfigError(
        f"Dataset '{dataset}' has no few_shot='{value}'.",
        where=f"datasets.{dataset}.few_shot",
        fix=f"choose one of {list(known)}",
    )
