"""Load and serialise tables of 100,000 rows in every layout: seconds and peak memory, a process for each case.

    python benchmarks/large_tables.py --out docs/results/large_tables.md

A case goes from files to what the encoder reads, as a run does: read the files, digest the unit for its key, write the
*data* artifact, read it back and write the *serialize* artifact. The tables are made up by this script and drawn from a
fixed seed. Exit code 1 if a case needs more than 60 seconds or 2 GB.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

SECONDS, GIGABYTES = 60.0, 2.0
WORDS = [
    f"{a}{b}" for a in ("al", "bri", "cor", "den", "fal", "gor", "hel", "mar") for b in ("ta", "no", "ler", "s", "vin")
]


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def phrase(rng: random.Random, words: int) -> str:
    """Some made-up words."""
    return " ".join(WORDS[int(rng.random() * len(WORDS))] for _ in range(words))


def products(rows: int, seed: int) -> Iterable[tuple[object, ...]]:
    """Records of five columns, about 150 characters each."""
    rng = random.Random(seed)
    for row in range(rows):
        yield row, f"{phrase(rng, 6)} {seed}{row}", phrase(rng, 15), phrase(rng, 1), f"{rng.random() * 900:.2f}"


PRODUCT = ("id", "title", "description", "brand", "price")


def pairs(rows: int, count: int, seed: int) -> Iterable[tuple[object, ...]]:
    """Distinct pairs of records, every fifth a match."""
    rng = random.Random(seed)
    for place in range(count):
        left = place % rows
        match = place % 5 == 0
        yield left, left if match else (left + 1 + int(rng.random() * (rows - 1))) % rows, int(match)


def magellan(folder: Path, rows: int) -> dict[str, Any]:
    """Two tables of ``rows`` records with ``rows`` labelled pairs, for matching and blocking."""
    base = folder / "em" / "Large"
    for side, seed in (("A", 1), ("B", 2)):
        write(base / f"table{side}.csv", PRODUCT, products(rows, seed))
    header = ("ltable_id", "rtable_id", "label")
    for name, share, seed in (("train", 0.6, 3), ("valid", 0.2, 4), ("test", 0.2, 5)):
        write(base / f"{name}.csv", header, pairs(rows, round(share * rows), seed))
    return {
        "_target_": "meld.dataset.magellan.Magellan",
        "root": str(folder),
        "folder": "em/Large",
        "tasks": ["em", "blk"],
    }


def csv_pairs(folder: Path, rows: int) -> dict[str, Any]:
    """One file of ``rows`` labelled pairs with all columns of both records."""
    left, right = products(rows, 1), products(rows, 2)
    columns = [f"{side}_{name}" for side in ("left", "right") for name in PRODUCT[1:]]
    lines = ((*a[1:], *b[1:], int(i % 5 == 0)) for i, (a, b) in enumerate(zip(left, right, strict=True)))
    write(folder / "pairs.csv", (*columns, "label"), lines)
    return {"_target_": "meld.dataset.own_pairs.CsvPairs", "pairs": str(folder / "pairs.csv"), "tasks": ["em"]}


def csv_tables(folder: Path, rows: int) -> dict[str, Any]:
    """Two tables of ``rows`` records without labels: candidates are found, everything is asked."""
    for side, seed in (("left", 1), ("right", 2)):
        write(folder / f"{side}.csv", PRODUCT, products(rows, seed))
    places = {side: str(folder / f"{side}.csv") for side in ("left", "right")}
    return {
        "_target_": "meld.dataset.own_pairs.CsvTables",
        **places,
        "left_id": "id",
        "right_id": "id",
        "tasks": ["em", "blk"],
    }


def dirty_clean(folder: Path, rows: int) -> dict[str, Any]:
    """A dirty and a clean table of ``rows`` tuples of four cells, for detection and cleaning."""
    base = folder / "dc" / "large"
    clean = list(products(rows, 1))
    rng = random.Random(9)
    dirty = [(row[0], *(f"{v}x" if rng.random() < 0.05 else v for v in row[1:])) for row in clean]
    write(base / "dirty.csv", PRODUCT, dirty)
    write(base / "clean.csv", PRODUCT, clean)
    return {
        "_target_": "meld.dataset.dirty_clean.DirtyClean",
        "root": str(folder),
        "folder": "dc/large",
        "tasks": ["ed", "dc"],
        "id_columns": ["id"],
    }


def csv_cells(folder: Path, rows: int) -> dict[str, Any]:
    """A table of ``rows`` records, a tenth of whose brands are missing."""
    rng = random.Random(9)
    lines = ((*row[:3], "" if rng.random() < 0.1 else row[3], row[4]) for row in products(rows, 1))
    write(folder / "table.csv", PRODUCT, lines)
    return {
        "_target_": "meld.dataset.own_cells.CsvCells",
        "table": str(folder / "table.csv"),
        "targets": ["brand"],
        "id": "id",
    }


CASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "magellan": magellan,
    "csv_pairs": csv_pairs,
    "csv_tables": csv_tables,
    "dirty_clean": dirty_clean,
    "csv_cells": csv_cells,
}


def measure(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load, digest, write, read back and serialise a dataset in this process."""
    from meld.config.build import build
    from meld.config.compose import load_config
    from meld.config.tree import plain
    from meld.dataset.io import digest_unit, save_gold, save_unit
    from meld.progress import Silent
    from meld.stages import serialize
    from meld.stages.base import Context

    tree = plain(load_config([]))
    serializer = build(tree["serializer"], place="serializer")
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, float] = {}
    started = begin = time.perf_counter()
    cpu = time.process_time()

    def lap(name: str) -> None:
        nonlocal begin
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0.0) + now - begin
        begin = now

    source = build({**node, "name": "large"}, place="datasets.large").load()
    lap("load")
    units = list(source.units)
    queries = sum(len(d.train) + len(d.dev) + len(d.pool) + len(d.test) for d in source.units.values())
    for unit in units:
        digest_unit(source.units[unit])
        lap("digest")
        save_unit(source.units[unit], folder / unit / "data")
        save_gold(source.gold[unit], folder / unit / "gold.parquet")
        lap("write")
    del source
    for unit in units:
        out = folder / unit / "serialize"
        out.mkdir()
        task = build(tree["tasks"][unit.rpartition(".")[2]], place="tasks")
        context = Context(out, folder / unit, {"data": folder / unit / "data"}, 0, Silent(), lambda name: None)
        serialize.run(context, serializer, task)
        lap("serialise")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "units": units,
        "queries": queries,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total": round(time.perf_counter() - started, 1),
        "cpu": round(time.process_time() - cpu, 1),
        "peak_gb": round(peak / 1024**2, 2),
        "imports_gb": round(imported / 1024**2, 2),
    }


def table(results: dict[str, dict[str, Any]], rows: int) -> str:
    """The results as Markdown."""
    lines = [
        f"# Tables of {rows:,} rows",
        "",
        f"Written by `{' '.join(['python', *sys.argv])}` on {date.today().isoformat()}; {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, load average at the start {LOAD:.1f}.",
        "",
        "Each case is a process of its own that reads the files, digests, writes and reads back the *data* artifact,",
        f"and writes the *serialize* artifact. Limits: {SECONDS:.0f} seconds, {GIGABYTES:.0f} GB. Peak memory",
        "includes what importing takes. On a machine that does other things as well, CPU seconds are what to compare.",
        "",
        "| case | what | queries | load s | digest s | write s | serialise s | total s | CPU s | peak GB | within |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, found in results.items():
        parts = " | ".join(
            f"{found['seconds'].get(part, 0.0):.1f}" for part in ("load", "digest", "write", "serialise")
        )
        what = (CASES[name].__doc__ or "").replace("``rows``", f"{rows:,}").rstrip(".")
        ok = "yes" if fits(found) else "NO"
        total = f"{found['total']:.1f} | {found['cpu']:.1f} | {found['peak_gb']:.2f}"
        lines.append(f"| {name} | {what} | {found['queries']:,} | {parts} | {total} | {ok} |")
    imports = max(found["imports_gb"] for found in results.values())
    return "\n".join(lines) + f"\n\nImporting alone takes {imports:.2f} GB.\n"


def fits(found: dict[str, Any]) -> bool:
    """Whether a case keeps within the limits."""
    return bool(found["total"] <= SECONDS and found["peak_gb"] <= GIGABYTES)


LOAD = os.getloadavg()[0]


def main() -> int:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, help="where the table goes, besides the terminal")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        node, folder = json.loads(given.child[0]), Path(given.child[1])
        print(json.dumps(measure(node, folder)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    for name in given.cases:
        with tempfile.TemporaryDirectory() as scratch:
            node = CASES[name](Path(scratch) / "files", given.rows)
            command = [sys.executable, __file__, "--child", json.dumps(node), str(Path(scratch) / "artifacts")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
                return 1
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results[name], flush=True)
    text = table(results, given.rows)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")
    return 0 if all(fits(found) for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
