"""Column type annotation sets: files of columns, folders of tables with a ground truth, and archives of web tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import decode, read_csv_text, read_text
from meld.dataset.labelled import (
    Item,
    assemble_labelled,
    check_limit,
    distinct,
    frozen_files,
    read_labels,
    show_values,
)
from meld.dataset.web_tables import Truth, WebTable, parse_table, read_members, read_truth
from meld.errors import ConfigError, DataError

TASKS = ("cta",)


class ColumnFiles:
    """WebTables and other sets of single columns (the layout of Sato's VizNet columns as Doduo and RECA publish them).

    CSV files with one labelled column a row; the columns that name its table, its place, its type and its values are
    arguments. Headers are not known (in the original tables the header *is* the type), nor are the table's other
    columns shown: their names are labels too.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[cta]``.
        train: Files of the training split, or of everything where ``test`` is empty.
        test: Files of the test split; empty to split by ``data_seed``.
        table_column: The CSV column with the table's id.
        index_column: The CSV column with the column's place in its table.
        type_column: The CSV column with the type.
        data_column: The CSV column with the values.
        value_separator: What stands between two values; None where that is lost (values joined by spaces).
        max_values: How many values enter the query; words where ``value_separator`` is None.
        labels: The published label list: a file below ``folder``, or the names; None for the few-shot labels.
        title: What the tables are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled columns; None for ``few_shot_fraction`` of the training columns.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (``table/column``), for ``few_shot=ids``.
        split: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test columns, without test files.
        split_ids: CSV or JSON file of frozen test tables, for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool columns; None for all.
        max_test: Limit on test columns; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids", "split_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        train: Sequence[str],
        test: Sequence[str] = (),
        tasks: Sequence[str] = TASKS,
        table_column: str = "table_id",
        index_column: str = "col_idx",
        type_column: str = "class",
        data_column: str = "data",
        value_separator: str | None = None,
        max_values: int = 60,
        labels: str | Sequence[str] | None = None,
        title: str = "",
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.25,
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
        self.train = tuple(train)
        self.test = tuple(test)
        self.table_column = table_column
        self.index_column = index_column
        self.type_column = type_column
        self.data_column = data_column
        self.value_separator = value_separator
        self.max_values = check_limit(name, "max_values", max_values)
        self.labels = labels
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
        """The column files, the label list and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
            ConfigError: If no training file is named.
        """
        names = (*_some(self.name, "train", self.train), *self.test, *label_file(self.labels))
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids))

    def load(self) -> Source:
        """Read the columns, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        notes: list[str] = []
        train = self._items(paths[: len(self.train)], notes)
        test = self._items(paths[len(self.train) : len(self.train) + len(self.test)], notes) if self.test else None
        return assemble_labelled(
            name=self.name,
            task="cta",
            train=train,
            test=test,
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

    def _items(self, paths: Sequence[Path], notes: list[str]) -> list[Item]:
        items: dict[str, Item] = {}
        rows = 0
        for path in paths:
            frame = read_csv_text(path, self.encoding)
            names = (self.table_column, self.index_column, self.type_column, self.data_column)
            frame.require(*names)
            rows += len(frame)
            for number, (table, index, kind, data) in enumerate(
                zip(*(frame.column(column) for column in names), strict=True)
            ):
                if not kind.strip():
                    raise DataError(
                        f"{path.name} has a column without a type.",
                        where=frame.at(number, self.type_column),
                        fix="write its type, or leave the row out",
                    )
                identifier = f"{table}/{index}"
                items.setdefault(
                    identifier, Item(identifier, table, column_entity("", self._shown(data)), (kind.strip(),))
                )
        if len(items) < rows:
            notes.append(f"{self.name}: {rows - len(items)} columns occur more than once; the first of each was kept.")
        return [item._replace(title=self.title) for item in items.values()]

    def _shown(self, data: str) -> str:
        if self.value_separator is None:
            return " ".join(data.split()[: self.max_values])
        return show_values(data.split(self.value_separator), self.max_values)


class AnnotatedTables:
    """SemTab 2019 and other folders of tables with a ground truth (the layout RECA reads).

    The ground truth is a CSV file without a header: table, column (counted from 0), type. A type may be an address, of
    which the last part counts, and several types are separated by blanks. A table is ``<table>.csv`` (header, then
    rows) or ``<table>.json`` (``{"header": [...], "content": [[...], ...]}``).

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        truth: The ground truth files below ``folder``.
        tables: For each of them the folder of its tables below ``folder``.
        tasks: ``[cta]``.
        max_values: How many distinct values of a column enter the query.
        labels: The published label list: a file below ``folder``, or the names; None for the few-shot labels.
        title: What the tables are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled columns; None for ``few_shot_fraction`` of the training columns.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (``table/column``), for ``few_shot=ids``.
        split: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test columns.
        split_ids: CSV or JSON file of frozen test tables, for ``split=ids``.
        encoding: The files' encoding.
        max_train: Limit on pool columns; None for all.
        max_test: Limit on test columns; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids", "split_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        truth: Sequence[str],
        tables: Sequence[str],
        tasks: Sequence[str] = TASKS,
        max_values: int = 12,
        labels: str | Sequence[str] | None = None,
        title: str = "",
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.25,
        few_shot_ids: str | None = None,
        split: str = "stratified",
        test_fraction: float = 0.2,
        split_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        if len(truth) != len(tables):
            raise ConfigError(
                f"Dataset '{name}' has {len(truth)} ground truth files and {len(tables)} folders of tables.",
                where=f"datasets.{name}.tables",
                fix="name one folder for each ground truth file, in the same order",
            )
        self.name = name
        self.root = root
        self.folder = folder
        self.truth = tuple(truth)
        self.tables = tuple(tables)
        self.tasks = check_tasks(name, tasks, TASKS)
        self.max_values = check_limit(name, "max_values", max_values)
        self.labels = labels
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
        """The ground truth, the label list, the tables that the ground truth names, and the files of frozen ids.

        Raises:
            DataError: If the data folder is not set, a file is not there, or a ground truth cannot be read.
            ConfigError: If no ground truth is named.
        """
        found = self._fixed_files()
        tables = (path for _, paths in self._parts() for path in paths.values())
        return (
            *found,
            *dict.fromkeys(tables),
            *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids),
        )

    def load(self) -> Source:
        """Read the ground truth and its tables, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        self._fixed_files()
        notes: list[str] = []
        items: list[Item] = []
        for part, (lines, paths) in zip(self.tables, self._parts(), strict=True):
            tables = {
                table: parse_table(read_text(path, self.encoding), path.suffix, path.name, str(path))
                for table, path in paths.items()
            }
            # Two rounds of the challenge may use one name for two tables.
            prefix = f"{part}/" if len(self.tables) > 1 else ""
            items += column_items(self.name, lines, tables, self.max_values, self.title, notes, prefix)
        return assemble_labelled(
            name=self.name,
            task="cta",
            train=items,
            test=None,
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

    def _fixed_files(self) -> tuple[Path, ...]:
        names = (*_some(self.name, "truth", self.truth), *label_file(self.labels))
        return find_files(self.name, self.root, self.folder, names, self.publisher)

    def _parts(self) -> Iterator[tuple[list[Truth], dict[str, Path]]]:
        base = Path(self.root or "") / self.folder
        for truth, tables in zip(self.truth, self.tables, strict=True):
            lines = read_truth(read_text(base / truth, self.encoding), truth, str(base / truth), joined=False)
            paths: dict[str, Path] = {}
            for line in lines:
                if line.table in paths:
                    continue
                if not _plain(line.table):
                    raise DataError(
                        f"{truth} names the table '{line.table}', which is no file name.",
                        where=line.where,
                        fix="name tables without folders",
                    )
                for suffix in (".csv", ".json"):
                    path = base / tables / f"{line.table}{suffix}"
                    if path.is_file():
                        paths[line.table] = path
                        break
            yield lines, paths


class TableArchive:
    """T2Dv2, Limaye and other ``.tar.gz`` archives of web tables with a ground truth (SemAIDA's layout).

    The archive is read in place; nothing is written to disk. The ground truth is a member of CSV lines without header,
    ``"<table> <column>","<type>"[,"<type>", ...]``, the best type first, the others acceptable. A table is a member
    ``<table>.json``, either ``{"relation": [[column], ...]}`` with titles and the header's row (Web Data Commons), or
    ``{"contents": [[{"data": cell}, ...], ...]}`` by rows, without a header; or ``<table>.csv``, by rows without a
    header. HTML character references in JSON cells are resolved.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        archive: The archive below ``folder``.
        truth: The member with the ground truth.
        tables: The archive's folder of tables.
        tasks: ``[cta]``.
        max_values: How many distinct values of a column enter the query.
        labels: The published label list: a file below ``folder``, or the names; None for the few-shot labels.
        title: Said of tables without a title of their own.
        publisher: Where the archive can be had, for messages.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.sample_items``).
        n_few_shot: How many labelled columns; None for ``few_shot_fraction`` of the training columns.
        few_shot_fraction: The share, where no number is given.
        few_shot_ids: CSV or JSON file of frozen ids (``table/column``), for ``few_shot=ids``.
        split: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.labelled.split_items``).
        test_fraction: Share of the test columns.
        split_ids: CSV or JSON file of frozen test tables, for ``split=ids``.
        max_train: Limit on pool columns; None for all.
        max_test: Limit on test columns; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids", "split_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        archive: str,
        truth: str,
        tables: str,
        tasks: Sequence[str] = TASKS,
        max_values: int = 12,
        labels: str | Sequence[str] | None = None,
        title: str = "",
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int | None = None,
        few_shot_fraction: float = 0.25,
        few_shot_ids: str | None = None,
        split: str = "stratified",
        test_fraction: float = 0.2,
        split_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.archive = archive
        self.truth = truth
        self.tables = tables.rstrip("/")
        self.tasks = check_tasks(name, tasks, TASKS)
        self.max_values = check_limit(name, "max_values", max_values)
        self.labels = labels
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_fraction = few_shot_fraction
        self.few_shot_ids = few_shot_ids
        self.split = split
        self.test_fraction = test_fraction
        self.split_ids = split_ids
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The archive, the label list and the files of frozen ids, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.archive, *label_file(self.labels))
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, *frozen_files(self.few_shot, self.few_shot_ids, self.split, self.split_ids))

    def load(self) -> Source:
        """Read the ground truth and its tables out of the archive, sample, and assemble the unit.

        Raises:
            UserError: For anything in the archive or the options that cannot be used, naming the member.
        """
        path = self.files()[0]
        truth = read_members(path, lambda member: member == self.truth)
        if self.truth not in truth:
            raise DataError(
                f"{path.name} has no member '{self.truth}'.",
                where=str(path),
                fix=f"set datasets.{self.name}.truth to the member with the ground truth",
            )
        place = f"{path}, member {self.truth}"
        lines = read_truth(decode(truth[self.truth], self.truth, place), self.truth, place, joined=True)
        wanted = {f"{self.tables}/{line.table}{suffix}": line.table for line in lines for suffix in (".json", ".csv")}
        members = read_members(path, wanted.__contains__)
        notes: list[str] = []
        tables: dict[str, WebTable] = {}
        recoded = 0
        for member, content in sorted(members.items(), reverse=True):  # .json before .csv
            if wanted[member] in tables:
                continue
            where = f"{path}, member {member}"
            try:
                text = decode(content, member, where)
            except DataError:
                text = decode(content, member, where, "latin-1")
                recoded += 1
            tables[wanted[member]] = parse_table(text, PurePosixPath(member).suffix, member, where, header=False)
        if recoded:
            notes.append(f"{self.name}: {recoded} tables are not UTF-8 and were read as latin-1.")
        items = column_items(self.name, lines, tables, self.max_values, self.title, notes)
        return assemble_labelled(
            name=self.name,
            task="cta",
            train=items,
            test=None,
            data_seed=self.data_seed,
            split=self.split,
            test_fraction=self.test_fraction,
            split_ids=self.split_ids,
            few_shot=self.few_shot,
            n_few_shot=self.n_few_shot,
            few_shot_fraction=self.few_shot_fraction,
            few_shot_ids=self.few_shot_ids,
            labels=load_labels(self.labels, Path(self.root or "") / self.folder),
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )


def column_entity(header: str, values: str, others: Sequence[str] = ()) -> dict[str, str]:
    """A column as it is shown: its header, some values, the headers of the table's other columns."""
    return {"column": header, "values": values, "other columns": ", ".join(distinct(others))}


def column_items(
    name: str,
    lines: Sequence[Truth],
    tables: Mapping[str, WebTable],
    max_values: int,
    title: str,
    notes: list[str],
    prefix: str = "",
) -> list[Item]:
    """The labelled columns of some tables.

    Args:
        name: The dataset's name, for messages.
        lines: The ground truth.
        tables: The tables by name; those that the ground truth names and that are not here are left out and said.
        max_values: How many distinct values of a column are shown.
        title: Said of tables without a title of their own.
        notes: What was handled is appended here.
        prefix: Put before the tables' names in ids and groups.

    Raises:
        DataError: If a table has no such column, or none of the tables is there.
    """
    items: dict[str, Item] = {}
    absent = 0
    for line in lines:
        table = tables.get(line.table)
        if table is None:
            absent += 1
            continue
        if line.column >= len(table.columns):
            raise DataError(
                f"The ground truth names column {line.column} of table '{line.table}', which has "
                f"{len(table.columns)} columns.",
                where=line.where,
                fix="columns are counted from 0; check that the ground truth and the tables belong together",
            )
        others = [header for place, header in enumerate(table.headers) if place != line.column]
        entity = column_entity(table.headers[line.column], show_values(table.columns[line.column], max_values), others)
        identifier = f"{prefix}{line.table}/{line.column}"
        items.setdefault(identifier, Item(identifier, prefix + line.table, entity, line.types, table.title or title))
    if absent:
        notes.append(f"{name}: {absent} labelled columns belong to tables that are not there; they were left out.")
    if not items:
        raise DataError(
            f"None of the tables that the ground truth of '{name}' names is there.",
            where=lines[0].where,
            fix=f"check datasets.{name}.tables",
        )
    repeated = len(lines) - absent - len(items)
    if repeated:
        notes.append(f"{name}: {repeated} columns are labelled more than once; the first label of each was kept.")
    return list(items.values())


def label_file(labels: str | Collection[str] | None) -> tuple[str, ...]:
    """The file of a label list, as the argument ``labels`` gives it; empty where it gives names or nothing."""
    return (labels,) if isinstance(labels, str) else ()


def load_labels(labels: str | Sequence[str] | None, base: Path, encoding: str = "utf-8") -> Sequence[str] | None:
    """The published label list: read from a file below ``base``, given as names, or unknown (None)."""
    return read_labels(base / labels, encoding) if isinstance(labels, str) else labels


def _some(name: str, argument: str, files: Sequence[str]) -> Sequence[str]:
    if not files:
        raise ConfigError(
            f"Dataset '{name}' names no file.", where=f"datasets.{name}.{argument}", fix="name at least one file"
        )
    return files


def _plain(table: str) -> bool:
    return table not in (".", "..") and not any(mark in table for mark in "/\\\0")
