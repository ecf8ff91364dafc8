"""What a sweep compares: written beside its jobs when it starts, read by its report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from meld.errors import DataError
from meld.report.results import read_json, write_json

SWEEP = "sweep.json"
JOB = "job.json"
RUN = "run.json"
CONFIG = "config.yaml"
_HYDRA = "multirun.yaml"
"""What Hydra writes into a sweep's directory before the first job is composed."""
SEEDS = ("seed", "data_seed")
"""Swept keys that repeat a row instead of making one."""


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep runs.

    Attributes:
        command: What the user typed.
        experiment: The preset's name; None for a sweep of the command line's own.
        grid: Swept key to its values, the slowest first; the jobs are their product.
        paper: The preset's ``paper`` node; empty for none.
    """

    command: str
    experiment: str | None
    grid: Mapping[str, tuple[str, ...]]
    paper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def jobs(self) -> int:
        """How many jobs it has."""
        return prod(len(values) for values in self.grid.values())

    def combinations(self) -> list[dict[str, str]]:
        """What is swept in each job, in the order of the jobs."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    @property
    def rows(self) -> tuple[str, ...]:
        """The keys whose values tell rows apart: those the preset names first, then others but seeds."""
        swept = [key for key in self.grid if key not in SEEDS]
        named = [key for key in self.paper.get("rows") or () if key in self.grid]
        return (*named, *(key for key in swept if key not in named))

    @property
    def seeds(self) -> tuple[str, ...]:
        """The keys whose values repeat a row."""
        return tuple(key for key in self.grid if key in SEEDS)


def write_record(folder: Path, record: SweepRecord) -> Path:
    """Write ``sweep.json`` of a sweep directory."""
    content = {
        "command": record.command,
        "experiment": record.experiment,
        # Pairs, because their order is that of the jobs and a JSON object is written in order of its keys.
        "grid": [[key, list(values)] for key, values in record.grid.items()],
        "paper": dict(record.paper),
    }
    return write_json(folder / SWEEP, content)


def withdraw_record(folder: Path) -> None:
    """Take back the record of a sweep of which no job has begun, so that nobody is told to go on with it."""
    if not folder.is_dir() or any(entry.is_dir() for entry in folder.iterdir()):
        return
    for name in (SWEEP, _HYDRA):
        (folder / name).unlink(missing_ok=True)
    # The user's own folder may hold other files.
    with suppress(OSError):
        folder.rmdir()


def read_record(folder: Path) -> SweepRecord | None:
    """Read ``sweep.json`` of a sweep directory; None where there is none.

    Raises:
        DataError: If it is no JSON.
    """
    if not (folder / SWEEP).is_file():
        return None
    content = read_json(folder / SWEEP)
    grid = {str(key): tuple(str(value) for value in values) for key, values in content.get("grid") or ()}
    experiment = content.get("experiment")
    return SweepRecord(
        str(content.get("command") or ""),
        None if experiment is None else str(experiment),
        grid,
        dict(content.get("paper") or {}),
    )


@dataclass(frozen=True)
class Origin:
    """Where a run's configuration came from.

    Attributes:
        command: What the user typed.
        overrides: The overrides of this job, presets among them.
        choices: Group to chosen option, as composed.
        config_dir: The folder of private configuration that took part; empty for none.
    """

    command: str
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    config_dir: str = ""


def write_origin(folder: Path, origin: Origin) -> Path:
    """Write ``run.json`` of a run directory."""
    content = {
        "command": origin.command,
        "overrides": list(origin.overrides),
        # Pairs, because the order of choices is that of precedence.
        "choices": [[group, option] for group, option in origin.choices.items()],
        "config_dir": origin.config_dir,
    }
    return write_json(folder / RUN, content)


def read_origin(folder: Path) -> Origin | None:
    """Read ``run.json`` of a run directory; None where there is none.

    Raises:
        DataError: If it is no JSON.
    """
    if not (folder / RUN).is_file():
        return None
    content = read_json(folder / RUN)
    return Origin(
        str(content.get("command") or ""),
        tuple(str(word) for word in content.get("overrides") or ()),
        {str(group): str(option) for group, option in content.get("choices") or ()},
        str(content.get("config_dir") or ""),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run directory, without secrets.

    Raises:
        DataError: If it is missing or no mapping.
    """
    fix = "give a directory that holds one run, or repeat the run's command"
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError("The run's configuration cannot be read.", where=str(folder / CONFIG), fix=fix) from error
    if not isinstance(found, dict):
        raise DataError("The run's configuration is not one.", where=str(folder / CONFIG), fix=fix)
    return found


def write_job(folder: Path, swept: Mapping[str, str]) -> Path:
    """Write ``job.json`` of a job's directory: the values of what is swept."""
    return write_json(folder / JOB, {"swept": dict(swept)})


def read_job(folder: Path) -> dict[str, str]:
    """Read ``job.json`` of a job's directory; empty where there is none."""
    if not (folder / JOB).is_file():
        return {}
    return {str(key): str(value) for key, value in (read_json(folder / JOB).get("swept") or {}).items()}
