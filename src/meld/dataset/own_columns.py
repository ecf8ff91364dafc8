"""Users' own tables for column type annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks
from meld.dataset.few_shot import (
    choose,
    choose_stratified,
    derive_rng,
    pair_id,
    pick_ids,
    read_ids,
    split_dev,
    unknown_few_shot,
)
from meld.dataset.own import check_fraction, own_files, say_without_labels, some_of
from meld.dataset.table_files import read_table
from meld.errors import ConfigError, DataError
from meld.types import Entity, Query, Sample, UnitData

FEW_SHOT = ("stratified", "ids")


class CsvColumns:
    """Column type annotation of given tables.

    Args:
        name: The dataset's name.
        tables: Files of the tables; the file's name (with or without its suffix) names the table in ``labels``.
        labels: File of known types: table, column, type. Columns it does not name, or for which it has no type, are
            asked and not scored. None for none: the few-shot set is then empty.
        test: File of the same form with the columns to hold out; None for ``test_fraction``.
        types: The types to choose from; empty for those of the few-shot columns.
        tasks: ``[cta]``.
        table_column: Column of ``labels`` with the table's name.
        column_column: Column of ``labels`` with the column's header.
        type_column: Column of ``labels`` with the type.
        n_values: Distinct values of a column that are shown.
        title: What the tables are about; empty for each file's name.
        test_fraction: Share of the labelled columns that is held out for testing, seeded; read without ``test``.
        few_shot: ``stratified`` | ``ids``.
        n_few_shot: How many labelled columns may be read; None for all but the held-out ones.
        few_shot_ids: CSV (``table``, ``column``) or JSON file of frozen ids, for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool columns; None for all.
        max_test: Limit on test columns; None for all.
        data_seed: Seed of the sample, the splits and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        tables: Sequence[str] = (),
        labels: str | None = None,
        test: str | None = None,
        types: Sequence[str] = (),
        tasks: Sequence[str] = ("cta",),
        table_column: str = "table",
        column_column: str = "column",
        type_column: str = "type",
        n_values: int = 10,
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
        self.tables = tuple(tables)
        self.labels = labels
        self.test = test
        self.types = tuple(types)
        self.tasks = check_tasks(name, tasks, ("cta",))
        self.table_column = table_column
        self.column_column = column_column
        self.type_column = type_column
        self.n_values = n_values
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
            ConfigError: If no table is given, or two have the same name.
            DataError: If a file is not there.
        """
        names = [Path(table).name for table in self.tables]
        twice = sorted({file for file in names if names.count(file) > 1})
        if not names or twice:
            raise ConfigError(
                f"Dataset '{self.name}' has " + (f"two tables called {twice[0]}." if twice else "no tables."),
                where=f"datasets.{self.name}.tables",
                fix=f"datasets.{self.name}.tables=[FILE,...] (CSV, Parquet or JSON lines), each with a name of its own",
            )
        given: dict[str, str | None] = {f"tables[{place}]": table for place, table in enumerate(self.tables)}
        given.update({"labels": self.labels} if self.labels else {})
        return own_files(self.name, given, self.test, self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Read the tables and the known types, hold out, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        self.files()
        if self.few_shot not in FEW_SHOT:
            raise unknown_few_shot(self.name, self.few_shot, FEW_SHOT)
        notes: list[str] = []
        shown = self._columns(notes)
        known = self._known(self.labels, shown)
        labelled = [place for place, label in known.items() if label]
        if self.test is not None:
            held_out = self._known(self.test, shown)
        else:
            count = round(self.test_fraction * len(labelled))
            picked = choose(labelled, count, derive_rng(self.data_seed, "held_out", self.name))
            held_out = {place: known[place] for place in picked}
        train = [place for place in labelled if place not in held_out]
        few_shot = self._few_shot(train, known)
        readable = set(few_shot)
        fit, dev = split_dev(
            few_shot, [known[place] for place in few_shot], derive_rng(self.data_seed, "dev", self.name)
        )
        asked = [place for place in shown if place in held_out or not known.get(place)]
        pool = choose(
            [place for place in train if place not in readable],
            self.max_train,
            derive_rng(self.data_seed, "pool", self.name),
        )
        test = choose(asked, self.max_test, derive_rng(self.data_seed, "test", self.name))
        unit = f"{self.name}.cta"
        types = self.types or tuple(sorted({known[place] for place in few_shot}))
        strange = sorted({known[place] for place in few_shot} - set(types))
        if strange:
            raise DataError(
                f"The few-shot columns of '{self.name}' have the type '{strange[0]}', which is not among the types.",
                where=f"datasets.{self.name}.types",
                fix="add it to the types, or leave them out",
            )

        def query(place: tuple[str, str], part: str) -> Query:
            entity, title = shown[place]
            return Query(f"{unit}/{part}/{pair_id(*place)}", unit, "cta", (entity,), title=title)

        data = UnitData(
            unit=unit,
            dataset=self.name,
            task="cta",
            tables={},
            train=tuple(Sample(query(place, "train"), known[place]) for place in fit),
            dev=tuple(Sample(query(place, "train"), known[place]) for place in dev),
            pool=tuple(query(place, "train") for place in pool),
            test=tuple(query(place, "test") for place in test),
            options=types,
        )
        gold = {query(place, "train").id: (known[place],) for place in pool}
        gold.update({query(place, "test").id: (held_out[place],) for place in test if held_out.get(place)})
        notes += say_without_labels(self.name, len(few_shot))
        if not self.types:
            notes.append(f"{self.name}: the types to choose from are the {len(types)} of the few-shot columns.")
        notes.append(
            f"{self.name}: {len(few_shot)} few-shot columns, {len(fit)} for training and {len(dev)} held out; "
            f"{len(pool)} unlabelled columns in the pool, {len(test)} test columns."
        )
        return Source(self.name, {unit: data}, {unit: gold}, tuple(notes))

    def _columns(self, notes: list[str]) -> dict[tuple[str, str], tuple[Entity, str]]:
        """(file, header) to the query's entity and title, in the order of files and columns."""
        shown: dict[tuple[str, str], tuple[Entity, str]] = {}
        for path in map(Path, self.tables):
            frame = read_table(path, self.encoding)
            title = self.title or " ".join(path.stem.replace("_", " ").replace("-", " ").split())
            headers = [column for column in frame.columns if column]
            blank = []
            for header in headers:
                values = list(dict.fromkeys(value for value in frame.column(header) if value))
                blank += [] if values else [header]
                entity = {
                    "column": header,
                    "values": " | ".join(values[: self.n_values]),
                    "other columns": ", ".join(other for other in headers if other != header),
                }
                shown[path.name, header] = (entity, title)
            if blank:
                notes.append(f"{self.name}: {path.name} has columns without any value: {some_of(blank)}.")
        return shown

    def _known(
        self, path: str | None, shown: Mapping[tuple[str, str], tuple[Entity, str]]
    ) -> dict[tuple[str, str], str]:
        """(file, header) to the type, empty where the file has none."""
        if path is None:
            return {}
        frame = read_table(path, self.encoding)
        parts = [frame.column(column) for column in (self.table_column, self.column_column, self.type_column)]
        files = {name: file.name for file in map(Path, self.tables) for name in (file.stem, file.name)}
        found: dict[tuple[str, str], str] = {}
        for number, (table, header, label) in enumerate(zip(*parts, strict=True)):
            if table not in files:
                raise DataError(
                    f"{frame.path.name} names table '{table}', which is not among the tables.",
                    where=frame.at(number, self.table_column),
                    fix=f"use the file's name, one of {some_of([Path(file).name for file in self.tables])}",
                )
            place = (files[table], header)
            if place not in shown:
                raise DataError(
                    f"{frame.path.name} names column '{header}', which {files[table]} does not have.",
                    where=frame.at(number, self.column_column),
                    fix="use the column's header",
                )
            if found.setdefault(place, label) != label:
                raise DataError(
                    f"{frame.path.name} gives a column two different types.",
                    where=frame.at(number, self.type_column),
                    fix="keep one of them",
                )
        return found

    def _few_shot(
        self, train: Sequence[tuple[str, str]], known: Mapping[tuple[str, str], str]
    ) -> list[tuple[str, str]]:
        if self.few_shot == "ids":
            wanted = read_ids(self.few_shot_ids, ("table", "column"), self.name)
            places = pick_ids(wanted, [pair_id(*place) for place in train], self.few_shot_ids, self.name)
            return [train[place] for place in places]
        count = len(train) if self.n_few_shot is None else self.n_few_shot
        rng = derive_rng(self.data_seed, "few_shot", self.name)
        return choose_stratified(train, [known[place] for place in train], count, rng)
