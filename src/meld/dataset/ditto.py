"""The Ditto layout of entity matching sets: lines of two serialised records and a label, and no tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import read_csv_text
from meld.dataset.few_shot import pair_id
from meld.dataset.lines import read_lines
from meld.dataset.pairs import TASKS, Pair, assemble_pairs, sample_pairs
from meld.dataset.records import even_columns, merge_equal, settle_pairs
from meld.errors import ConfigError, DataError
from meld.types import Table

# A name ends at the next VAL and never reaches over another COL; names may have spaces.
_COLUMN = re.compile(r"(?<!\S)COL ((?:(?!(?<!\S)(?:COL|VAL)(?!\S)).)+?) VAL(?!\S)", re.DOTALL)
_LABELS = {"0": False, "1": True}


class _Line(NamedTuple):
    """The number of a line in its file, counted from 0, the records of its two sides, and its label."""

    number: int
    left: dict[str, str]
    right: dict[str, str]
    match: bool


class Ditto:
    """The WDC sets and whatever else has Ditto's lines (Li et al., PVLDB 2021; github.com/megagonlabs/ditto).

    A line reads ``COL title VAL sony tv COL price VAL 9<TAB>COL title VAL ...<TAB>1``. The two tables are the distinct
    left and the distinct right records of all three files, numbered in order of appearance.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: Which of ``em`` and ``blk``.
        train: File name of the training pairs.
        valid: File name of the validation pairs.
        test: File name of the test pairs.
        title: What the records are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``balanced`` | ``stratified`` | ``paper_index`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs, for the first two.
        few_shot_index: CSV of published positives below ``root``, for ``paper_index``; ``ltable_id`` and ``rtable_id``
            both give the line of the pair, counted from 0.
        few_shot_index_of: The file below ``root`` whose lines the index counts; None for the training file.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        drop_columns: Columns that must not be shown, such as ids and cluster keys.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"root", "folder", "publisher", "few_shot_index", "few_shot_index_of", "few_shot_ids"}
    )

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        train: str = "train.txt",
        valid: str = "valid.txt",
        test: str = "test.txt",
        title: str = "",
        publisher: str = "",
        few_shot: str = "balanced",
        n_few_shot: int = 100,
        few_shot_index: str | None = None,
        few_shot_index_of: str | None = None,
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
        self.train = train
        self.valid = valid
        self.test = test
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_index = few_shot_index
        self.few_shot_index_of = few_shot_index_of
        self.few_shot_ids = few_shot_ids
        self.drop_columns = tuple(drop_columns)
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The three files of pairs, and the few-shot files in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
            ConfigError: If ``few_shot=paper_index`` has no index.
        """
        found = find_files(self.name, self.root, self.folder, (self.train, self.valid, self.test), self.publisher)
        if self.few_shot == "paper_index":
            found += self._index_paths()
        if self.few_shot == "ids" and self.few_shot_ids is not None:
            found += (Path(self.few_shot_ids),)
        return found

    def load(self) -> Source:
        """Read the lines, number the distinct records, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()[:3]
        parts = [_read(path, self.encoding) for path in paths]
        lines = [line for part in parts for line in part]
        left, left_ids = self._table("A", [line.left for line in lines], paths)
        right, right_ids = self._table("B", [line.right for line in lines], paths)
        ids = zip(left_ids, right_ids, strict=True)
        train, valid, test = ([Pair(*next(ids), line.match) for line in part] for part in parts)
        notes: list[str] = []
        kept, valid, test = settle_pairs(self.name, train, valid, test, notes)
        index = self._index(parts[0], train, kept, paths[0], notes) if self.few_shot == "paper_index" else None
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

    def _table(
        self, label: str, records: Sequence[Mapping[str, str]], paths: Sequence[Path]
    ) -> tuple[Table, list[str]]:
        """The table of one side, and for each record the id of its row."""
        columns, entities = even_columns(
            [
                {column: value for column, value in record.items() if column not in self.drop_columns}
                for record in records
            ]
        )
        if not columns:
            raise DataError(
                f"The {'left' if label == 'A' else 'right'} records of '{self.name}' have no columns besides those of "
                "drop_columns.",
                where=str(paths[0]),
                fix=f"drop fewer columns: datasets.{self.name}.drop_columns",
            )
        rows, stands_for = merge_equal({str(place): entity for place, entity in enumerate(entities)})
        numbers = {record: str(number) for number, record in enumerate(rows)}
        table = Table(label, self.title, columns, {numbers[record]: entity for record, entity in rows.items()})
        return table, [numbers[record] for record in stands_for.values()]

    def _index_paths(self) -> tuple[Path, ...]:
        if self.few_shot_index is None:
            raise ConfigError(
                f"Dataset '{self.name}' has few_shot=paper_index but no index.",
                where=f"datasets.{self.name}.few_shot_index",
                fix="set it to the published CSV of positive pairs, or use few_shot=balanced",
            )
        names = [self.few_shot_index, *([] if self.few_shot_index_of is None else [self.few_shot_index_of])]
        return tuple(Path(self.root or "") / name for name in names)

    def _index(
        self, lines: Sequence[_Line], train: Sequence[Pair], kept: Sequence[Pair], path: Path, notes: list[str]
    ) -> list[str]:
        """Pair ids of the published positives."""
        index_path, *counted = self._index_paths()
        source = _read(counted[0], self.encoding) if counted else lines
        numbered = {line.number: line for line in source}
        ids = {_key(line): pair_id(pair.left, pair.right) for line, pair in zip(lines, train, strict=True)}
        frame = read_csv_text(index_path, self.encoding)
        frame.require("ltable_id", "rtable_id")
        found: dict[str, None] = {}
        for row, (left, right) in enumerate(zip(frame.column("ltable_id"), frame.column("rtable_id"), strict=True)):
            line = numbered.get(int(left)) if left.isascii() and left.isdigit() else None
            if line is None or left != right or not line.match or _key(line) not in ids:
                counts = (counted or [path])[0]
                raise DataError(
                    f"{index_path.name} names line '{left}' (and '{right}') of {counts.name}, which is no matching "
                    "pair of the training file.",
                    where=frame.at(row, "ltable_id"),
                    fix="use the index that belongs to these files, or few_shot=balanced",
                )
            found[ids[_key(line)]] = None
        known = {pair_id(pair.left, pair.right) for pair in kept}
        if lost := found.keys() - known:
            notes.append(
                f"{self.name}: {len(lost)} of {len(found)} published few-shot pairs are test pairs and not learnt from."
            )
        return [identifier for identifier in found if identifier in known]


def parse_record(text: str) -> dict[str, str] | None:
    """Read ``COL title VAL sony tv COL price VAL 9``; None if it does not start so, or names a column twice."""
    text = text.strip()
    marks = list(_COLUMN.finditer(text))
    if not marks or marks[0].start() != 0:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    record = {mark[1].strip(): text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}
    return record if len(record) == len(marks) else None


def _read(path: Path, encoding: str) -> list[_Line]:
    found = []
    for number, text in enumerate(read_lines(path, encoding)):
        if not text.strip():
            continue
        place = f"{path}, row {number} (line {number + 1})"
        parts = text.split("\t")
        if len(parts) != 3:
            raise DataError(
                f"{path.name} has a line of {len(parts)} parts instead of three.",
                where=place,
                fix="write: left record, tab, right record, tab, 0 or 1",
            )
        sides = []
        for column, part in (("left", parts[0]), ("right", parts[1])):
            record = parse_record(part)
            if record is None:
                raise DataError(
                    f"{path.name} has a {column} record that is not of the form 'COL name VAL value COL ...', "
                    "each name once.",
                    where=f"{place}, column '{column}'",
                    fix="correct that line, or fetch the file again",
                )
            sides.append(record)
        label = parts[2].strip()
        if label not in _LABELS:
            raise DataError(
                f"{path.name} has the label '{label}', which is neither 0 nor 1.",
                where=f"{place}, column 'label'",
                fix="write 1 for a match and 0 for a mismatch",
            )
        found.append(_Line(number, sides[0], sides[1], _LABELS[label]))
    return found


def _key(line: _Line) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(line.left.items()), tuple(line.right.items())
