"""What every logger offers, the adaptor that hands it to a Lightning Trainer, and the guard against sending secrets."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    import pandas as pd

REDACTED = "<redacted>"
_SECRET = re.compile(r"token|secret|password|passwd|api_?key|credential", re.IGNORECASE)
_SHORTEST_SECRET = 8


class MetricSink(Protocol):
    """An open place for one run's numbers. After :meth:`finish` nothing may be written to it."""

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        """Take the metrics of one step.

        Args:
            metrics: Name to value.
            step: The step within the prefix; None if there is no such thing.
            prefix: Where they come from, ``<stage>/<unit>``; may be empty.
        """
        ...

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Take the run's final numbers."""
        ...

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Take a table under a name."""
        ...

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Take note of where the run's artifacts lie; nothing is copied.

        Args:
            folders: ``<stage>.<unit>`` to the artifact's folder in the store.
        """
        ...

    def finish(self) -> None:
        """Write everything out and close."""
        ...


class MetricLogger(Protocol):
    """A logger as configured: opens a sink for each run.

    Attributes:
        table_rows: Rows of a table of predictions or selected samples that it wants; 0 for none.
    """

    table_rows: int

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        """Open the place for one run's numbers.

        Args:
            run_dir: The run directory; whatever is written locally goes there.
            config: The resolved config, secrets already taken out.
            name: The run's or job's name.
            group: The sweep's name; None outside a sweep.
            run_id: 16 hexadecimal digits that stay the same when the same run is carried out again in its directory.

        Raises:
            UserError: If the logger cannot work here.
        """
        ...


class LightningSink(Logger):
    """Hands what a Trainer logs on to a sink.

    Args:
        sink: Where the metrics go; it stays open when the training ends.
        prefix: ``<stage>/<unit>``.
    """

    def __init__(self, sink: MetricSink, prefix: str) -> None:
        super().__init__()
        self._sink = sink
        self._prefix = prefix

    @property
    def name(self) -> str:
        """The prefix."""
        return self._prefix

    @property
    def version(self) -> str:
        """Empty: a stage trains once."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand on the metrics; the epoch, which Lightning adds, only where it is not the only one."""
        if set(metrics) - {"epoch"}:
            self._sink.log({key: float(value) for key, value in metrics.items()}, step, self._prefix)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Ignored: the config of the whole run is logged once, when the sink is opened."""


def scrub(value: Any) -> Any:
    """The second guard against sending a secret, for loggers that leave the machine.

    Text under a key that looks like a secret's is replaced, whatever its depth, and so is every occurrence of a value
    that an environment variable of such a name holds. Numbers stay (``max_prompt_tokens: 512`` is no secret).

    Args:
        value: A config, or any part of one.

    Returns:
        A copy of plain containers and scalars.
    """
    values = [
        text for name, text in os.environ.items() if _SECRET.search(name) and len(text.strip()) >= _SHORTEST_SECRET
    ]
    return _scrub(value, sorted(values, key=len, reverse=True), hide=False)


def _scrub(value: Any, secrets: Sequence[str], *, hide: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): _scrub(item, secrets, hide=hide or bool(_SECRET.search(str(key)))) for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrub(item, secrets, hide=hide) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    if hide and text:
        return REDACTED
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text
