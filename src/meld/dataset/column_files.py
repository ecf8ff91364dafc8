"""Column type annotation sets that are files of single columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.columns import TASKS, column_entity, label_file, load_labels, some_files
from meld.dataset.csv_text import read_csv_text
from meld.dataset.labelled import (
    Item,
    assemble_labelled,
    check_limit,
    frozen_files,
    show_values,
)
from meld.errors import DataError


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
        names = (*some_files(self.name, "train", self.train), *self.test, *label_file(self.labels))
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
