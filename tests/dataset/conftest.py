"""Small files in the published layouts, made on the fly, and the folder of real benchmark data where there is one."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from meld.dataset.base import Source


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """Write a CSV file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture
def magellan_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build a Magellan folder: 30 records a side, 60 training, 20 valid and 20 test pairs; every fourth pair a match.

    ``flip`` says which pairs get the opposite label, by (left id, right id).
    """

    def build(flip: Callable[[str, str], bool] = lambda left, right: False, root: str = "data") -> Path:
        base = tmp_path / root / "em" / "Mini"
        for side in "AB":
            write_csv(
                base / f"table{side}.csv",
                ("id", "cluster", "name", "price"),
                [(str(row), f"secret{row}", f"{side} thing {row}", f"0{row}.50") for row in range(30)],
            )
        pairs = [(left, (left + shift) % 30, shift == 0) for left in range(30) for shift in (0, 3, 7, 11)]
        # 37 and 120 share no factor, so this is a permutation.
        pairs = [pairs[(place * 37) % len(pairs)] for place in range(len(pairs))]
        for name, part in (("train", pairs[:60]), ("valid", pairs[60:80]), ("test", pairs[80:100])):
            rows = [
                (str(left), str(right), str(int(match != flip(str(left), str(right))))) for left, right, match in part
            ]
            write_csv(base / f"{name}.csv", ("ltable_id", "rtable_id", "label"), rows)
        return tmp_path / root

    return build


@pytest.fixture
def dirty_clean_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build a dirty/clean folder of 25 tuples; ``truth`` may replace the clean value of a (row, column)."""

    def build(truth: Callable[[int, str, str], str] = lambda row, column, value: value, root: str = "data") -> Path:
        base = tmp_path / root / "dc" / "mini"
        columns = ("city", "zip", "phone")
        clean = [(f"town{row % 5}", f"0{row % 5}000", f"555-{row}") for row in range(25)]
        dirty = [list(values) for values in clean]
        for row in range(0, 25, 3):
            dirty[row][row % 3] += "x"
        write_csv(base / "dirty.csv", ("key", *columns), [(f"k{row}", *values) for row, values in enumerate(dirty)])
        write_csv(
            base / "clean.csv",
            ("Key", "City", "Zip", "Phone"),
            [
                (f"k{row}", *(truth(row, column, value) for column, value in zip(columns, values, strict=True)))
                for row, values in enumerate(clean)
            ],
        )
        return tmp_path / root

    return build


@pytest.fixture
def imputation_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build an imputation folder: 30 training (8 few-shot), 10 test records; ``truth`` may replace a target's value."""

    def build(truth: Callable[[int, str, str], str] = lambda row, column, value: value, root: str = "data") -> Path:
        base = tmp_path / root / "di" / "Mini"
        rows = [
            (
                f"r{row}",
                f"` shop {row} '",
                truth(row, "city", f"City{row % 6}"),
                truth(row, "state", f"State{row % 2}"),
                f"class{row}",
            )
            for row in range(40)
        ]
        write_csv(base / "table.csv", ("id", "name", "city", "state", "class"), rows)
        masks = ("city", "state", "city|state", "")
        write_csv(
            base / "split.csv",
            ("id", "split", "few_shot", "masked"),
            [
                (
                    f"r{row}",
                    "test" if row >= 30 else "train",
                    str(int(row % 4 == 0)),
                    masks[row % 4] if row >= 30 else "",
                )
                for row in range(40)
            ],
        )
        return tmp_path / root

    return build


@pytest.fixture
def real_data() -> str:
    """The folder of published benchmark data."""
    folder = os.environ.get("MELD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set MELD_DATA to the folder of published benchmark data (paths.data)")
    return folder


@pytest.fixture
def check_sound() -> Callable[[Source], None]:
    """The check of what holds for every source."""
    return _check_sound


def _check_sound(source: Source) -> None:
    """What holds for every source: ids, references, shared entities, gold's keys."""
    for unit, data in source.units.items():
        assert data.unit == unit == f"{data.dataset}.{data.task}"
        readable = [sample.id for sample in (*data.train, *data.dev)]
        assert len(set(readable)) == len(readable)
        hidden = {query.id for query in (*data.pool, *data.test)}
        assert not hidden & set(readable)
        assert set(source.gold[unit]) <= hidden
        assert all(answers for answers in source.gold[unit].values())
        for part in (data.pool, data.test):
            assert len({query.id for query in part}) == len(part)
        for query in (*(sample.query for sample in (*data.train, *data.dev)), *data.pool, *data.test):
            assert query.unit == unit
            assert query.task == data.task
            assert query.id.startswith(f"{unit}/")
            for entity, row in zip(query.entities, query.rows, strict=True):
                name, record = row.split(":", 1)
                assert tuple(entity) == data.tables[name].columns
                shown = data.tables[name].rows[record]
                assert all(entity[column] in (shown[column], "") for column in entity)
        for query in (*data.pool, *data.test):
            for entity, row in zip(query.entities, query.rows, strict=True):
                assert entity is data.tables[row.split(":", 1)[0]].rows[row.split(":", 1)[1]]
