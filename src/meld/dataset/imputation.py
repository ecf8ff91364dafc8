"""Imputation sets: one table, and a published split file with masked cells or a seeded one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import TextFrame, read_csv_text
from meld.dataset.masking import TASKS, Split, assemble_imputation, mask_seeded, sample_records
from meld.errors import ConfigError, DataError

# An opening quote mark, the value, and a closing one: a token of its own, or right after an escaped one; '' is empty.
_QUOTED = re.compile(r"[`'](.*?)(?: '|(?<=\\ ')')|''")
_ESCAPED_QUOTE = re.compile(r" ?\\ ?'| ?\\ ?` ?")


class Imputation:
    """Walmart, Restaurant and their siblings.

    The split file names each record by ``id`` or by ``row`` (the table's column of that name, else the position), with
    the columns ``split`` (train or test), ``few_shot`` (0 or 1) and ``masked`` (attributes joined by ``|``). Records it
    does not name are left out.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        targets: The attributes to impute.
        tasks: ``[di]``.
        table: File name of the table.
        split: File name of the split; None to mask by ``data_seed``.
        drop_columns: Columns that must not be shown: ids, cluster keys.
        unquote: Undo DeepMatcher's quoting (`` ` los angeles ' ``).
        title: What the table is about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``published`` | ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.masking.sample_records``).
        n_few_shot: How many labelled records, for ``stratified`` and ``uniform``.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        test_fraction: Share of the records that is for testing, without a split file.
        mask_fraction: Chance of a test record's target to be masked, without a split file.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test records with a masked cell; None for all.
        data_seed: Seed of the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        targets: Sequence[str],
        tasks: Sequence[str] = TASKS,
        table: str = "tableA.csv",
        split: str | None = None,
        drop_columns: Sequence[str] = ("id", "row"),
        unquote: bool = False,
        title: str = "",
        publisher: str = "",
        few_shot: str = "published",
        n_few_shot: int = 60,
        few_shot_ids: str | None = None,
        test_fraction: float = 0.2,
        mask_fraction: float = 1.0,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.targets = tuple(targets)
        self.tasks = check_tasks(name, tasks, TASKS)
        self.table = table
        self.split = split
        self.drop_columns = tuple(drop_columns)
        self.unquote = unquote
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.test_fraction = test_fraction
        self.mask_fraction = mask_fraction
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The table, the split file and the few-shot file, as far as they are in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = (self.table,) if self.split is None else (self.table, self.split)
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, Path(self.few_shot_ids)) if self.few_shot == "ids" and self.few_shot_ids is not None else found

    def load(self) -> Source:
        """Read the table and the split, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        frame = read_csv_text(paths[0], self.encoding)
        columns, entities = frame.entities(drop=self.drop_columns)
        self._check_targets(frame, columns)
        if self.unquote:
            entities = [{column: unquote(value) for column, value in entity.items()} for entity in entities]
        notes: list[str] = []
        if self.split is None:
            key = "row"
            records = dict(zip((str(row) for row in range(len(frame))), entities, strict=True))
            n_test = round(self.test_fraction * len(records))
            split = mask_seeded(self.name, list(records), self.targets, n_test, self.mask_fraction, self.data_seed)
        else:
            split_frame = read_csv_text(paths[1], self.encoding)
            key = "id" if "id" in split_frame.columns else "row"
            ids = frame.unique(key) if key in frame.columns else tuple(str(row) for row in range(len(frame)))
            records = dict(zip(ids, entities, strict=True))
            split = self._read_split(split_frame, key, set(records), notes)
        few_shot = sample_records(
            self.name,
            split,
            {record: records[record][self.targets[0]] for record in split.train},
            self.few_shot,
            self.n_few_shot,
            self.data_seed,
            id_column=key,
            ids_path=self.few_shot_ids,
        )
        return assemble_imputation(
            name=self.name,
            columns=columns,
            records=records,
            targets=self.targets,
            split=split,
            few_shot=few_shot,
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _check_targets(self, frame: TextFrame, columns: Sequence[str]) -> None:
        frame.require(*self.targets)
        dropped = [target for target in self.targets if target not in columns]
        if dropped or not self.targets:
            raise ConfigError(
                f"Dataset '{self.name}' has "
                + (f"the target '{dropped[0]}' among drop_columns." if dropped else "no target attribute."),
                where=f"datasets.{self.name}.targets",
                fix=f"choose some of {list(columns)}",
            )

    def _read_split(self, frame: TextFrame, key: str, known: set[str], notes: list[str]) -> Split:
        frame.require(key, "split", "few_shot", "masked")
        train: list[str] = []
        test: dict[str, tuple[str, ...]] = {}
        few_shot: list[str] = []
        leaked = 0
        rows = zip(
            frame.unique(key), frame.column("split"), frame.column("few_shot"), frame.column("masked"), strict=True
        )
        for number, (record, part, labelled, masked) in enumerate(rows):
            if record not in known:
                raise _split_error(frame, number, key, f"names record '{record}', which the table does not have")
            if part not in ("train", "test"):
                raise _split_error(frame, number, "split", f"has the split '{part}', which is neither train nor test")
            if labelled not in ("0", "1"):
                raise _split_error(frame, number, "few_shot", f"has few_shot '{labelled}', which is neither 0 nor 1")
            attributes = tuple(attribute for attribute in masked.split("|") if attribute)
            if not set(attributes) <= set(self.targets):
                raise _split_error(
                    frame, number, "masked", f"masks '{masked}', of which not all is among targets={list(self.targets)}"
                )
            if part == "test":
                test[record] = attributes
                leaked += labelled == "1"
            else:
                train.append(record)
                if labelled == "1":
                    few_shot.append(record)
        if leaked:
            notes.append(
                f"{self.name}: {leaked} published few-shot records are test records; they are tested, not learnt from."
            )
        return Split(tuple(train), test, tuple(few_shot))


def unquote(value: str) -> str:
    """Undo DeepMatcher's quoting: `` ` art \\ 's delicatessen ' `` becomes ``art's delicatessen``."""
    quoted = _QUOTED.fullmatch(value)
    return _ESCAPED_QUOTE.sub("'", (quoted[1] or "").strip() if quoted else value)


def _split_error(frame: TextFrame, row: int, column: str, what: str) -> DataError:
    return DataError(
        f"{frame.path.name} {what}.", where=frame.at(row, column), fix="correct the split file or the dataset's options"
    )
