"""Tables that are odd but not wrong, through the whole chain: every unit gets a score, or an honest zero."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPTS = ("Zürich", "Αθήνα", "Москва", "東京", "القاهرة", "🙂 café")
ODD = (
    "NaN",
    "inf",
    "-1e999",
    "06000",
    "NA",
    "null",
    'a "quoted", cell',
    "two\nlines",
    "\u202eright to left",
    "a\u00a0b",
)


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def added(option: str, name: str, **values: str) -> list[str]:
    return [
        f"+dataset@datasets.{name}={option}",
        f"datasets.{name}.name={name}",
        *(f"datasets.{name}.{key}={value}" for key, value in values.items()),
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_odd_tables_run_through(meld: Run, tmp_path: Path) -> None:
    columns = ("text", "other")
    one_class = write(
        tmp_path / "one_class.csv",
        [f"{side}_{name}" for side in ("left", "right") for name in columns] + ["label"],
        [(f"{SCRIPTS[i % 6]} {i}", ODD[i % 10], f"{SCRIPTS[i % 6]} {i}", "", "1") for i in range(20)],
    )
    wide = [f"c{place}" for place in range(200)]
    nulls = write(
        tmp_path / "nulls.csv",
        ("city", "empty", *wide),
        [(SCRIPTS[i % 6] if i % 4 else "", "", *("x" * (i % 7) for _ in wide)) for i in range(16)],
    )
    large = write(
        tmp_path / "large.csv",
        ("kind", "note"),
        [("only" if i % 3 else "", "long " * (200_000 if i == 1 else 3)) for i in range(12)],
    )
    rows = [(SCRIPTS[i % 6], ODD[i % 10], "") for i in range(16)]
    clean = write(tmp_path / "clean.csv", ("a", "b", "empty"), rows)
    unlabelled = {
        side: write(tmp_path / f"{side}.csv", columns, [(f"{SCRIPTS[i % 6]} {i}", ODD[i % 10]) for i in range(12)])
        for side in ("left", "right")
    }
    done = meld(
        "suite=none",
        "k=1",
        "trainer=debug",
        "logger=none",
        "limits.samples=12",
        "limits.router_queries=2",
        "limits.alignments=8",
        *added("csv_pairs", "one_class", pairs=one_class, tasks="[em,blk]"),
        *added("csv_cells", "nulls", table=nulls, targets="[city]"),
        *added("csv_cells", "large", table=large, targets="[kind]"),
        *added("csv_dirty", "spotless", dirty=clean, clean=clean, n_few_shot="4"),
        *added("csv_tables", "unlabelled", **unlabelled),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert "failures" not in results
    units = {f"{row['dataset']}.{row['task']}" for row in results["rows"] if row["system"] == "meld"}
    # Nothing of the unlabelled tables can be scored: the answers are what one wants of them.
    assert {"one_class.em", "nulls.di", "large.di", "spotless.ed", "spotless.dc"} <= units
    answered = {path.stem for path in (run / "predictions").glob("*.parquet")}
    assert {"unlabelled.em", "unlabelled.blk"} <= answered
