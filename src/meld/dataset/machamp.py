"""The Machamp/PromptEM layout of generalised entity matching: two lists of records of any shape, and pairs of rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import read_csv_text
from meld.dataset.few_shot import unknown_few_shot
from meld.dataset.lines import flat_text, read_json_objects, read_lines
from meld.dataset.pairs import TASKS, Pair, assemble_pairs, sample_pairs
from meld.dataset.records import even_columns, merge_equal, settle_pairs
from meld.errors import ConfigError, DataError
from meld.types import Table

_SPLITS = ("train.csv", "valid.csv", "test.csv")
_FEW_SHOT = ("balanced", "stratified", "ids")
_LABELS = {"0": False, "1": True}
_TEXT = "text"
# Values that a script has written as Python; longer ones are left as they are.
_LONGEST_LITERAL = 100_000


class Machamp:
    """Semi-Text-Watch, Semi-Text-Computer and their siblings (Wang et al., CIKM 2021; Wang et al., PVLDB 2022).

    A side is a ``.json`` array or ``.jsonl`` lines of objects, ``.txt`` lines of text, or a ``.csv`` table; its suffix
    says which. Pairs are lines ``row,row,label`` without a header, rows counted from 0. Nested values become text, and
    the suffixes ``_left`` and ``_right`` of column names are removed.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: Which of ``em`` and ``blk``.
        left: File name of the left side.
        right: File name of the right side.
        left_row: Column of the left side that holds the row number, for files with some of the rows only; None where a
            record's row is its place in the file.
        right_row: The same of the right side.
        drop_columns: Columns, as the files name them, that must not be shown: ids, cluster keys.
        null_values: Texts by which the publisher writes a missing value.
        merge_equal: Make one record of those that show the same; without it, blocking cannot name the right one.
        title: What the records are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``balanced`` | ``stratified`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs, for the first two.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
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
        left: str = "left.json",
        right: str = "right.json",
        left_row: str | None = None,
        right_row: str | None = None,
        drop_columns: Sequence[str] = (),
        null_values: Sequence[str] = (),
        merge_equal: bool = True,
        title: str = "",
        publisher: str = "",
        few_shot: str = "balanced",
        n_few_shot: int = 80,
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
        self.left = left
        self.right = right
        self.left_row = left_row
        self.right_row = right_row
        self.drop_columns = tuple(drop_columns)
        self.null_values = frozenset(null_values)
        self.merge_equal = merge_equal
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
        """Both sides, the three files of pairs, and the few-shot file in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        found = find_files(self.name, self.root, self.folder, (self.left, self.right, *_SPLITS), self.publisher)
        return (*found, Path(self.few_shot_ids)) if self.few_shot == "ids" and self.few_shot_ids is not None else found

    def load(self) -> Source:
        """Read both sides and the pairs, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        if self.few_shot not in _FEW_SHOT:
            raise unknown_few_shot(self.name, self.few_shot, _FEW_SHOT)
        paths = self.files()
        notes: list[str] = []
        left, left_rows = self._side("A", paths[0], self.left_row, notes)
        right, right_rows = self._side("B", paths[1], self.right_row, notes)
        parts = [self._pairs(path, paths, left_rows, right_rows, notes) for path in paths[2:5]]
        train, valid, test = settle_pairs(self.name, parts[0], parts[1], parts[2], notes)
        few_shot = sample_pairs(
            self.name, train, self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
        )
        return assemble_pairs(
            name=self.name,
            tasks=self.tasks,
            left=left,
            right=right,
            train=train,
            valid=valid,
            test=test,
            few_shot=few_shot,
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _side(self, label: str, path: Path, row_column: str | None, notes: list[str]) -> tuple[Table, dict[str, str]]:
        """The table of one side, and for each row number of the file the record that holds it."""
        records = _read_records(path, self.encoding)
        rows = _row_numbers(path, records, row_column)
        hidden = {*self.drop_columns, *([] if row_column is None else [row_column])}
        names = _short_names([column for _, record in records for column in record if column not in hidden])
        columns, entities = even_columns(
            [
                {names[column]: self._value(value) for column, value in record.items() if column not in hidden}
                for _, record in records
            ]
        )
        if not columns:
            raise DataError(
                f"{path.name} has no columns besides those of drop_columns.",
                where=str(path),
                fix=f"drop fewer columns: datasets.{self.name}.drop_columns",
            )
        table = dict(zip(rows, entities, strict=True))
        if not self.merge_equal:
            return Table(label, self.title, columns, table), {row: row for row in rows}
        kept, stands_for = merge_equal(table)
        if len(kept) < len(table):
            notes.append(
                f"{self.name}: {path.name} holds {len(table)} records, of which {len(kept)} show something different."
            )
        return Table(label, self.title, columns, kept), stands_for

    def _value(self, value: object) -> str:
        text = _literal_text(value) if isinstance(value, str) else flat_text(value)
        return "" if text in self.null_values else text

    def _pairs(
        self, path: Path, paths: Sequence[Path], left: Mapping[str, str], right: Mapping[str, str], notes: list[str]
    ) -> list[Pair]:
        sides = (("left", left, self.left_row, paths[0]), ("right", right, self.right_row, paths[1]))
        pairs: list[Pair] = []
        lacking = 0
        lines = [(number, line) for number, line in enumerate(read_lines(path, self.encoding)) if line.strip()]
        for number, line in lines:
            place = f"{path}, row {number} (line {number + 1})"
            # The publishers write tabs in their description and commas in their files.
            values = [value.strip() for value in re.split(r"[,\t]", line)]
            if len(values) != 3:
                raise DataError(
                    f"{path.name} has a line of {len(values)} values instead of three.",
                    where=place,
                    fix="write: left row, right row, 0 or 1, and no header",
                )
            found = []
            for value, (side, rows, row_column, file) in zip(values, sides, strict=False):
                row = _row_number(value)
                if row is None:
                    raise DataError(
                        f"{path.name} names the {side} row '{value}', which is no row number.",
                        where=f"{place}, column '{side}'",
                        fix="rows are counted from 0; the file has no header",
                    )
                if row in rows:
                    found.append(rows[row])
                elif row_column is None:
                    raise DataError(
                        f"{path.name} names the {side} row {value}, and {file.name} has {len(rows)} rows.",
                        where=f"{place}, column '{side}'",
                        fix=f"rows are counted from 0; check that the pairs and {file.name} belong together",
                    )
            if values[2] not in _LABELS:
                raise DataError(
                    f"{path.name} has the label '{values[2]}', which is neither 0 nor 1.",
                    where=f"{place}, column 'label'",
                    fix="write 1 for a match and 0 for a mismatch",
                )
            if len(found) == 2:
                pairs.append(Pair(found[0], found[1], _LABELS[values[2]]))
            else:
                lacking += 1
        if lacking:
            notes.append(
                f"{self.name}: {lacking} of {len(lines)} pairs in {path.name} name a record that the files do not hold "
                "and were left out."
            )
        if not pairs:
            raise DataError(
                f"No pair of {path.name} has both of its records.",
                where=str(path),
                fix=f"check that it belongs to {paths[0].name} and {paths[1].name}",
            )
        return pairs


def _read_records(path: Path, encoding: str) -> list[tuple[str, Mapping[str, object]]]:
    """For each record where it stands, and its columns."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        # A blank line is a record without text: leaving it out would shift all that follow.
        return [
            (f"{path}, row {number} (line {number + 1})", {_TEXT: line})
            for number, line in enumerate(read_lines(path, encoding))
        ]
    if suffix == ".csv":
        frame = read_csv_text(path, encoding)
        _, entities = frame.entities()
        return [(f"{path}, row {row} (line {line})", entities[row]) for row, line in enumerate(frame.lines)]
    if suffix in (".json", ".jsonl"):
        return list(read_json_objects(path, encoding))
    raise ConfigError(
        f"{path.name} is of no kind that this layout has.",
        where=str(path),
        fix="name a .json, .jsonl, .txt or .csv file",
    )


def _row_numbers(path: Path, records: Sequence[tuple[str, Mapping[str, object]]], column: str | None) -> list[str]:
    if column is None:
        return [str(number) for number in range(len(records))]
    rows: dict[str, str] = {}
    for place, record in records:
        if column not in record:
            raise DataError(
                f"{path.name} has a record without '{column}'; its columns are {', '.join(map(repr, record))}.",
                where=f"{place}, column '{column}'",
                fix="name the column of the row numbers, or null where all rows are there",
            )
        row = _row_number(str(record[column]))
        if row is None or row in rows:
            raise DataError(
                f"{path.name} has the row number '{record[column]}', which "
                + ("is none." if row is None else f"it has before: {rows[row]}."),
                where=f"{place}, column '{column}'",
                fix="write each row number once, counted from 0",
            )
        rows[row] = place
    return list(rows)


def _row_number(text: str) -> str | None:
    return str(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _short_names(columns: Sequence[str]) -> dict[str, str]:
    """Column names without ``_left`` and ``_right``, where that makes no two alike."""
    distinct = dict.fromkeys(columns)
    short = {column: re.sub(r"(?<=.)_(?:left|right)$", "", column) for column in distinct}
    taken = list(short.values())
    return {column: name if taken.count(name) == 1 else column for column, name in short.items()}


def _literal_text(text: str) -> str:
    """Flatten a list or dictionary that was written as Python text (``[{'/sku': '[a1]'}]``); nothing is executed."""
    text = flat_text(text)
    if text[:1] + text[-1:] not in ("[]", "{}") or len(text) > _LONGEST_LITERAL:
        return text
    try:
        return flat_text(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text
