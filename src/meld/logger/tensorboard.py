"""Logs to TensorBoard event files in the run directory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.errors import UserError
from meld.logger.base import MetricSink, scrub

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoardLogger:
    """Writes event files to ``tensorboard/``; look at them with ``tensorboard --logdir outputs``.

    Args:
        table_rows: Rows shown of the predictions and of the selected samples of every unit; 0 for none.
    """

    def __init__(self, table_rows: int = 50) -> None:
        self.table_rows = table_rows

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        """Open an event file and write the config to it as text.

        Raises:
            UserError: If tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard cannot be used: {error}.",
                where="logger=tensorboard",
                fix="pip install tensorboard, or choose logger=csv",
            ) from error
        writer = SummaryWriter(log_dir=str(run_dir / FOLDER))
        shown = json.dumps(scrub(config), indent=2, sort_keys=True)
        writer.add_text("config", "\n".join(f"    {line}" for line in shown.splitlines()))
        return TensorBoardSink(writer)


class TensorBoardSink:
    """The open event file.

    Args:
        writer: PyTorch's writer.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self._next: Counter[str] = Counter()

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        """Add one point per metric; metrics without a step are counted one by one."""
        for key, value in metrics.items():
            tag = f"{prefix}/{key}" if prefix else key
            at = self._next[tag] if step is None else step
            self._next[tag] = at + 1
            self._writer.add_scalar(tag, float(value), at)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Add the final numbers under ``summary/``."""
        self.log(metrics, 0, "summary")

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Add the table as Markdown text."""
        heads = [str(column) for column in frame.columns]
        lines = [heads, ["---"] * len(heads), *([str(cell) for cell in row] for row in frame.itertuples(index=False))]
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        self._writer.add_text(name, "\n".join("| " + " | ".join(line) + " |" for line in cells))

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Nothing: ``artifacts/`` in the run directory links to them already."""

    def finish(self) -> None:
        """Write out and close."""
        self._writer.close()
