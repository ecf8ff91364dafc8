"""``meld predict`` over many rows: does memory stay bounded, and how many rows a second are answered?

    OMP_NUM_THREADS=1 python benchmarks/predict_rows.py --out docs/results/predict_rows.md

A bundle is made from a small run on the synthetic suite. Then the command answers tables of growing length that this
script makes up, each in a process of its own: error detection, which the encoder answers, and imputation, which the
language model answers. No two rows of a table are equal, and none is in the bundle.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from shapes import command

CHUNK = 256
"""Rows that the command answers together by default."""

RUN = (
    "suite=quickstart",
    "logger=none",
    "trainer=debug",
    "sigma=1",
    "backbone=minilm_2layer",
    "backbone@proxy=minilm_2layer",
    "metapath=fixed",
    "limits.transformed=16",
    "limits.samples=32",
    "limits.router_queries=8",
)
CITIES = ("springfield", "riverton", "oakdale", "fairview", "milton", "clayton", "ashland", "dover")
_COUNTING = 3
"""Columns that make rows distinct: enough for 32 million."""


@dataclass(frozen=True)
class Measured:
    """One process.

    Attributes:
        task: What was asked.
        rows: How many rows.
        seconds: Wall time.
        cpu: CPU time.
        peak: Peak resident memory, in MB.
    """

    task: str
    rows: int
    seconds: float
    cpu: float
    peak: float


def columns_of(bundle: Path, unit: str) -> list[str]:
    """The columns that a unit's questions need."""
    import json

    card = json.loads((bundle / "units" / unit / "card.json").read_text())
    return list(card["sides"][0])


def made_up(columns: Sequence[str], rows: int) -> Iterator[list[str]]:
    """Distinct rows of few distinct values, as tables have them: the first columns count, the others are drawn."""
    rng = random.Random(0)
    values = [f"{city} {number}" for city in CITIES for number in range(40)]
    for row in range(rows):
        counted, line = row, []
        for place, _ in enumerate(columns):
            if place < _COUNTING:
                counted, digit = divmod(counted, len(values))
                line.append(values[digit])
            else:
                line.append(rng.choice(values))
        yield line


def write(path: Path, columns: Sequence[str], rows: int) -> None:
    """Write made-up rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(made_up(columns, rows))


def count_lines(path: Path) -> int:
    """Rows of a CSV file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def measure(folder: Path, bundle: Path, task: str, target: str, columns: Sequence[str], rows: int) -> Measured:
    """Run the command over a table.

    Raises:
        RuntimeError: If it fails, or loses a row.
    """
    write(folder / "in.csv", columns, rows)
    words = [
        sys.executable,
        "-m",
        "meld",
        "predict",
        str(bundle),
        str(folder / "in.csv"),
        "-o",
        str(folder / "out.csv"),
    ]
    started = time.monotonic()
    process = subprocess.Popen([*words, "--task", task, "--target", target, "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise RuntimeError(f"meld predict ended with {os.waitstatus_to_exitcode(status)}")
    if count_lines(folder / "out.csv") != rows:
        raise RuntimeError(f"{count_lines(folder / 'out.csv')} of {rows} rows came out")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(task, rows, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def make_bundle(folder: Path) -> Path:
    """Train on the synthetic suite and export."""
    subprocess.run([sys.executable, "-m", "meld", *RUN], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (run,) = (folder / "outputs" / "runs").iterdir()
    subprocess.run([sys.executable, "-m", "meld", "export", str(run), "bundle"], cwd=folder, check=True)
    return folder / "bundle"


def table(found: Sequence[Measured], load: float) -> str:
    """The page."""
    say: Callable[[Measured], str] = lambda m: (  # noqa: E731 - one line of the table
        f"| {m.task} | {m.rows:,} | {m.seconds:,.0f} | {m.cpu:,.0f} | {m.rows / m.cpu:,.1f} | {m.peak:,.0f} |"
    )
    lines = [
        "# Predicting many rows",
        "",
        f"Written by `{command()}` on {date.today()}; {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, load average at the start {load:.1f}.",
        "",
        "`meld predict BUNDLE in.csv -o out.csv`, each time a process of its own, over tables of distinct rows that",
        "the bundle has never seen. `ed` is answered by the encoder, `di` by experts on two layers of MiniLM. CPU",
        "seconds include starting the program, and are what to compare where other programs run as well. Every run was",
        f"checked to give one answer per row. {CHUNK} rows are answered together; up to there memory grows with them.",
        "",
        "| task | rows | wall s | CPU s | rows per CPU s | peak MB |",
        "|---|--:|--:|--:|--:|--:|",
        *map(say, found),
        "",
    ]
    for task in dict.fromkeys(m.task for m in found):
        # Below a full chunk, memory grows with what is answered together.
        full = [m for m in found if m.task == task and m.rows >= CHUNK]
        if len(full) > 1:
            first, last = full[0], full[-1]
            grown = last.peak - first.peak
            each = grown * 1e3 / (last.rows - first.rows)
            lines.append(
                f"From {first.rows:,} to {last.rows:,} rows the peak of `{task}` grows by {grown:,.0f} MB: "
                f"{each:,.1f} kB a row."
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="longest table of error detection")
    parser.add_argument("--ranked-rows", type=int, default=1_000, help="longest table of imputation")
    parser.add_argument("--bundle", type=Path, help="a bundle made before; by default one is trained")
    parser.add_argument("--out", type=Path, help="Markdown file; by default the table is printed")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = (given.bundle or make_bundle(folder)).resolve()
        for task, unit, longest in (
            ("ed", "quickstart_hospitals.ed", given.rows),
            ("di", "quickstart_people.di", given.ranked_rows),
        ):
            columns = columns_of(bundle, unit)
            for rows in dict.fromkeys(max(1, longest // part) for part in (100, 10, 1)):
                found.append(measure(folder, bundle, task, "city", columns, rows))
                print(found[-1], file=sys.stderr, flush=True)
    page = table(found, load)
    if given.out is None:
        print(page)
    else:
        given.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
