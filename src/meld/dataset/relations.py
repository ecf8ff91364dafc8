"""Relation extraction sets: TURL's tables with annotated column pairs, and JSON lines of headers with a relation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.columns import label_file, load_labels
from meld.dataset.csv_text import read_text
from meld.dataset.labelled import (
    SEPARATOR,
    Item,
    as_list,
    assemble_labelled,
    check_limit,
    clean_text,
    distinct,
    frozen_files,
    join_title,
    parse_json,
)
from meld.errors import DataError

TASKS = ("re",)

_TURL_FIELDS = ("table id", "page title", "page id", "section title", "caption", "headers", "entities", "relations")


class TurlRelations:
    """Relations between the subject column and each object column of Wikipedia tables (TURL's published layout).

    A JSON list with one list a table: table id, page title, page id, section title, caption, headers, entities,
    relations. ``entities`` has one list a column of ``[[row, column], [entity id, mention]]``; ``relations`` has one
    list of names for each column after the first, which is the subject. The published validation file is not read.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[re]``.
        train: File of the training split, or of everything where ``test`` is None.
        test: File of the test split; None to split by ``data_seed``.
        max_values: How many rows of a column pair enter the query.
        labels: The published relation list: a file below ``folder``, or the names; None for the few-shot labels.
        publisher: Where the files can be had, for messages.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled column pairs; None for ``few_shot_fraction`` of the training pairs.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (``table/column``), for ``few_shot=ids``.
        split: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test pairs, without a test file.
        split_ids: CSV or JSON file of frozen test tables, for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
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
        train: str = "train.table_rel_extraction.json",
        test: str | None = "test.table_rel_extraction.json",
        max_values: int = 8,
        labels: str | Sequence[str] | None = "relation_vocab.txt",
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.1,
        few_shot_ids: str | None = None,
        split: str = "stratified",
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
        self.max_values = check_limit(name, "max_values", max_values)
        self.labels = labels
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
        """The split files, the relation list and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.train, *(() if self.test is None else (self.test,)), *label_file(self.labels))
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
            task="re",
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
            labels=load_labels(self.labels, Path(self.root or "") / self.folder, self.encoding),
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _items(self, path: Path, notes: list[str]) -> list[Item]:
        items: dict[str, Item] = {}
        unlabelled = repeated = 0
        for number, record in enumerate(read_records(path, len(_TURL_FIELDS), self.encoding)):
            where = f"{path}, table {number}"
            table, page, _, section, caption, headers, entities, relations = record
            title = join_title(*(clean_text(part) for part in (page, section, caption)))
            names = [clean_text(header) for header in as_list(headers, path.name, f"{where}, field headers")]
            columns = [
                _cells(column, path, f"{where}, field entities, column {place}")
                for place, column in enumerate(as_list(entities, path.name, f"{where}, field entities"))
            ]
            kinds = as_list(relations, path.name, f"{where}, field relations")
            if not len(kinds) + 1 == len(names) == len(columns):
                raise DataError(
                    f"{path.name} has a table with {len(names)} headers, {len(columns)} columns of entities and "
                    f"{len(kinds)} lists of relations.",
                    where=where,
                    fix="there must be one list of relations for each column after the first",
                )
            for place, answers in enumerate(kinds, start=1):
                found = distinct(
                    clean_text(answer) for answer in as_list(answers, path.name, f"{where}, field relations")
                )
                if not found:
                    unlabelled += 1
                    continue
                identifier = f"{clean_text(table)}/{place}"
                if identifier in items:
                    repeated += 1
                    continue
                rows = _shared_rows(columns[0], columns[place], self.max_values)
                entity = pair_entity(
                    names[0],
                    names[place],
                    [columns[0].get(row, "") for row in rows],
                    [columns[place][row] for row in rows],
                )
                items[identifier] = Item(identifier, clean_text(table), entity, found, title)
        for count, what in ((unlabelled, "without a relation"), (repeated, "of tables that occur twice")):
            if count:
                notes.append(f"{self.name}: {count} column pairs {what} in {path.name} were left out.")
        return list(items.values())


class HeaderRelations:
    """Relations between two headers, without cell values: JSON lines with a title, headers and one relation each.

    The first header is the subject's, the second the object's; further headers are joined to the object's unless they
    are ``-``.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[re]``.
        train: File of the training split, or of everything where ``test`` is None.
        test: File of the test split; None to split by ``data_seed``.
        title_field: The field with the table's title.
        headers_field: The field with the list of headers.
        relation_field: The field with the relation.
        labels: The published relation list: a file below ``folder``, or the names; None for the few-shot labels.
        publisher: Where the files can be had, for messages.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled pairs; None for ``few_shot_fraction`` of the training pairs.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (line numbers), for ``few_shot=ids``.
        split: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test pairs, without a test file.
        split_ids: CSV or JSON file of frozen test tables (titles), for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
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
        train: str = "train.jsonl",
        test: str | None = "test.jsonl",
        title_field: str = "table_title",
        headers_field: str = "headers",
        relation_field: str = "relation",
        labels: str | Sequence[str] | None = None,
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.1,
        few_shot_ids: str | None = None,
        split: str = "stratified",
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
        self.title_field = title_field
        self.headers_field = headers_field
        self.relation_field = relation_field
        self.labels = labels
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
        """The split files, the relation list and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.train, *(() if self.test is None else (self.test,)), *label_file(self.labels))
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids))

    def load(self) -> Source:
        """Read the lines, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        notes: list[str] = []
        return assemble_labelled(
            name=self.name,
            task="re",
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
            labels=load_labels(self.labels, Path(self.root or "") / self.folder, self.encoding),
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _items(self, path: Path, notes: list[str]) -> list[Item]:
        items: list[Item] = []
        joined = 0
        for line, text in enumerate(read_text(path, self.encoding).split("\n"), start=1):
            if not text.strip():
                continue
            where = f"{path}, line {line}"
            record = parse_json(text, path.name, where)
            for field in (self.title_field, self.headers_field, self.relation_field):
                if not isinstance(record, dict) or field not in record:
                    raise DataError(
                        f"{path.name} has a line without the field '{field}'.",
                        where=where,
                        fix="write one JSON object a line, or name the field in the dataset's options",
                    )
            headers = [
                clean_text(part) for part in as_list(record[self.headers_field], path.name, f"{where}, field headers")
            ]
            relation = clean_text(record[self.relation_field])
            if len(headers) < 2 or not relation:
                raise DataError(
                    f"{path.name} has a line without "
                    + ("a relation." if len(headers) > 1 else "two headers: the subject's and the object's."),
                    where=where,
                    fix="write them, or leave the line out",
                )
            joined += len(headers) > 2
            objects = distinct(header for header in headers[1:] if header != "-") or ("-",)
            title = clean_text(record[self.title_field])
            entity = pair_entity(headers[0], " / ".join(objects), (), ())
            # Lines without a title are tables of their own.
            items.append(Item(str(line), title or f"line {line}", entity, (relation,), title))
        if joined:
            notes.append(
                f"{self.name}: {joined} lines of {path.name} have more than two headers; the rest were joined."
            )
        return items


def pair_entity(
    subject: str, objects: str, subject_values: Sequence[str], object_values: Sequence[str]
) -> dict[str, str]:
    """A column pair as it is shown: headers and the values of some rows, in the same order."""
    return {
        "subject column": subject,
        "object column": objects,
        "subject values": SEPARATOR.join(subject_values),
        "object values": SEPARATOR.join(object_values),
    }


def read_records(path: Path, fields: int, encoding: str) -> list[list[Any]]:
    """Read one of TURL's files: a JSON list of tables, each a list of a known length.

    Raises:
        DataError: If it is not, naming the table.
    """
    content = parse_json(read_text(path, encoding), path.name, str(path))
    if not isinstance(content, list) or not content:
        raise DataError(f"{path.name} is no list of tables.", where=str(path), fix="use a file of the published layout")
    for number, record in enumerate(content):
        if not isinstance(record, list) or len(record) != fields:
            raise DataError(
                f"{path.name} has a table that is no list of {fields} fields.",
                where=f"{path}, table {number}",
                fix="use a file of the published layout",
            )
    return content


def _cells(column: Any, path: Path, where: str) -> dict[int, str]:
    """Mentions of a column by row."""
    found: dict[int, str] = {}
    for cell in as_list(column, path.name, where):
        row, mention = _cell(cell, path, where)
        found.setdefault(row, mention)
    return found


def _cell(cell: Any, path: Path, where: str) -> tuple[int, str]:
    try:
        (row, _), (_, mention) = cell
        return int(row), clean_text(mention)
    except (TypeError, ValueError):
        raise DataError(
            f"{path.name} has a cell that is not [[row, column], [entity id, mention]].",
            where=where,
            fix="use a file of the published layout",
        ) from None


def _shared_rows(subject: dict[int, str], objects: dict[int, str], count: int) -> list[int]:
    """Rows in which the object has a mention, those in which the subject has one as well first."""
    both = sorted(row for row in objects if subject.get(row))
    return [*both, *sorted(row for row in objects if not subject.get(row))][:count]
