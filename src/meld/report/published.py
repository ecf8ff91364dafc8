"""The papers' published numbers, which ship with the presets: read, and found by table, cell and row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meld.config.presets import shipped
from meld.errors import ConfigError

FOLDER = "published"
PAPERS = ("journal", "conference")
"""The journal version comes first: it is the newer one."""


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        paper: ``journal`` (MELD and MELD-DS) or ``conference`` (MELD).
        source: The table it stands in.
        task: The task's short name; empty for what is about all sets.
        datasets: Our names of the dataset, several where we can read it in several layouts.
        name: The paper's name of it.
        metric: Our name of the metric, or of the cost.
        row: Which row of our table it belongs to.
        value: As printed: scores on a scale of 100, times in seconds, memory in GB.
    """

    paper: str
    source: str
    task: str
    datasets: tuple[str, ...]
    name: str
    metric: str
    row: str
    value: float


def read_published(table: str) -> tuple[Published, ...]:
    """The published numbers of a table.

    Args:
        table: Its file in ``experiments/published``, without ``.csv``.

    Raises:
        ConfigError: If there is no such file.
    """
    path = shipped("experiments") / FOLDER / f"{table}.csv"
    if not path.is_file():
        known = ", ".join(file.stem for file in published_files())
        raise ConfigError(f"there are no published numbers for {table!r}", where="paper.table", fix=f"one of {known}")
    with path.open(encoding="utf-8", newline="") as lines:
        return tuple(
            Published(
                paper=line["paper"],
                source=line["source"],
                task=line["task"],
                datasets=tuple(line["dataset"].split()),
                name=line["name"],
                metric=line["metric"],
                row=line["row"],
                value=float(line["value"]),
            )
            for line in csv.DictReader(lines)
        )


def published_files() -> list[Path]:
    """All tables of published numbers."""
    return sorted((shipped("experiments") / FOLDER).glob("*.csv"))


def find(numbers: Sequence[Published], dataset: str, task: str, metric: str, row: str) -> tuple[Published, ...]:
    """The published numbers of one cell, the journal's first; equal ones of both papers count once."""
    found = [
        number
        for number in numbers
        if number.metric == metric
        and number.row == row
        and number.task == task
        and (dataset in number.datasets or not (dataset or number.datasets))
    ]
    found.sort(key=lambda number: PAPERS.index(number.paper))
    values: dict[float, Published] = {}
    for number in found:
        values.setdefault(number.value, number)
    return tuple(values.values())
