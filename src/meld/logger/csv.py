"""Logs to ``metrics.csv`` in the run directory, one line per number."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.logger.base import MetricSink

if TYPE_CHECKING:
    import pandas as pd

FILE = "metrics.csv"
TABLES = "tables"
HEADER = ("prefix", "step", "metric", "value")


class CsvLogger:
    """Appends to ``metrics.csv`` (prefix, step, metric, value); tables go to ``tables/<name>.csv``.

    A run that continues adds to what it wrote before it was stopped.

    Attributes:
        table_rows: 0: the run directory holds predictions and selections in whole.
    """

    table_rows = 0

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        """Open ``metrics.csv``; the config is in the run directory already, so nothing else is written."""
        return CsvSink(run_dir)


class CsvSink:
    """The open file.

    Args:
        run_dir: The run directory; created if missing.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._tables = run_dir / TABLES
        self._file = (run_dir / FILE).open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._writer.writerow(HEADER)
            self._file.flush()

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        """Append one line per metric and flush, so that a killed run leaves whole lines."""
        at = "" if step is None else step
        self._writer.writerows((prefix, at, key, repr(float(value))) for key, value in metrics.items())
        self._file.flush()

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Append the final numbers under the prefix ``summary``."""
        self.log(metrics, None, "summary")

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Write ``tables/<name>.csv``; characters that do not belong in a file name become ``_``."""
        self._tables.mkdir(exist_ok=True)
        safe = re.sub(r"[^\w.=-]+", "_", name).strip(".") or "table"
        frame.to_csv(self._tables / f"{safe}.csv", index=False, lineterminator="\n")

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Nothing: ``artifacts/`` in the run directory links to them already."""

    def finish(self) -> None:
        """Close the file."""
        self._file.close()
