"""Users' own tables for cleaning and imputation: a dirty table with what is known of it, or one with empty cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset import cells, masking
from meld.dataset.base import Source, check_tasks
from meld.dataset.cells import assemble_dirty_clean, sample_tuples
from meld.dataset.csv_text import TextFrame
from meld.dataset.few_shot import choose, derive_rng, split_dev, unknown_few_shot
from meld.dataset.masking import Split, assemble_imputation, mask_seeded, sample_records
from meld.dataset.own import check_fraction, describe_table, own_files, record_ids, say_without_labels
from meld.dataset.table_files import read_table
from meld.errors import ConfigError, DataError
from meld.types import Entity, Gold, Query, Sample, Table, UnitData

RECORD_FEW_SHOT = ("stratified", "uniform", "ids")


class CsvDirty:
    """Error detection and cleaning of one dirty table: with its clean version, some known cells, or neither.

    With ``clean``, ``n_few_shot`` tuples are labelled and the others are tested. With ``labels``, the known cells are
    the labels, a share of which is held out and scored; every other cell is asked and not scored.

    Args:
        name: The dataset's name.
        dirty: File of the dirty table.
        clean: File of the clean table; None where there is none.
        labels: File of known cells: which row, which column, and the right value; None where there is none.
        tasks: Which of ``ed`` and ``dc``.
        id: The id column, by which ``clean`` and ``labels`` are aligned; None for the row's number from 0.
        row_column: Column of ``labels`` with the row's id.
        column_column: Column of ``labels`` with the cell's column.
        value_column: Column of ``labels`` with the right value; equal to the dirty one, it says the cell is correct.
        drop_columns: Columns besides ``id`` that are neither shown nor asked about.
        title: What the table is about; reaches prompts.
        test_fraction: Share of the known cells that is held out for testing, seeded; read with ``labels``.
        few_shot: ``uniform`` | ``ids`` (see ``meld.dataset.cells.sample_tuples``); read with ``clean``.
        n_few_shot: How many labelled tuples; read with ``clean``.
        few_shot_ids: CSV (column ``row``) or JSON file of frozen row numbers, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test tuples; None for all.
        data_seed: Seed of the sample, the splits and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        dirty: str | None = None,
        clean: str | None = None,
        labels: str | None = None,
        tasks: Sequence[str] = cells.TASKS,
        id: str | None = None,
        row_column: str = "row",
        column_column: str = "column",
        value_column: str = "value",
        drop_columns: Sequence[str] = (),
        title: str = "",
        test_fraction: float = 0.2,
        few_shot: str = "uniform",
        n_few_shot: int = 20,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        if clean is not None and labels is not None:
            raise ConfigError(
                f"Dataset '{name}' is given both a clean table and known cells.",
                where=f"datasets.{name}.clean and .labels",
                fix="give one of them: the clean table knows every cell",
            )
        self.name = name
        self.dirty = dirty
        self.clean = clean
        self.labels = labels
        self.tasks = check_tasks(name, tasks, cells.TASKS)
        self.id = id
        self.row_column = row_column
        self.column_column = column_column
        self.value_column = value_column
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
            ConfigError: If no dirty table is given.
            DataError: If a file is not there.
        """
        given = {"dirty": self.dirty}
        given.update({"clean": self.clean} if self.clean else {"labels": self.labels} if self.labels else {})
        return own_files(self.name, given, None, self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Read the table and what is known of it, sample, and assemble the units.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        dirty_path = self.files()[0]
        if self.few_shot not in cells.FEW_SHOT:
            raise unknown_few_shot(self.name, self.few_shot, cells.FEW_SHOT)
        frame = read_table(dirty_path, self.encoding)
        frame.require(*self.drop_columns)
        ids = record_ids(frame, self.id)
        columns, entities = frame.entities(drop=(*self.drop_columns, *([self.id] if self.id else [])))
        notes: list[str] = []
        shown = Table("T", self.title, columns, dict(zip(ids, entities, strict=True)))
        describe_table(self.name, shown, frame.path.name, notes)
        if self.clean is not None:
            clean = self._clean(frame, ids, columns, notes)
            few_shot = sample_tuples(
                self.name, len(frame), self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
            )
            return self._assemble(columns, entities, clean, few_shot, notes)
        known = {} if self.labels is None else self._known_cells(ids, columns)
        clean = [
            tuple(known.get((row, column), entity[column]) for column in columns) for row, entity in enumerate(entities)
        ]
        everything = self._assemble(columns, entities, clean, (), ())
        return self._with_known(everything, known, entities, notes)

    def _assemble(
        self,
        columns: Sequence[str],
        entities: Sequence[Entity],
        clean: Sequence[Sequence[str]],
        few_shot: Sequence[int],
        notes: Sequence[str],
    ) -> Source:
        return assemble_dirty_clean(
            name=self.name,
            tasks=self.tasks,
            columns=columns,
            dirty=entities,
            clean=clean,
            few_shot=few_shot,
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=notes,
        )

    def _clean(
        self, dirty: TextFrame, ids: Sequence[str], columns: Sequence[str], notes: list[str]
    ) -> list[tuple[str, ...]]:
        """The clean values in the order of the dirty table's rows and shown columns."""
        clean = read_table(self.clean or "", self.encoding)
        if all(column in clean.columns for column in columns):
            kept = [clean.columns.index(column) for column in columns]
        elif len(clean.columns) == len(dirty.columns):
            kept = [dirty.columns.index(column) for column in columns]
            notes.append(f"{self.name}: the two files name columns differently; they were aligned by position.")
        else:
            clean.require(*columns)
        if self.id is None:
            if len(clean) != len(dirty):
                raise DataError(
                    f"{dirty.path.name} has {len(dirty)} rows, {clean.path.name} has {len(clean)}: "
                    "they cannot be aligned by position.",
                    where=f"{dirty.path} and {clean.path}",
                    fix="row i of one must be row i of the other, or name the id column: "
                    f"datasets.{self.name}.id=COLUMN",
                )
            return [tuple(row[place] for place in kept) for row in clean.rows]
        truth = dict(zip(record_ids(clean, self.id), clean.rows, strict=True))
        lost = next((row for row, record in enumerate(ids) if record not in truth), None)
        if lost is not None:
            raise DataError(
                f"{clean.path.name} lacks record '{ids[lost]}' of {dirty.path.name}.",
                where=dirty.at(lost, self.id),
                fix="every dirty row needs its clean one",
            )
        return [tuple(truth[record][place] for place in kept) for record in ids]

    def _known_cells(self, ids: Sequence[str], columns: Sequence[str]) -> dict[tuple[int, str], str]:
        """(row, column) to the right value."""
        frame = read_table(self.labels or "", self.encoding)
        parts = [frame.column(column) for column in (self.row_column, self.column_column, self.value_column)]
        places = {record: row for row, record in enumerate(ids)}
        known: dict[tuple[int, str], str] = {}
        for number, (record, column, value) in enumerate(zip(*parts, strict=True)):
            if record not in places:
                raise DataError(
                    f"{frame.path.name} names row '{record}', which the dirty table does not have.",
                    where=frame.at(number, self.row_column),
                    fix="give the row's id, or its number from 0 where there is no id column",
                )
            if column not in columns:
                raise DataError(
                    f"{frame.path.name} names column '{column}', which the dirty table does not show.",
                    where=frame.at(number, self.column_column),
                    fix=f"choose some of {list(columns)}",
                )
            if known.setdefault((places[record], column), value) != value:
                raise DataError(
                    f"{frame.path.name} gives a cell two different values.",
                    where=frame.at(number, self.value_column),
                    fix="keep one of them",
                )
        return known

    def _with_known(
        self, everything: Source, known: Mapping[tuple[int, str], str], entities: Sequence[Entity], notes: list[str]
    ) -> Source:
        """Turn the queries of known cells into samples; only the held-out ones are scored."""
        places = list(known)
        held_out = set(
            choose(places, round(self.test_fraction * len(places)), derive_rng(self.data_seed, "held_out", self.name))
        )
        readable = [cell for cell in places if cell not in held_out]
        # Cells of one tuple stay together, so that dev asks about tuples that training has not seen.
        wrong: dict[int, bool] = {}
        for row, column in readable:
            wrong[row] = wrong.get(row, False) or known[row, column] != entities[row][column]
        rows = list(wrong)
        fit_rows, _ = split_dev(rows, [wrong[row] for row in rows], derive_rng(self.data_seed, "dev", self.name))
        fitted = set(fit_rows)
        units: dict[str, UnitData] = {}
        gold: dict[str, Gold] = {}
        for unit, data in everything.units.items():

            def sample(cell: tuple[int, str], unit: str = unit, data: UnitData = data) -> Sample:
                row, column = cell
                value = known[cell]
                label = value if data.task == "dc" else "correct" if value == entities[row][column] else "error"
                query = Query(
                    f"{unit}/{row}/{column}", unit, data.task, (entities[row],), (f"T:{row}",), column, self.title
                )
                return Sample(query, label)

            samples = {cell: sample(cell) for cell in readable}
            taken = {found.id for found in samples.values()}
            units[unit] = UnitData(
                unit=unit,
                dataset=data.dataset,
                task=data.task,
                tables=data.tables,
                train=tuple(found for cell, found in samples.items() if cell[0] in fitted),
                dev=tuple(found for cell, found in samples.items() if cell[0] not in fitted),
                pool=tuple(query for query in data.pool if query.id not in taken),
                test=tuple(query for query in data.test if query.id not in taken),
            )
            asked = {query.id for query in (*units[unit].pool, *units[unit].test)}
            scored = {f"{unit}/{row}/{column}" for row, column in held_out} & asked
            gold[unit] = {query: answers for query, answers in everything.gold[unit].items() if query in scored}
        said = (
            f"{self.name}: {len(readable)} known cells may be read, in {len(rows)} tuples; {len(held_out)} are held "
            "out; all other cells are asked and not scored."
        )
        return Source(self.name, units, gold, (*notes, said, *say_without_labels(self.name, len(readable))))


class CsvCells:
    """Imputation of the empty cells of one table: known cells of the same columns are the labels.

    Args:
        name: The dataset's name.
        table: File of the table.
        targets: The columns to fill.
        test: File that names the rows to hold out, in a column called as ``id`` or ``row``; None for
            ``test_fraction``.
        tasks: ``[di]``.
        id: The id column; None for row numbers from 0.
        missing: Texts of the targets that mean an empty cell, besides the empty text: ``NA`` is a value unless named
            here.
        drop_columns: Columns besides ``id`` that must not be shown.
        title: What the table is about; reaches prompts.
        test_fraction: Share of the rows with all targets known that is held out for testing, seeded.
        mask_fraction: Chance of a held-out row's target to be masked; at least one is.
        few_shot: ``stratified`` | ``uniform`` | ``ids`` (see ``meld.dataset.masking.sample_records``).
        n_few_shot: How many labelled rows may be read; None for all but the held-out ones.
        few_shot_ids: CSV (column ``id`` or ``row``) or JSON file of frozen ids, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test rows; None for all.
        data_seed: Seed of the sample, the splits and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        table: str | None = None,
        targets: Sequence[str] = (),
        test: str | None = None,
        tasks: Sequence[str] = masking.TASKS,
        id: str | None = None,
        missing: Sequence[str] = (),
        drop_columns: Sequence[str] = (),
        title: str = "",
        test_fraction: float = 0.2,
        mask_fraction: float = 1.0,
        few_shot: str = "stratified",
        n_few_shot: int | None = 60,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.table = table
        self.targets = tuple(targets)
        self.test = test
        self.tasks = check_tasks(name, tasks, masking.TASKS)
        self.id = id
        self.missing = tuple(missing)
        self.drop_columns = tuple(drop_columns)
        self.title = title
        self.test_fraction = check_fraction(name, "test_fraction", test_fraction)
        self.mask_fraction = check_fraction(name, "mask_fraction", mask_fraction)
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
            ConfigError: If no table is given.
            DataError: If a file is not there.
        """
        return own_files(self.name, {"table": self.table}, self.test, self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Read the table, hold out, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        frame = read_table(self.files()[0], self.encoding)
        frame.require(*self.targets, *self.drop_columns)
        ids = record_ids(frame, self.id)
        columns, entities = frame.entities(drop=(*self.drop_columns, *([self.id] if self.id else [])))
        hidden = [target for target in self.targets if target not in columns]
        if hidden or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(
                f"Dataset '{self.name}' "
                + (
                    f"is to fill '{hidden[0]}', which is not shown."
                    if hidden
                    else "names a target twice."
                    if self.targets
                    else "has no target column."
                ),
                where=f"datasets.{self.name}.targets",
                fix=f"choose some of {list(columns)}",
            )
        if self.few_shot not in RECORD_FEW_SHOT:
            raise unknown_few_shot(self.name, self.few_shot, RECORD_FEW_SHOT)
        notes: list[str] = []
        empty = {"", *self.missing}
        records = {
            record: {
                column: "" if column in self.targets and value in empty else value for column, value in entity.items()
            }
            for record, entity in zip(ids, entities, strict=True)
        }
        describe_table(self.name, Table("T", self.title, columns, records), frame.path.name, notes)
        split = self._split(frame, records, notes)
        few_shot = sample_records(
            self.name,
            split,
            {record: records[record][self.targets[0]] for record in split.train},
            self.few_shot,
            len(records) if self.n_few_shot is None else self.n_few_shot,
            self.data_seed,
            id_column=self.id or "row",
            ids_path=self.few_shot_ids,
        )
        notes += say_without_labels(self.name, len(few_shot))
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

    def _split(self, frame: TextFrame, records: Mapping[str, Entity], notes: list[str]) -> Split:
        gaps = {
            record: tuple(target for target in self.targets if not entity[target]) for record, entity in records.items()
        }
        complete = [record for record, empty in gaps.items() if not empty]
        open_ = sum(map(len, gaps.values()))
        notes.append(
            f"{self.name}: {open_} empty cells of {list(self.targets)} in {len(records) - len(complete)} rows are "
            f"asked and not scored; {len(complete)} rows know every target."
        )
        if self.test is None:
            n_test = round(self.test_fraction * len(complete))
            held_out = mask_seeded(self.name, complete, self.targets, n_test, self.mask_fraction, self.data_seed).test
        else:
            named = read_table(self.test, self.encoding)
            key = self.id if self.id in named.columns and self.id is not None else "row"
            held_out = {}
            for number, record in enumerate(named.column(key)):
                if record not in records:
                    raise DataError(
                        f"{named.path.name} names row '{record}', which {frame.path.name} does not have.",
                        where=named.at(number, key),
                        fix="give ids of the table, or row numbers from 0 where there is no id column",
                    )
                held_out[record] = self.targets
        # What is asked: the held-out cells and the empty ones, in the order of the table.
        test = {record: held_out.get(record, gaps[record]) for record in records if record in held_out or gaps[record]}
        return Split(tuple(record for record in complete if record not in test), test)
