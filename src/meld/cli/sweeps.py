"""Which jobs a command stands for: the grids of presets and of the command line, and the directory they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from meld.cli.names import JOB_DIRECTORY, MULTIRUN, directory_name, is_multirun, overrides_of, strays_of
from meld.config.compose import preset_sweep
from meld.errors import ConfigError
from meld.report.record import SEEDS, SweepRecord

CONTROL = ("dry_run", "force", "until")
"""Keys that say how far a run goes, not which one it is: they are no part of a directory's name."""

_PRESETS = ("experiment", "sweep")


@dataclass(frozen=True)
class Arrangement:
    """How Hydra is called.

    Attributes:
        words: Its command line.
        multirun: Whether it is a sweep.
        dry: Whether the command computes nothing.
        folder: The sweep's directory; None for a single run.
        record: What is swept; None for a single run.
    """

    words: tuple[str, ...]
    multirun: bool
    dry: bool = False
    folder: Path | None = None
    record: SweepRecord | None = None


def arrange(words: Sequence[str], command: str) -> Arrangement:
    """From the words on the command line to a call of Hydra.

    A preset (``experiment=``, ``sweep=``) may ask for a sweep and bring a grid; what the command line gives replaces
    the preset's values of the same key. The directory is named by what is swept and what is fixed, so that the same
    command finds its own work again; launchers are no part of the name.

    Args:
        words: As the user typed them, without the program's name.
        command: The whole command, for the record.

    Raises:
        ConfigError: If several experiments are asked for at once, or a preset does not compose.
        OverrideParseException: For an override that Hydra cannot read.
    """
    # Hydra wants its overrides together, so the flag goes first wherever it was typed.
    strays = strays_of(words)
    if strays:
        raise ConfigError(
            f"{strays[0]!r} is not of the form key=value",
            where="the command line",
            fix="write key=value without spaces around it, and quote what holds spaces, commas, brackets or *",
        )
    flag = [word for word in words if word in MULTIRUN]
    words = [*flag, *(word for word in words if word not in MULTIRUN)]
    overrides = overrides_of(words)
    parsed = _parse(overrides)
    asks, params, paper = _of_presets(overrides, parsed, _config_dir(words))
    dry = any(_key(o) == "dry_run" and str(o.value()).lower() in {"true", "1", "yes", "on"} for o in parsed)
    given = {_key(o) for o in parsed}
    if not (is_multirun(words) or asks):
        named = f"hydra.run.dir='${{paths.runs}}/{directory_name(overrides, CONTROL)}'"
        return Arrangement((*words, *([] if "hydra.run.dir" in given else [named])), multirun=False, dry=dry)

    # The first key varies slowest: with seeds there, the first rows to finish make a whole table.
    added = [f"{key}={value}" for key, value in sorted(params.items(), key=lambda item: item[0] not in SEEDS)]
    added = [word for word in added if word.partition("=")[0] not in given]
    every = parsed + _parse(added)
    grid = {_key(o): [_value(text) for text in o.sweep_string_iterator()] for o in every if o.is_sweep_override()}
    identity = [o for o in (*overrides, *added) if not o.startswith("sweep=")]
    folder = Path("outputs/sweeps") / directory_name(identity, CONTROL, ("experiment", *grid))
    extra = ["hydra.sweeper.params=null"] if params else []
    extra += ["+hydra.callbacks.in_process._target_=meld.cli.in_process.InProcess"] if dry else []
    if "hydra.sweep.dir" in given:
        folder = Path(next(str(o.value()) for o in parsed if _key(o) == "hydra.sweep.dir"))
    else:
        extra.append(f"hydra.sweep.dir='{folder}'")
    if "hydra.sweep.subdir" not in given:
        # Hydra knows a group apart from the package it lands in: dataset@datasets.x is excluded as dataset.
        constant = ",".join(f"'{o.key_or_group}'" for o in every if not o.is_sweep_override())
        extra.append("hydra.sweep.subdir=" + (f"'{JOB_DIRECTORY}'" if grid else "run"))
        extra.append(f"hydra.job.config.override_dirname.exclude_keys=[{constant}]")
    experiment = next((str(o.value()) for o in parsed if _key(o) == "experiment"), None)
    record = SweepRecord(command, experiment, {key: tuple(values) for key, values in grid.items()}, paper)
    asked = [] if is_multirun(words) else ["--multirun"]
    return Arrangement((*asked, *words, *added, *extra), True, dry, folder, record)


def swept_values(task_overrides: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """The values of swept keys in one job.

    Args:
        task_overrides: The job's overrides, as Hydra lists them.
        keys: What is swept.
    """
    values = dict(word.lstrip("+~").partition("=")[::2] for word in task_overrides)
    return {key: _value(values[key]) for key in keys if key in values}


def _of_presets(
    overrides: Sequence[str], parsed: Sequence[Override], config_dir: Path | None
) -> tuple[bool, dict[str, str], Mapping[str, Any]]:
    chosen = [o for o in parsed if _key(o) in _PRESETS]
    if not chosen:
        return False, {}, {}
    for override in chosen:
        if override.is_sweep_override():
            key = _key(override)
            several = f"{key}=[seeds,joblib]" if key == "sweep" else f"one command for each {key}"
            raise ConfigError(
                f"{override.input_line} lists several presets, and a sweep has one grid",
                where="the command line",
                fix=several,
            )
    fixed = [text for text, o in zip(overrides, parsed, strict=True) if not o.is_sweep_override()]
    return preset_sweep(fixed, config_dir)


def _parse(overrides: Sequence[str]) -> list[Override]:
    found: list[Override] = OverridesParser.create().parse_overrides(overrides=list(overrides))
    return found


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _value(text: str) -> str:
    """A value as one reads it: ``[diversity, quality]`` and ``'[diversity,quality]'`` are the same."""
    return text.strip("'\"").replace(", ", ",").replace(" ", "")


def _config_dir(words: Sequence[str]) -> Path | None:
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in {"--config-dir", "-cd"}:
            return Path(value) if value else Path(words[place + 1]) if place + 1 < len(words) else None
    return None
