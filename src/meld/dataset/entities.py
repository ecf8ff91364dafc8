"""Entity linking sets: TURL's cells with candidate entities, and pairs of a cell and an entity's description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import read_text
from meld.dataset.labelled import (
    Item,
    as_list,
    assemble_labelled,
    clean_text,
    distinct,
    frozen_files,
    is_place,
    join_title,
    parse_json,
)
from meld.dataset.relations import read_records
from meld.errors import ConfigError, DataError
from meld.text import words
from meld.types import Entity

TASKS = ("el",)
UNLINKABLE = ("drop", "nil")
NIL = "none of these"
TARGET = "cell"

_TURL_FIELDS = 9


class TurlEntities:
    """Cells of Wikipedia tables with candidate entities (TURL's published layout).

    A JSON list with one list a table: table id, page title, section title, caption, headers, cells, candidate entities,
    labels, candidates of each cell. A cell is ``[[row, column], mention]``, a candidate ``[name, description, types]``;
    a label is a place among the candidates (-1 for none). The published validation file is not read.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[el]``.
        train: File of the training split, or of everything where ``test`` is None.
        test: File of the test split; None to split by ``data_seed``.
        unlinkable: Cells with no right candidate: ``drop``, or ``nil`` (every cell gets one more candidate, which is
            right there).
        max_option_chars: Longer candidates are shortened at a word; None for whole ones.
        publisher: Where the files can be had, for messages.
        few_shot: ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled cells; None for ``few_shot_fraction`` of the training cells.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (``table/row,column``), for ``few_shot=ids``.
        split: ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test tables, without a test file.
        split_ids: CSV or JSON file of frozen test tables, for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test cells; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids", "split_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        train: str = "train.table_entity_linking.json",
        test: str | None = "test.table_entity_linking.json",
        unlinkable: str = "drop",
        max_option_chars: int | None = 160,
        publisher: str = "",
        few_shot: str = "uniform",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.1,
        few_shot_ids: str | None = None,
        split: str = "uniform",
        test_fraction: float = 0.2,
        split_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.tasks = check_tasks(name, tasks, TASKS)
        self.train = train
        self.test = test
        self.unlinkable = _check_unlinkable(name, unlinkable)
        self.max_option_chars = max_option_chars
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_fraction = few_shot_fraction
        self.few_shot_ids = few_shot_ids
        self.split = split
        self.test_fraction = test_fraction
        self.split_ids = split_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The split files and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.train, *(() if self.test is None else (self.test,)))
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids))

    def load(self) -> Source:
        """Read the tables, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        notes: list[str] = []
        return assemble_labelled(
            name=self.name,
            task="el",
            train=self._items(paths[0], notes),
            test=None if self.test is None else self._items(paths[1], notes),
            data_seed=self.data_seed,
            split=self.split,
            test_fraction=self.test_fraction,
            split_ids=self.split_ids,
            few_shot=self.few_shot,
            n_few_shot=self.n_few_shot,
            few_shot_fraction=self.few_shot_fraction,
            few_shot_ids=self.few_shot_ids,
            closed=False,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _items(self, path: Path, notes: list[str]) -> list[Item]:
        items: dict[str, Item] = {}
        unlinkable = 0
        for number, record in enumerate(read_records(path, _TURL_FIELDS, self.encoding)):
            where = f"{path}, table {number}"
            table, page, section, caption, headers, cells, entities, labels, candidates = record
            lists = {"headers": headers, "cells": cells, "candidate entities": entities, "labels": labels}
            for field, value in {**lists, "candidates of each cell": candidates}.items():
                if not isinstance(value, list):
                    raise _layout(path, f"has no list of {field}", where)
            if not len(cells) == len(labels) == len(candidates):
                raise _layout(
                    path,
                    f"has {len(cells)} cells, {len(labels)} labels and {len(candidates)} lists of candidates",
                    where,
                )
            known = [_candidate(entity, path, f"{where}, candidate {place}") for place, entity in enumerate(entities)]
            mentions = _mentions(cells, len(headers), path, where)
            title = join_title(*(clean_text(part) for part in (page, section, caption)))
            for (row, column), label, places in zip(mentions, labels, candidates, strict=True):
                at = f"{where}, cell [{row}, {column}]"
                own = [_place(place, len(known), path, at) for place in as_list(places, path.name, at)]
                shown = _readable([known[place] for place in own], self.max_option_chars)
                right = _place(label, len(known), path, at, none=True)
                answer = shown[own.index(right)] if right in own else None
                unlinkable += answer is None
                if answer is None and self.unlinkable == "drop":
                    continue
                # In the order of their text: a published order may have put the right one in a telling place.
                options = tuple(sorted(set(shown))) + ((NIL,) if self.unlinkable == "nil" else ())
                identifier = f"{clean_text(table)}/{row},{column}"
                entity = _row_entity(mentions, [clean_text(header) for header in headers], row, column)
                items.setdefault(
                    identifier,
                    Item(identifier, clean_text(table), entity, (answer or NIL,), title, TARGET, options),
                )
        _say_unlinkable(self.name, self.unlinkable, unlinkable, path.name, notes)
        return list(items.values())


class EntityPairs:
    """Pairs of a cell and an entity's description, labelled 1 or 0 (the layout of Unicorn's entity linking set).

    A JSON list of ``[cell with its row, entity, label]``. The pairs are grouped by cell: its entities are the
    candidates. The two files share cells (they split pairs), so the candidates of both are joined, and a cell is tested
    if its right entity is in the test file. HTML character references are resolved.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[el]``.
        train: File of the training split, or of everything where ``test`` is None.
        test: File of the test split; None to split by ``data_seed``.
        unlinkable: Cells with no right candidate: ``drop``, or ``nil`` (every cell gets one more candidate, which is
            right there).
        min_candidates: Cells with fewer candidates are given the entities of other cells that share most words with
            them; 0 for none. Not with ``nil``: a cell might be given its right entity.
        max_option_chars: Longer candidates are shortened at a word; None for whole ones.
        title: What the tables are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled cells; None for ``few_shot_fraction`` of the training cells.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (the cells), for ``few_shot=ids``.
        split: ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test cells, without a test file.
        split_ids: CSV or JSON file of frozen test cells, for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test cells; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids", "split_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        train: str = "train.json",
        test: str | None = "test.json",
        unlinkable: str = "drop",
        min_candidates: int = 0,
        max_option_chars: int | None = 160,
        title: str = "",
        publisher: str = "",
        few_shot: str = "uniform",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.1,
        few_shot_ids: str | None = None,
        split: str = "uniform",
        test_fraction: float = 0.2,
        split_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.tasks = check_tasks(name, tasks, TASKS)
        self.train = train
        self.test = test
        self.unlinkable = _check_unlinkable(name, unlinkable)
        if unlinkable == "nil" and min_candidates:
            raise ConfigError(
                f"Dataset '{name}' has unlinkable=nil and min_candidates={min_candidates}: a cell without a right "
                "candidate might be given it.",
                where=f"datasets.{name}.min_candidates",
                fix=f"set datasets.{name}.min_candidates=0, or unlinkable=drop",
            )
        self.min_candidates = min_candidates
        self.max_option_chars = max_option_chars
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_fraction = few_shot_fraction
        self.few_shot_ids = few_shot_ids
        self.split = split
        self.test_fraction = test_fraction
        self.split_ids = split_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The split files and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.train, *(() if self.test is None else (self.test,)))
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids))

    def load(self) -> Source:
        """Read the pairs, group them by cell, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()[: 1 if self.test is None else 2]
        candidates: dict[str, dict[str, None]] = {}
        right: dict[str, dict[str, None]] = {}
        place: dict[str, int] = {}
        for part, path in enumerate(paths):
            for cell, entity, label in _pairs(path, self.encoding):
                candidates.setdefault(cell, {})[entity] = None
                if label and cell not in right:
                    place[cell] = part
                place.setdefault(cell, part)
                if label:
                    right.setdefault(cell, {})[entity] = None
        filled = fill_candidates(candidates, self.min_candidates)
        notes: list[str] = []
        parts: tuple[list[Item], list[Item]] = ([], [])
        added = 0
        for cell, entities in filled.items():
            if cell not in right and self.unlinkable == "drop":
                continue
            added += len(entities) > len(candidates[cell])
            ordered = sorted(entities)
            shown = _readable([(entity, "", ()) for entity in ordered], self.max_option_chars)
            answers = tuple(shown[ordered.index(entity)] for entity in right.get(cell, ())) or (NIL,)
            options = distinct(shown) + ((NIL,) if self.unlinkable == "nil" else ())
            parts[place[cell]].append(Item(cell, cell, {TARGET: cell}, answers, self.title, TARGET, options))
        if added:
            notes.append(
                f"{self.name}: {added} cells had fewer than {self.min_candidates} candidates and were given entities "
                "of other cells that share words with them."
            )
        _say_unlinkable(self.name, self.unlinkable, len(candidates) - len(right), "the files", notes)
        return assemble_labelled(
            name=self.name,
            task="el",
            train=parts[0],
            test=None if self.test is None else parts[1],
            data_seed=self.data_seed,
            split=self.split,
            test_fraction=self.test_fraction,
            split_ids=self.split_ids,
            few_shot=self.few_shot,
            n_few_shot=self.n_few_shot,
            few_shot_fraction=self.few_shot_fraction,
            few_shot_ids=self.few_shot_ids,
            closed=False,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )


def fill_candidates(candidates: Mapping[str, Iterable[str]], count: int) -> dict[str, list[str]]:
    """Give cells with few candidates the entities of other cells that share most words with them.

    Rare words count more (each by one over the number of entities that have it); ties go by text. No label is read.

    Args:
        candidates: Candidates by cell.
        count: Every cell has at least so many afterwards, if there are so many entities that share a word with it.
    """
    entities = sorted({entity for own in candidates.values() for entity in own})
    bags = {entity: set(words(entity)) for entity in entities}
    holders: dict[str, list[str]] = {}
    for entity in entities:
        for word in bags[entity]:
            holders.setdefault(word, []).append(entity)
    filled: dict[str, list[str]] = {}
    for cell, published in candidates.items():
        own = list(published)
        if len(own) < count:
            score: dict[str, float] = {}
            for word in sorted(set(words(cell))):
                for entity in holders.get(word, ()):
                    score[entity] = score.get(entity, 0.0) + 1 / len(holders[word])
            near = sorted(
                (entity for entity in score if entity not in own), key=lambda entity: (-score[entity], entity)
            )
            own += near[: count - len(own)]
        filled[cell] = own
    return filled


def _pairs(path: Path, encoding: str) -> Iterable[tuple[str, str, bool]]:
    content = parse_json(read_text(path, encoding), path.name, str(path))
    if not isinstance(content, list) or not content:
        raise DataError(f"{path.name} is no list of pairs.", where=str(path), fix="use a file of the published layout")
    for number, record in enumerate(content):
        # Numbers are read as text.
        if not isinstance(record, list) or len(record) != 3 or record[2] not in ("0", "1"):
            raise DataError(
                f"{path.name} has an entry that is not [cell, entity, 0 or 1].",
                where=f"{path}, entry {number}",
                fix="use a file of the published layout",
            )
        cell, entity = clean_text(record[0]), clean_text(record[1])
        if not cell or not entity:
            raise DataError(
                f"{path.name} has a pair with an empty {'entity' if cell else 'cell'}.",
                where=f"{path}, entry {number}",
                fix="write it, or leave the pair out",
            )
        yield cell, entity, record[2] == "1"


def _check_unlinkable(name: str, value: str) -> str:
    if value not in UNLINKABLE:
        raise ConfigError(
            f"Dataset '{name}' has no unlinkable='{value}'.",
            where=f"datasets.{name}.unlinkable",
            fix=f"choose one of {list(UNLINKABLE)}",
        )
    return value


def _say_unlinkable(name: str, how: str, count: int, where: str, notes: list[str]) -> None:
    if count:
        handled = "they were left out" if how == "drop" else f"there the answer is '{NIL}'"
        notes.append(f"{name}: {count} cells of {where} have no right candidate; {handled}.")


def _layout(path: Path, what: str, where: str) -> DataError:
    return DataError(f"{path.name} {what}.", where=where, fix="use a file of the published layout")


def _place(value: Any, count: int, path: Path, where: str, *, none: bool = False) -> int:
    """A place among the candidate entities; -1 where ``none`` allows it."""
    text = str(value)
    if none and (value is None or text == "-1"):
        return -1
    if not is_place(text) or int(text) >= count:
        raise _layout(path, f"names candidate {text} of {count}", where)
    return int(text)


def _candidate(entity: Any, path: Path, where: str) -> tuple[str, str, tuple[str, ...]]:
    if not isinstance(entity, list) or len(entity) != 3 or not (entity[2] is None or isinstance(entity[2], list)):
        raise _layout(path, "has a candidate that is not [name, description, types]", where)
    return clean_text(entity[0]), clean_text(entity[1]), tuple(clean_text(kind) for kind in entity[2] or ())


def _mentions(cells: Sequence[Any], width: int, path: Path, where: str) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for cell in cells:
        place, mention = _cell(cell, path, where)
        if not 0 <= place[1] < width or place in found:
            raise _layout(path, f"has a cell {list(place)} that is there twice or under no header", where)
        found[place] = mention
    return found


def _cell(cell: Any, path: Path, where: str) -> tuple[tuple[int, int], str]:
    try:
        (row, column), mention = cell
        return (int(row), int(column)), clean_text(mention)
    except (TypeError, ValueError):
        raise _layout(path, "has a cell that is not [[row, column], mention]", where) from None


def _row_entity(mentions: Mapping[tuple[int, int], str], headers: Sequence[str], row: int, column: int) -> Entity:
    """The cell and the linked cells of its row under their headers; repeated or missing headers get a number."""
    entity = {TARGET: mentions[row, column], "column": headers[column]}
    for place, header in enumerate(headers):
        if place != column and (row, place) in mentions:
            key = header if header and header not in entity else f"{header or 'column'} {place + 1}"
            entity[key] = mentions[row, place]
    return entity


def _readable(entities: Sequence[tuple[str, str, tuple[str, ...]]], max_chars: int | None) -> list[str]:
    """Candidates as text; what would make two of them equal (types, length) is kept."""
    plain = [" - ".join(part for part in (name, description) if part) for name, description, _ in entities]
    texts = [
        f"{text} ({', '.join(kinds)})" if kinds and plain.count(text) > 1 else text
        for text, (_, _, kinds) in zip(plain, entities, strict=True)
    ]
    if max_chars is None:
        return texts
    short = [_shorten(text, max_chars) for text in texts]
    whole = Counter(short[place] for place, text in enumerate(texts) if text not in texts[:place])
    return [text if whole[cut] > 1 else cut for text, cut in zip(texts, short, strict=True)]


def _shorten(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    head = text[:max_chars]
    return (head.rsplit(" ", 1)[0] if " " in head else head).rstrip(" ,;:-") + " ..."
