"""Users' own tables for matching and blocking: labelled pairs, or two tables with few labels or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from meld.dataset.base import Source, check_tasks
from meld.dataset.csv_text import TextFrame
from meld.dataset.few_shot import pair_id, unknown_few_shot
from meld.dataset.judged import Judged, hold_out, judge, named_pairs, word_candidates
from meld.dataset.own import check_fraction, describe_table, own_files, record_ids, say_without_labels
from meld.dataset.pairs import TASKS, Pair, assemble_pairs, sample_pairs
from meld.dataset.table_files import read_table
from meld.errors import ConfigError, DataError
from meld.types import Entity, Table

FEW_SHOT = ("stratified", "balanced", "ids")


class CsvPairs:
    """Entity matching (and blocking) from labelled pairs: of two tables, or in one file with prefixed columns.

    With ``left`` and ``right``, ``pairs`` names records of both by their id columns (row numbers from 0 where a table
    has none). Without, ``pairs`` holds both sides of each pair in columns such as ``left_name`` and ``right_name``.

    A label is 1/0, true/false, yes/no or match/mismatch in any case. Pairs with an empty label are asked: they join the
    test split and are not scored.

    Args:
        name: The dataset's name.
        left: File of the left table; None for one file of pairs.
        right: File of the right table; None for one file of pairs.
        pairs: File of the pairs to learn from.
        test: File of test pairs of the same form, whose label column may be absent; None to hold out ``test_fraction``.
        tasks: Which of ``em`` and ``blk``.
        left_id: The left table's id column (with one file of pairs: the column of ``pairs`` with the left record's id).
        right_id: The same for the right table.
        left_key: Column of ``pairs`` that names the left record; not read with one file of pairs.
        right_key: Column of ``pairs`` that names the right record.
        left_prefix: What the left side's columns begin with in one file of pairs.
        right_prefix: What the right side's columns begin with.
        label: The label column; None where there is none.
        drop_columns: Columns that must not be shown, as they are named in the files.
        title: What the tables are about; reaches prompts.
        test_fraction: Share of the labelled pairs that is held out for testing, seeded; read without ``test``.
        few_shot: ``stratified`` | ``balanced`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs may be read; None for all but the held-out ones.
        few_shot_ids: CSV (``ltable_id``, ``rtable_id``) or JSON file of frozen ids, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of the sample, the splits and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        left: str | None = None,
        right: str | None = None,
        pairs: str | None = None,
        test: str | None = None,
        tasks: Sequence[str] = ("em",),
        left_id: str | None = None,
        right_id: str | None = None,
        left_key: str = "left",
        right_key: str = "right",
        left_prefix: str = "left_",
        right_prefix: str = "right_",
        label: str | None = "label",
        drop_columns: Sequence[str] = (),
        title: str = "",
        test_fraction: float = 0.2,
        few_shot: str = "stratified",
        n_few_shot: int | None = 100,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.left = left
        self.right = right
        self.pairs = pairs
        self.test = test
        self.tasks = check_tasks(name, tasks, TASKS)
        self.left_id = left_id
        self.right_id = right_id
        self.left_key = left_key
        self.right_key = right_key
        self.left_prefix = left_prefix
        self.right_prefix = right_prefix
        self.label = label
        self.drop_columns = tuple(drop_columns)
        self.title = title
        self.test_fraction = check_fraction(name, "test_fraction", test_fraction)
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The files in use.

        Raises:
            ConfigError: If no pairs are given, or only one of the two tables.
            DataError: If a file is not there.
        """
        given = {"pairs": self.pairs}
        if self.left is not None or self.right is not None:
            given = {"left": self.left, "right": self.right, **given}
        return own_files(self.name, given, self.test, self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Read the pairs and their records, hold out, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        self.files()
        notes: list[str] = []
        frames = [read_table(self.pairs or "", self.encoding)]
        if self.test is not None:
            frames.append(read_table(self.test, self.encoding))
        if self.left is not None and self.right is not None:
            left, right = _two_tables(
                self.name,
                (self.left, self.right),
                (self.left_id, self.right_id),
                self.drop_columns,
                self.title,
                self.encoding,
                notes,
            )
            keys = [named_pairs(frame, (self.left_key, self.right_key), (left, right)) for frame in frames]
        else:
            left, lefts = self._side("A", self.left_prefix, self.left_id, frames, notes)
            right, rights = self._side("B", self.right_prefix, self.right_id, frames, notes)
            keys = [list(zip(*ids, strict=True)) for ids in zip(lefts, rights, strict=True)]
        learnt = judge(self.name, frames[0], keys[0], self.label, notes)
        if self.test is not None:
            label = self.label if self.label in frames[1].columns else None
            if label != self.label:
                notes.append(f"{self.name}: {frames[1].path.name} has no labels; its pairs are asked and not scored.")
            asked = judge(self.name, frames[1], keys[1], label, notes)
            repeated = len(learnt.keys() & asked.keys())
            if repeated:
                notes.append(f"{self.name}: {repeated} training pairs that are also test pairs were left out.")
        else:
            asked = hold_out(self.name, learnt, self.test_fraction, self.data_seed)
        train: Judged = {key: match for key, match in learnt.items() if key not in asked and match is not None}
        unlabelled: Judged = {key: match for key, match in learnt.items() if key not in asked and match is None}
        if unlabelled:
            notes.append(f"{self.name}: {len(unlabelled)} pairs without a label are asked and not scored.")
        return _assemble_judged(self, left, right, train, {**asked, **unlabelled}, notes)

    def _side(
        self, label: str, prefix: str, id_column: str | None, frames: Sequence[TextFrame], notes: list[str]
    ) -> tuple[Table, list[list[str]]]:
        """One side of one file of pairs: its table, and for each file the record of each row."""
        first = frames[0]
        hidden = {*self.drop_columns, self.label or "", id_column or ""}
        first.require(*([id_column] if id_column else []), *self.drop_columns)
        columns = [column for column in first.columns if column.startswith(prefix) and column not in hidden]
        if not columns:
            raise DataError(
                f"{first.path.name} has no columns that begin with '{prefix}'; its columns are "
                f"{', '.join(map(repr, first.columns))}.",
                where=f"{first.path}, line 1",
                fix=f"name the {'left' if label == 'A' else 'right'} side's columns {prefix}NAME, set "
                f"datasets.{self.name}.{'left' if label == 'A' else 'right'}_prefix, or give two tables",
            )
        known: dict[tuple[str, ...], str] = {}
        rows: dict[str, Entity] = {}
        found: list[list[str]] = []
        for part, frame in zip(("", "test"), frames, strict=False):
            values = zip(*(frame.column(column) for column in columns), strict=True)
            ids = record_ids(frame, id_column, unique=False) if id_column else None
            of_frame: list[str] = []
            for number, row in enumerate(values):
                entity = {column.removeprefix(prefix): value for column, value in zip(columns, row, strict=True)}
                # Without an id, equal tuples are one record, named by the row on which it appears first.
                record = known.setdefault(row, f"{part}{number}") if ids is None else ids[number]
                if rows.setdefault(record, entity) != entity:
                    raise DataError(
                        f"{frame.path.name} describes record '{record}' in two different ways.",
                        where=frame.at(number, id_column or columns[0]),
                        fix=f"one id, one record: correct the rows, or leave datasets.{self.name}."
                        f"{'left' if label == 'A' else 'right'}_id out",
                    )
                of_frame.append(record)
            found.append(of_frame)
        table = Table(label, self.title, tuple(column.removeprefix(prefix) for column in columns), rows)
        describe_table(self.name, table, first.path.name, notes)
        return table, found


class CsvTables:
    """Entity matching and blocking over two tables that have few labelled pairs, or none.

    Every left record is asked about: blocking ranks the right table; matching judges, for each left record, the right
    records that share its rarest words, found without any label.

    Args:
        name: The dataset's name.
        left: File of the left table.
        right: File of the right table.
        labels: File of known pairs; None for none: the few-shot set is then empty.
        test: File of test pairs of the same form; None to hold out ``test_fraction`` of the known ones.
        tasks: Which of ``em`` and ``blk``.
        left_id: The left table's id column; None for row numbers.
        right_id: The right table's id column.
        left_key: Column of ``labels`` that names the left record.
        right_key: Column of ``labels`` that names the right record.
        label: The label column of ``labels``; None if all its pairs are matches.
        others: What a candidate pair is that ``labels`` does not name: ``unknown``, or ``mismatch`` if ``labels`` lists
            every match there is.
        candidates: Right records per left record that matching judges.
        drop_columns: Columns that must not be shown.
        title: What the tables are about; reaches prompts.
        test_fraction: Share of the labelled pairs that is held out for testing, seeded; read without ``test``.
        few_shot: ``stratified`` | ``balanced`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs may be read; None for all but the held-out ones.
        few_shot_ids: CSV (``ltable_id``, ``rtable_id``) or JSON file of frozen ids, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of the sample, the splits and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        left: str | None = None,
        right: str | None = None,
        labels: str | None = None,
        test: str | None = None,
        tasks: Sequence[str] = TASKS,
        left_id: str | None = None,
        right_id: str | None = None,
        left_key: str = "left",
        right_key: str = "right",
        label: str | None = "label",
        others: Literal["unknown", "mismatch"] = "unknown",
        candidates: int = 5,
        drop_columns: Sequence[str] = (),
        title: str = "",
        test_fraction: float = 0.2,
        few_shot: str = "stratified",
        n_few_shot: int | None = 100,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        if others not in ("unknown", "mismatch"):
            raise ConfigError(
                f"Dataset '{name}' has no others='{others}'.",
                where=f"datasets.{name}.others",
                fix="choose unknown or mismatch",
            )
        if candidates < 1:
            raise ConfigError(
                f"Dataset '{name}' asks for {candidates} candidates.",
                where=f"datasets.{name}.candidates",
                fix=f"datasets.{name}.candidates=5",
            )
        self.name = name
        self.left = left
        self.right = right
        self.labels = labels
        self.test = test
        self.tasks = check_tasks(name, tasks, TASKS)
        self.left_id = left_id
        self.right_id = right_id
        self.left_key = left_key
        self.right_key = right_key
        self.label = label
        self.others = others
        self.candidates = candidates
        self.drop_columns = tuple(drop_columns)
        self.title = title
        self.test_fraction = check_fraction(name, "test_fraction", test_fraction)
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The files in use.

        Raises:
            ConfigError: If a table is not given.
            DataError: If a file is not there.
        """
        given = {"left": self.left, "right": self.right, **({"labels": self.labels} if self.labels else {})}
        return own_files(self.name, given, self.test, self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Read the tables and known pairs, find candidates, hold out, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        left_path, right_path = self.files()[:2]
        notes: list[str] = []
        left, right = _two_tables(
            self.name,
            (str(left_path), str(right_path)),
            (self.left_id, self.right_id),
            self.drop_columns,
            self.title,
            self.encoding,
            notes,
        )
        known = self._known(self.labels, left, right, notes)
        asked = self._known(self.test, left, right, notes)
        candidates = word_candidates(left, right, self.candidates)
        if self.others == "mismatch":
            known = {**dict.fromkeys((pair for pair in candidates if pair not in asked), False), **known}
        if self.test is None:
            asked = hold_out(self.name, known, self.test_fraction, self.data_seed)
        train: Judged = {pair: match for pair, match in known.items() if pair not in asked}
        # Nobody knows these labels, so the same pairs may serve as the pool and be asked as well.
        open_: Judged = {pair: None for pair in candidates if pair not in train and pair not in asked}
        notes.append(
            f"{self.name}: {len(candidates)} candidate pairs share rare words ({self.candidates} per left record at "
            f"most); {len(open_)} of them have no label: they are asked and not scored."
        )
        return _assemble_judged(self, left, right, {**train, **open_}, {**asked, **open_}, notes)

    def _known(self, path: str | None, left: Table, right: Table, notes: list[str]) -> Judged:
        if path is None:
            return {}
        frame = read_table(path, self.encoding)
        keys = named_pairs(frame, (self.left_key, self.right_key), (left, right))
        if self.label is None:
            return dict.fromkeys(keys, True)
        return {
            key: match for key, match in judge(self.name, frame, keys, self.label, notes).items() if match is not None
        }


def _two_tables(
    name: str,
    paths: tuple[str, str],
    id_columns: tuple[str | None, str | None],
    drop: Sequence[str],
    title: str,
    encoding: str,
    notes: list[str],
) -> tuple[Table, Table]:
    frames = [read_table(path, encoding) for path in paths]
    unknown = [column for column in drop if not any(column in frame.columns for frame in frames)]
    if unknown:
        frames[0].require(*unknown)
    tables = []
    for label, frame, id_column in zip("AB", frames, id_columns, strict=True):
        ids = record_ids(frame, id_column)
        columns, entities = frame.entities(drop=(*drop, *([id_column] if id_column else [])))
        tables.append(Table(label, title, columns, dict(zip(ids, entities, strict=True))))
        describe_table(name, tables[-1], frame.path.name, notes)
    return tables[0], tables[1]


def _assemble_judged(
    component: CsvPairs | CsvTables, left: Table, right: Table, train: Judged, test: Judged, notes: list[str]
) -> Source:
    """Assemble pairs of which some have no label: these are asked, and nothing is known about them."""
    name = component.name
    if component.few_shot not in FEW_SHOT:
        raise unknown_few_shot(name, component.few_shot, FEW_SHOT)
    known = [Pair(*key, match) for key, match in train.items() if match is not None]
    few_shot = sample_pairs(
        name,
        known,
        component.few_shot,
        2 * len(known) if component.n_few_shot is None else component.n_few_shot,
        component.data_seed,
        ids_path=component.few_shot_ids,
    )
    classes = {known[place].match for place in few_shot}
    if len(classes) == 1:
        lacking = "mismatch" if True in classes else "match"
        notes.append(f"{name}: no readable label is {lacking}: a model cannot learn what it is; add some.")
    notes += say_without_labels(name, len(few_shot))
    source = assemble_pairs(
        name=name,
        tasks=component.tasks,
        left=left,
        right=right,
        # The assembler wants a label for each; the gold of those that have none is removed below.
        train=[*known, *(Pair(*key, False) for key, match in train.items() if match is None)],
        valid=(),
        test=[Pair(*key, bool(match)) for key, match in test.items()],
        few_shot=few_shot,
        data_seed=component.data_seed,
        title=component.title,
        max_train=component.max_train,
        max_test=component.max_test,
        notes=notes,
    )
    unknown = {
        f"{name}.em/{part}/{pair_id(*key)}"
        for part, judged in (("train", train), ("test", test))
        for key, match in judged.items()
        if match is None
    }
    gold = {
        unit: {query: answers for query, answers in hidden.items() if query not in unknown}
        for unit, hidden in source.gold.items()
    }
    return Source(source.dataset, source.units, gold, source.notes)
