"""Logs to Weights & Biases, online or into a local folder for `wandb sync`."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from meld.errors import ConfigError, UserError
from meld.logger.base import MetricSink, scrub

if TYPE_CHECKING:
    import pandas as pd
    from wandb import Run

MODES = ("online", "offline")
_STEP = "step"
_MAX_FILES = 100_000

logger = logging.getLogger(__name__)


class WandbLogger:
    """One W&B run per run directory: each job of a multirun is its own run, in a group named like the sweep.

    Sent are metrics, the scrubbed config as dotted keys, tables (a few rows of predictions and selected samples), and
    where the run's artifacts lie with the checksums of their files, which stay here. Not sent: code, git state, command
    line, console output, a description of the machine.

    A run that is carried out again in its directory is the same W&B run. Under ``wandb agent`` the run is the agent's.

    Args:
        project: W&B project.
        entity: W&B user or team; None is the key's default.
        mode: ``online`` | ``offline``. Without a key (``WANDB_API_KEY`` or netrc), online becomes offline and says so.
        tags: Tags of the run.
        table_rows: Rows sent of the predictions and of the selected samples of every unit; 0 keeps all data here.
        references: Whether to send where the artifacts lie.

    Raises:
        ConfigError: For another mode.
    """

    def __init__(
        self,
        project: str = "meld",
        entity: str | None = None,
        mode: str = "online",
        tags: tuple[str, ...] = (),
        table_rows: int = 100,
        references: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(
                f"Unknown W&B mode {mode!r}.", where="logger.mode", fix="use logger.mode=online or logger.mode=offline"
            )
        self._project = project
        self._entity = entity
        self._mode = mode
        self._tags = tuple(tags)
        self.table_rows = table_rows
        self._references = references

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        """Start a W&B run whose files lie in ``<run_dir>/wandb``, or go on with it; a run that is still open in this
        process is finished first.

        Raises:
            UserError: If wandb is not installed or the run cannot be started.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "wandb is not installed.", where="logger=wandb", fix="pip install wandb, or choose logger=csv"
            ) from error
        mode = self._mode
        if mode == "online" and not has_key():
            mode = "offline"
            logger.warning(
                "W&B: no API key found, logging offline to %s (send it with `wandb sync`)", run_dir / "wandb"
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            silent=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            run = wandb.init(
                project=self._project,
                entity=self._entity,
                dir=str(run_dir),
                config=flatten(scrub(config)),
                name=scrub(name),
                group=scrub(group) if group else None,
                tags=list(self._tags),
                # An agent has chosen the id, and tells it to wandb through the environment.
                id=os.environ.get("WANDB_RUN_ID") or run_id,
                resume="allow" if mode == "online" else None,
                mode="online" if mode == "online" else "offline",
                reinit="finish_previous",
                settings=settings,
            )
        except Exception as error:
            raise UserError(
                f"W&B could not start a run: {scrub(str(error))}",
                where="logger=wandb",
                fix="check the key, logger.project and logger.entity, or choose logger=wandb_offline",
            ) from error
        return WandbSink(run, self._references)


class WandbSink:
    """The open W&B run.

    Args:
        run: What ``wandb.init`` returned.
        references: Whether to send where the artifacts lie.
    """

    def __init__(self, run: Run, references: bool) -> None:
        self._run = run
        self._references = references
        self._stepped: set[str] = set()

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        """Log the metrics; each prefix counts its own steps, since W&B's single step only ever grows."""
        content = {f"{prefix}/{key}" if prefix else key: float(value) for key, value in metrics.items()}
        if step is not None:
            axis = f"{prefix}/{_STEP}" if prefix else _STEP
            if axis not in self._stepped:
                self._run.define_metric(axis, hidden=True)
                self._run.define_metric(f"{prefix}/*" if prefix else "*", step_metric=axis)
                self._stepped.add(axis)
            content[axis] = float(step)
        self._run.log(content)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Set the run's summary."""
        self._run.summary.update({key: float(value) for key, value in metrics.items()})

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Log a W&B table; cells that are neither numbers nor text become text."""
        import wandb

        cells = frame.astype(object).map(lambda cell: cell if isinstance(cell, (bool, int, float, str)) else str(cell))
        cells.columns = [str(column) for column in frame.columns]
        self._run.log({name: wandb.Table(dataframe=cells, allow_mixed_types=True)})

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        """Log one W&B artifact of type ``meld-run`` that refers to every file of the run's artifacts."""
        import wandb

        if not self._references:
            return
        places = {name: folder.resolve() for name, folder in folders.items()}
        keys = {name: f"{folder.parent.name}/{folder.name}" for name, folder in places.items()}
        content = wandb.Artifact(f"run-{self._run.id}", type="meld-run", metadata=keys)
        for name, folder in places.items():
            content.add_reference(folder.as_uri(), name=name, max_objects=_MAX_FILES)
        self._run.log_artifact(content)

    def finish(self) -> None:
        """Write out and close, so that the next job of a multirun starts its own run."""
        self._run.finish()


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config with one dotted key for every value, as overrides name them.

    Lists stay lists, so that ``path_steps`` is one value; an empty mapping is kept as such.

    Args:
        config: Plain containers and scalars.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def has_key() -> bool:
    """Whether W&B would find an API key: in ``WANDB_API_KEY`` or in the netrc file, for the host of
    ``WANDB_BASE_URL``.
    """
    if os.environ.get("WANDB_API_KEY", "").strip():
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    given = os.environ.get("NETRC")
    paths = [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return any(_names(path, host) for path in paths)


def _names(path: Path, host: str) -> bool:
    try:
        return path.is_file() and host in netrc.netrc(str(path)).hosts
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        logger.warning("W&B: %s cannot be read and is ignored", path)
        return False
