"""Logs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.logger.base import MetricSink

if TYPE_CHECKING:
    import pandas as pd


class NoLogger:
    """Opens a sink that forgets everything.

    Attributes:
        table_rows: 0.
    """

    table_rows = 0

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        """Open the sink; nothing is written."""
        return NoSink()


class NoSink:
    """Forgets everything."""

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        """Forget the metrics."""

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Forget the final numbers."""

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Forget the table."""

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Forget them."""

    def finish(self) -> None:
        """Nothing to close."""
