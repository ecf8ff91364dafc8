"""The Magellan layout of entity matching sets: tableA.csv, tableB.csv, and labelled pairs of ids in three splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import read_csv_text
from meld.dataset.few_shot import pair_id
from meld.dataset.pairs import TASKS, Pair, assemble_pairs, sample_pairs
from meld.errors import ConfigError, DataError
from meld.types import Table

_FILES = ("tableA.csv", "tableB.csv", "train.csv", "valid.csv", "test.csv")
_LABELS = {"0": False, "1": True}


class Magellan:
    """Abt-Buy, Amazon-Google and their siblings (Mudgal et al., SIGMOD 2018, use this layout).

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: Which of ``em`` and ``blk``.
        title: What the tables are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``balanced`` | ``stratified`` | ``paper_index`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs, for the first two.
        few_shot_index: CSV of published positives below ``root`` (``ltable_id``, ``rtable_id``), for ``paper_index``.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        drop_columns: Columns besides ``id`` that must not be shown, such as cluster keys.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"root", "folder", "publisher", "few_shot_index", "few_shot_ids"}
    )

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        title: str = "",
        publisher: str = "",
        few_shot: str = "balanced",
        n_few_shot: int = 100,
        few_shot_index: str | None = None,
        few_shot_ids: str | None = None,
        drop_columns: Sequence[str] = (),
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.root = root
        self.folder = folder
        self.tasks = check_tasks(name, tasks, TASKS)
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_index = few_shot_index
        self.few_shot_ids = few_shot_ids
        self.drop_columns = tuple(drop_columns)
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The five files of the layout, and the few-shot file in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
            ConfigError: If ``few_shot=paper_index`` has no index.
        """
        found = find_files(self.name, self.root, self.folder, _FILES, self.publisher)
        if self.few_shot == "paper_index":
            found += (self._index_path(),)
        if self.few_shot == "ids" and self.few_shot_ids is not None:
            found += (Path(self.few_shot_ids),)
        return found

    def load(self) -> Source:
        """Read the tables and pairs, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        left, right = (self._table(label, path) for label, path in zip("AB", paths[:2], strict=True))
        notes: list[str] = []
        train, valid, test = (self._pairs(path, left, right, notes) for path in paths[2:5])
        shown_in_test = {(pair.left, pair.right) for pair in test}
        kept = [pair for pair in train if (pair.left, pair.right) not in shown_in_test]
        if len(kept) < len(train):
            notes.append(
                f"{self.name}: {len(train) - len(kept)} training pairs that are also test pairs were left out."
            )
        index = self._index() if self.few_shot == "paper_index" else None
        few_shot = sample_pairs(
            self.name, kept, self.few_shot, self.n_few_shot, self.data_seed, index=index, ids_path=self.few_shot_ids
        )
        return assemble_pairs(
            name=self.name,
            tasks=self.tasks,
            left=left,
            right=right,
            train=kept,
            valid=valid,
            test=test,
            few_shot=few_shot,
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _index_path(self) -> Path:
        if self.few_shot_index is None:
            raise ConfigError(
                f"Dataset '{self.name}' has few_shot=paper_index but no index.",
                where=f"datasets.{self.name}.few_shot_index",
                fix="set it to the published CSV of positive pairs, or use few_shot=balanced",
            )
        return Path(self.root or "") / self.few_shot_index

    def _index(self) -> list[str]:
        frame = read_csv_text(self._index_path(), self.encoding)
        return [pair_id(*ids) for ids in zip(frame.column("ltable_id"), frame.column("rtable_id"), strict=True)]

    def _table(self, label: str, path: Path) -> Table:
        frame = read_csv_text(path, self.encoding)
        ids = frame.unique("id")
        columns, entities = frame.entities(drop=("id", *self.drop_columns))
        return Table(label, self.title, columns, dict(zip(ids, entities, strict=True)))

    def _pairs(self, path: Path, left: Table, right: Table, notes: list[str]) -> list[Pair]:
        frame = read_csv_text(path, self.encoding)
        frame.require("ltable_id", "rtable_id", "label")
        columns = (frame.column("ltable_id"), frame.column("rtable_id"), frame.column("label"))
        pairs: dict[tuple[str, str], Pair] = {}
        for number, (left_id, right_id, label) in enumerate(zip(*columns, strict=True)):
            for record, table, column in ((left_id, left, "ltable_id"), (right_id, right, "rtable_id")):
                if record not in table.rows:
                    raise DataError(
                        f"{path.name} names record '{record}', which table{table.name}.csv does not have.",
                        where=frame.at(number, column),
                        fix=f"check that the pairs and table{table.name}.csv belong together",
                    )
            if label not in _LABELS:
                raise DataError(
                    f"{path.name} has the label '{label}', which is neither 0 nor 1.",
                    where=frame.at(number, "label"),
                    fix="write 1 for a match and 0 for a mismatch",
                )
            pairs.setdefault((left_id, right_id), Pair(left_id, right_id, _LABELS[label]))
        if len(pairs) < len(frame):
            notes.append(
                f"{self.name}: {len(frame) - len(pairs)} repeated pairs in {path.name}; the first of each was kept."
            )
        return list(pairs.values())
