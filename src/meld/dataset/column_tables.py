"""Column type annotation sets that are tables with a ground truth: folders of them, and archives of web tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.columns import TASKS, column_items, label_file, load_labels, some_files
from meld.dataset.csv_text import decode, read_text
from meld.dataset.labelled import (
    Item,
    assemble_labelled,
    check_limit,
    frozen_files,
)
from meld.dataset.web_tables import Truth, WebTable, parse_table, read_members, read_truth
from meld.errors import ConfigError, DataError


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
        names = (*some_files(self.name, "truth", self.truth), *label_file(self.labels))
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


def _plain(table: str) -> bool:
    return table not in (".", "..") and not any(mark in table for mark in "/\\\0")
