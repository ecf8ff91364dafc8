"""From labelled items (columns, column pairs, cells) to a unit: split, few-shot sample, pool, test, gold, options."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from meld.dataset.base import Source
from meld.dataset.csv_text import read_text
from meld.dataset.few_shot import (
    choose,
    choose_stratified,
    derive_rng,
    pick_ids,
    read_ids,
    split_dev,
    unknown_few_shot,
)
from meld.errors import ConfigError, DataError
from meld.types import Entity, Query, Sample, UnitData

FEW_SHOT = ("stratified", "uniform", "ids")
SPLITS = ("stratified", "uniform", "ids")
SEPARATOR = " | "


class Item(NamedTuple):
    """One labelled thing.

    Attributes:
        id: Unique among the items of its split; freezes a sample through ``few_shot=ids``. Never shown.
        group: What must not be torn apart by a split: its table.
        entity: What is shown.
        answers: The acceptable answers, at least one; the first is the label to learn.
        title: The table's title.
        target: The attribute asked about, where the task has one.
        options: The item's own candidates, where they differ from item to item.
    """

    id: str
    group: str
    entity: Entity
    answers: tuple[str, ...]
    title: str = ""
    target: str | None = None
    options: tuple[str, ...] = ()


def split_items(
    name: str,
    items: Sequence[Item],
    split: str,
    test_fraction: float,
    data_seed: int,
    *,
    ids_path: str | None = None,
) -> tuple[list[Item], list[Item]]:
    """Split into (train, test) where nothing was published; all items of a group go to the same side.

    ``stratified`` reads all labels to choose the test groups, as a publisher would; ``uniform`` and ``ids`` read none.

    Args:
        name: The dataset's name, part of the seed.
        items: All items.
        split: ``stratified`` (each label in proportion), ``uniform`` or ``ids`` (frozen test groups).
        test_fraction: Share of the items (``uniform``: of the groups) that is for testing.
        data_seed: The seed of the split.
        ids_path: CSV (column ``table``) or JSON list of the test groups, for ``ids``.

    Raises:
        ConfigError: For an unknown ``split``, a fraction outside (0, 1), or ``ids`` without its file.
        DataError: If one side would be empty, or frozen groups do not exist.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    if split == "ids":
        held_out = _frozen_groups(name, groups, ids_path)
    elif split not in SPLITS:
        raise ConfigError(
            f"Dataset '{name}' has no split='{split}'.",
            where=f"datasets.{name}.split",
            fix=f"choose one of {list(SPLITS)}",
        )
    elif not 0 < test_fraction < 1:
        raise ConfigError(
            f"Dataset '{name}' has test_fraction={test_fraction}.",
            where=f"datasets.{name}.test_fraction",
            fix="choose a number between 0 and 1, such as 0.2",
        )
    else:
        rng = derive_rng(data_seed, "split", name)
        if split == "uniform":
            held_out = set(choose(list(groups), round(test_fraction * len(groups)), rng))
        else:
            held_out = _stratified_groups(groups, test_fraction, rng)
    train = [item for item in items if item.group not in held_out]
    test = [item for item in items if item.group in held_out]
    if not train or not test:
        raise DataError(
            f"The split of '{name}' leaves {len(train)} items of {len(groups)} tables for training "
            f"and {len(test)} for testing.",
            where=f"datasets.{name}.test_fraction",
            fix="use more data, or another test_fraction, split or data_seed",
        )
    return train, test


def _frozen_groups(name: str, groups: Mapping[str, object], path: str | None) -> set[str]:
    if path is None:
        raise ConfigError(
            f"Dataset '{name}' has split=ids but no file of test tables.",
            where=f"datasets.{name}.split_ids",
            fix=f"set datasets.{name}.split_ids=FILE (CSV with a column table, or a JSON list), or another split",
        )
    wanted = read_ids(path, ("table",), name)
    unknown = [group for group in wanted if group not in groups]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(wanted)} test tables are not in '{name}': the first is '{unknown[0]}'.",
            where=path,
            fix="name tables that have a labelled item",
        )
    return set(wanted)


def _stratified_groups(groups: Mapping[str, Sequence[Item]], fraction: float, rng: Random) -> set[str]:
    """Walk the groups in random order; take one where that brings each label nearer to its share of what was seen.

    Each label's share starts at a random offset, so that a label with a single item is tested as often as any other.
    """
    lots = {group: rng.random() for group in groups}
    totals = Counter(item.answers[0] for items in groups.values() for item in items)
    due = {label: rng.random() - 0.5 for label in sorted(totals)}  # what is owed to the test side, by label
    held_out: set[str] = set()
    for group in sorted(groups, key=lots.__getitem__):
        own = Counter(item.answers[0] for item in groups[group])
        for label, count in own.items():
            due[label] += fraction * count
        if sum(((due[label] - count) ** 2 - due[label] ** 2) / totals[label] for label, count in own.items()) < 0:
            held_out.add(group)
            for label, count in own.items():
                due[label] -= count
    return held_out


def without_tested(name: str, train: Sequence[Item], test: Sequence[Item], notes: list[str]) -> list[Item]:
    """The training items whose table is not a test table as well; what was left out is said in ``notes``."""
    tested = {item.group for item in test}
    kept = [item for item in train if item.group not in tested]
    if len(kept) < len(train):
        notes.append(f"{name}: {len(train) - len(kept)} training items of tables that are tested were left out.")
    return kept


def sample_items(
    name: str,
    train: Sequence[Item],
    few_shot: str,
    n_few_shot: int | None,
    few_shot_fraction: float,
    data_seed: int,
    *,
    ids_path: str | None = None,
) -> list[int]:
    """Choose the items whose labels may be read.

    Args:
        name: The dataset's name, part of the seed.
        train: The training items.
        few_shot: ``stratified`` by label, ``uniform``, or ``ids`` (frozen).
        n_few_shot: How many; None for ``few_shot_fraction`` of the training items.
        few_shot_fraction: The share, where no number is given.
        data_seed: The seed of the sample.
        ids_path: CSV (column ``id``) or JSON list of item ids, for ``ids``.

    Returns:
        Places in ``train``, ascending.

    Raises:
        ConfigError: For an unknown ``few_shot``, one that lacks its file, or a share outside (0, 1].
        DataError: For ids outside the training items.
    """
    if few_shot == "ids":
        return pick_ids(read_ids(ids_path, ("id",), name), [item.id for item in train], ids_path, name)
    if few_shot not in FEW_SHOT:
        raise unknown_few_shot(name, few_shot, FEW_SHOT)
    if n_few_shot is None and not 0 < few_shot_fraction <= 1:
        raise ConfigError(
            f"Dataset '{name}' has few_shot_fraction={few_shot_fraction}.",
            where=f"datasets.{name}.few_shot_fraction",
            fix="choose a number above 0 and at most 1, or set n_few_shot",
        )
    count = round(few_shot_fraction * len(train)) if n_few_shot is None else n_few_shot
    rng = derive_rng(data_seed, "few_shot", name)
    places = list(range(len(train)))
    if few_shot == "uniform":
        return choose(places, count, rng)
    return choose_stratified(places, [item.answers[0] for item in train], count, rng)


def assemble_labelled(
    *,
    name: str,
    task: str,
    train: Sequence[Item],
    test: Sequence[Item] | None,
    data_seed: int,
    split: str = "stratified",
    test_fraction: float = 0.2,
    split_ids: str | None = None,
    few_shot: str = "stratified",
    n_few_shot: int | None = None,
    few_shot_fraction: float = 0.1,
    few_shot_ids: str | None = None,
    labels: Sequence[str] | None = None,
    closed: bool = True,
    max_train: int | None = None,
    max_test: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Build ``<name>.<task>``.

    Args:
        name: The dataset's name.
        task: The task's short name.
        train: The training items, or all where ``test`` is None.
        test: The published test items; None to split (see ``split_items``). Training items of tested tables are left
            out.
        data_seed: Seed of the split, the sample, the dev split and the limits.
        split: See ``split_items``.
        test_fraction: See ``split_items``.
        split_ids: See ``split_items``.
        few_shot: See ``sample_items``.
        n_few_shot: See ``sample_items``.
        few_shot_fraction: See ``sample_items``.
        few_shot_ids: See ``sample_items``.
        labels: The published label list. Answers that differ from it in case only are written as in the list. None
            for the labels of the few-shot items: hidden ones must not tell the options.
        closed: Whether the unit has one domain; False where each item has its own candidates.
        max_train: Limit on pool items, seeded.
        max_test: Limit on test items, seeded.
        notes: Carried into the source.

    Raises:
        UserError: For options or data that cannot be used, naming the place.
    """
    said = list(notes)
    if not train:
        raise DataError(f"Dataset '{name}' has no labelled items.", where=f"datasets.{name}", fix="check its files")
    if test is None:
        train, test = split_items(name, train, split, test_fraction, data_seed, ids_path=split_ids)
    else:
        train = without_tested(name, train, test, said)
    if closed and labels is not None:
        train, test = (_spell(items, labels) for items in (train, test))
    places = sample_items(name, train, few_shot, n_few_shot, few_shot_fraction, data_seed, ids_path=few_shot_ids)
    readable = [train[place] for place in places]
    fit, held_out = split_dev(readable, [item.answers[0] for item in readable], derive_rng(data_seed, "dev", name))
    chosen = set(places)
    pool = choose(
        [item for place, item in enumerate(train) if place not in chosen],
        max_train,
        derive_rng(data_seed, "pool", name),
    )
    scored = choose(test, max_test, derive_rng(data_seed, "test", name))
    options = _domain(name, labels, readable, said) if closed else ()
    unit = f"{name}.{task}"

    def query(item: Item, part: str) -> Query:
        return Query(
            id=f"{unit}/{part}/{item.id}",
            unit=unit,
            task=task,
            entities=(item.entity,),
            target=item.target,
            title=item.title,
            options=item.options,
        )

    data = UnitData(
        unit=unit,
        dataset=name,
        task=task,
        tables={},
        train=tuple(Sample(query(item, "train"), item.answers[0]) for item in fit),
        dev=tuple(Sample(query(item, "train"), item.answers[0]) for item in held_out),
        pool=tuple(query(item, "train") for item in pool),
        test=tuple(query(item, "test") for item in scored),
        options=options,
    )
    gold = {
        f"{unit}/{part}/{item.id}": item.answers
        for part, items in (("train", pool), ("test", scored))
        for item in items
    }
    said.append(
        f"{name}: {len(readable)} few-shot items, {len(fit)} for training and {len(held_out)} held out; "
        f"{len(pool)} unlabelled items in the pool, {len(scored)} test items"
        + (f"; {len(options)} options." if closed else ".")
    )
    return Source(name, {unit: data}, {unit: gold}, tuple(said))


def _spell(items: Sequence[Item], labels: Sequence[str]) -> list[Item]:
    exact = set(labels)
    by_case: dict[str, list[str]] = {}
    for label in labels:
        by_case.setdefault(label.casefold(), []).append(label)

    def spell(answer: str) -> str:
        alike = by_case.get(answer.casefold(), [])
        return alike[0] if answer not in exact and len(alike) == 1 else answer

    return [item._replace(answers=distinct(spell(answer) for answer in item.answers)) for item in items]


def _domain(name: str, labels: Sequence[str] | None, readable: Sequence[Item], notes: list[str]) -> tuple[str, ...]:
    seen = sorted({answer for item in readable for answer in item.answers})
    if labels is None:
        notes.append(f"{name}: there is no published label list; the options are the labels of the few-shot items.")
        return tuple(seen)
    listed = distinct(labels)
    added = [label for label in seen if label not in set(listed)]
    if added:
        notes.append(f"{name}: {len(added)} few-shot labels are not in the label list and were added to the options.")
    return (*listed, *added)


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """The non-empty values in order, each once."""
    return tuple(dict.fromkeys(value for value in values if value))


def show_values(values: Iterable[str], max_values: int) -> str:
    """The first ``max_values`` distinct, non-empty values of a column, as they enter a query."""
    return SEPARATOR.join(distinct(" ".join(value.split()) for value in values)[:max_values])


def join_title(*parts: str) -> str:
    """The distinct parts of a title: page, section, caption."""
    return " - ".join(distinct(part.strip() for part in parts))


def check_limit(name: str, argument: str, value: int) -> int:
    """Return a limit after checking that it is at least 1.

    Raises:
        ConfigError: If it is not.
    """
    if value < 1:
        raise ConfigError(
            f"Dataset '{name}' has {argument}={value}.", where=f"datasets.{name}.{argument}", fix="choose 1 or more"
        )
    return value


def frozen_files(
    few_shot: str, few_shot_ids: str | None, split: str = "", split_ids: str | None = None
) -> tuple[Path, ...]:
    """The files of frozen ids in use."""
    pairs = ((few_shot, few_shot_ids), (split, split_ids))
    return tuple(Path(path) for how, path in pairs if how == "ids" and path is not None)


def parse_json(text: str, what: str, where: str) -> Any:
    """Read JSON; numbers stay as they are written, as text.

    Raises:
        DataError: If it is not JSON, naming line and column.
    """
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{what} is not well-formed JSON: {error.msg}.",
            where=f"{where}, line {error.lineno}, column {error.colno}",
            fix="download the file again, or correct that place",
        ) from None
    except RecursionError:
        raise DataError(f"{what} is nested too deeply.", where=where, fix="download the file again") from None


def clean_text(value: Any) -> str:
    """A scalar of a web table as text: HTML character references resolved, white space collapsed; else empty."""
    if value is None or isinstance(value, dict | list):
        return ""
    # Half of a surrogate pair, which JSON escapes can smuggle in, cannot be written to any file.
    return " ".join(html.unescape(str(value)).encode("utf-8", "replace").decode("utf-8").split())


def is_place(text: str) -> bool:
    """Whether a text is a row, column or list position; longer numbers than nine digits are none."""
    return text.isdecimal() and len(text) < 10


def as_list(value: Any, what: str, where: str) -> list[Any]:
    """Check that a part of a JSON file is a list.

    Raises:
        DataError: If it is not.
    """
    if not isinstance(value, list):
        raise DataError(f"{what} has no list there.", where=where, fix="use a file of the published layout")
    return value


def read_labels(path: Path, encoding: str = "utf-8") -> tuple[str, ...]:
    """Read a published label list.

    ``.json``: a list of names, or an object whose keys are the names (name to number). Else one name a line, or
    ``number<TAB>name`` as in TURL's vocabularies; further fields of a line are left out.

    Raises:
        DataError: If it is neither, or empty.
    """
    text = read_text(path, encoding)
    found: list[Any]
    if path.suffix.lower() == ".json":
        content = parse_json(text, path.name, str(path))
        found = list(content) if isinstance(content, dict | list) else []
    else:
        fields = [line.rstrip("\r").split("\t") for line in text.split("\n")]
        found = [line[1] if len(line) > 1 and line[0].strip().isdigit() else line[0] for line in fields]
        found = [label.strip() for label in found if label.strip()]
    if not found or not all(isinstance(label, str) and label for label in found):
        raise DataError(
            f"{path.name} is no list of labels.",
            where=str(path),
            fix="write a JSON list of names, a JSON object from name to number, or one name a line",
        )
    return distinct(found)
