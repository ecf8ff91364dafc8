"""What a finished run hands to its logger, and when there is nothing new to hand over."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from meld.config.tree import config_hash
from meld.errors import DataError
from meld.logger.base import MetricLogger, MetricSink
from meld.logger.none import NoSink
from meld.pipeline.node import Node
from meld.report.results import Cost, Row, read_json, write_json

LOGGED = "logged.json"
"""File of a run directory that says what its logger has been given in whole."""

_PREDICTIONS = ("query_id", "query", "output", "gold", "correct", "score", "status", "experts", "weights")


class Tracking:
    """A run's logger, opened unless it has been given all of this run before.

    Repeating a finished sweep must neither make a second W&B run for each of its jobs nor write the same lines again.

    Args:
        logger: As configured.
        tree: The resolved configuration.
        shown: The same without secrets.
        folder: The run directory.
        group: The sweep's name; None outside a sweep.
        nodes: What is about to be carried out.

    Raises:
        UserError: If the logger cannot work here.
    """

    def __init__(
        self,
        logger: MetricLogger,
        tree: Mapping[str, Any],
        shown: Mapping[str, Any],
        folder: Path,
        group: str | None,
        nodes: Sequence[Node],
    ) -> None:
        self._folder = folder
        self._rows = logger.table_rows
        hash_ = config_hash(tree)
        self._content = {"logger": shown["logger"], "config": hash_, "results": _digest(nodes)}
        self.known = not tree["force"] and _logged(folder) == self._content
        run_id = hashlib.sha256(f"{folder.resolve()}\n{hash_}".encode()).hexdigest()[:16]
        self.sink: MetricSink = NoSink() if self.known else logger.open(folder, shown, folder.name, group, run_id)

    def results(self, rows: Sequence[Row], system: str) -> None:
        """Hand over the run's own scores.

        Args:
            rows: All scores.
            system: The method's name; baselines stay out.
        """
        self.sink.summary({f"{row.task}/{row.dataset}/{row.metric}": row.value for row in rows if row.system == system})

    def costs(self, costs: Sequence[Cost]) -> None:
        """Hand over what each stage took: ``cost/<stage>/seconds``, ``.../peak_memory_mb``, ``.../reused``.

        Seconds are those of making the artifacts, whichever run made them.
        """
        seconds: dict[str, float] = defaultdict(float)
        memory: dict[str, float] = defaultdict(float)
        reused: dict[str, int] = defaultdict(int)
        for cost in costs:
            seconds[cost.stage] += cost.seconds
            memory[cost.stage] = max(memory[cost.stage], cost.peak_memory_mb)
            reused[cost.stage] += cost.reused
        metrics = {f"cost/{stage}/seconds": value for stage, value in seconds.items()}
        metrics |= {f"cost/{stage}/peak_memory_mb": value for stage, value in memory.items()}
        metrics |= {f"cost/{stage}/reused": float(value) for stage, value in reused.items()}
        self.sink.summary({**metrics, "cost/seconds": sum(seconds.values())})

    def samples(self, predictions: Path, selection: Path) -> None:
        """Hand over some predictions and the first selected samples of every unit, as many as the logger wants.

        Args:
            predictions: Folder of ``<unit>.parquet``.
            selection: Folder of ``<unit>.parquet``; may be absent.
        """
        if self.known or not self._rows:
            return
        for file in sorted(predictions.glob("*.parquet")):
            frame = pd.read_parquet(file)
            shown = frame[[column for column in _PREDICTIONS if column in frame]]
            self.sink.table(f"predictions/{file.stem}", sampled(shown, "query_id", self._rows))
        for file in sorted(selection.glob("*.parquet")):
            items = pd.read_parquet(file)
            chosen = items[items["rank"].notna()].sort_values("rank", kind="stable")
            self.sink.table(f"selection/{file.stem}", chosen.head(self._rows))

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Hand over where the artifacts lie, by ``<stage>.<unit>``."""
        self.sink.artifacts(folders)

    def finish(self, complete: bool) -> None:
        """Close the logger.

        Args:
            complete: Whether everything was handed over, so that a repetition has nothing to add.
        """
        self.sink.finish()
        if complete and not self.known:
            write_json(self._folder / LOGGED, self._content)


def sampled(frame: pd.DataFrame, key: str, rows: int) -> pd.DataFrame:
    """The same few rows of a table every time, whatever else the table says: those whose keys have the least digests.

    Args:
        frame: A table.
        key: Column of identities.
        rows: How many rows are kept at most; they stay in their order.
    """
    if len(frame) <= rows:
        return frame
    order = frame[key].map(lambda value: hashlib.sha256(str(value).encode()).hexdigest())
    return frame.loc[sorted(order.sort_values(kind="stable").index[:rows])]


def _digest(nodes: Sequence[Node]) -> str:
    keys = sorted(f"{node.id} {node.key}" for node in nodes)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _logged(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(folder / LOGGED)
    except DataError:
        return None
