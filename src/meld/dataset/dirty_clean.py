"""The dirty/clean layout of cleaning sets: two CSV files of the same shape, aligned by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.cells import TASKS, assemble_dirty_clean, sample_tuples
from meld.dataset.csv_text import read_csv_text
from meld.errors import DataError


class DirtyClean:
    """Hospital, Rayyan and their siblings (the layout of Raha and Baran, Mahdavi et al.).

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: Which of ``ed`` and ``dc``.
        dirty: File name of the dirty table, whose header names the attributes.
        clean: File name of the clean table; its header may differ.
        id_columns: Columns of the dirty table that are ids: neither shown nor asked about.
        title: What the table is about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``uniform`` | ``ids`` (see ``meld.dataset.cells.sample_tuples``).
        n_few_shot: How many labelled tuples.
        few_shot_ids: CSV (column ``row``) or JSON file of frozen row positions, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test tuples; None for all.
        data_seed: Seed of the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        dirty: str = "dirty.csv",
        clean: str = "clean.csv",
        id_columns: Sequence[str] = (),
        title: str = "",
        publisher: str = "",
        few_shot: str = "uniform",
        n_few_shot: int = 20,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.tasks = check_tasks(name, tasks, TASKS)
        self.dirty = dirty
        self.clean = clean
        self.id_columns = tuple(id_columns)
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The dirty and the clean table, and the few-shot file in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        found = find_files(self.name, self.root, self.folder, (self.dirty, self.clean), self.publisher)
        return (*found, Path(self.few_shot_ids)) if self.few_shot == "ids" and self.few_shot_ids is not None else found

    def load(self) -> Source:
        """Read both tables, align them by position, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        dirty_path, clean_path = self.files()[:2]
        dirty, clean = read_csv_text(dirty_path, self.encoding), read_csv_text(clean_path, self.encoding)
        for what, ours, theirs in (
            ("rows", len(dirty), len(clean)),
            ("columns", len(dirty.columns), len(clean.columns)),
        ):
            if ours != theirs:
                raise DataError(
                    f"{dirty_path.name} has {ours} {what}, {clean_path.name} has {theirs}: "
                    "they cannot be aligned by position.",
                    where=f"{dirty_path} and {clean_path}",
                    fix="use the two files of one release; row i of one must be row i of the other",
                )
        dirty.require(*self.id_columns)
        columns, entities = dirty.entities(drop=self.id_columns)
        kept = [dirty.columns.index(column) for column in columns]
        notes = []
        renamed = sum(dirty.columns[place] != clean.columns[place] for place in kept)
        if renamed:
            notes.append(
                f"{self.name}: {renamed} columns have different names in the two files; they were aligned by position."
            )
        return assemble_dirty_clean(
            name=self.name,
            tasks=self.tasks,
            columns=columns,
            dirty=entities,
            clean=[[row[place] for place in kept] for row in clean.rows],
            few_shot=sample_tuples(
                self.name, len(dirty), self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
            ),
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )
