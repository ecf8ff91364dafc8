"""Which jobs a command stands for: the grids of presets and of the command line, and the directory they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType

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
        ConfigError: If several experiments are asked for at once, a preset does not compose, a key is swept and given
            again, or values are swept that cannot be listed.
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
    asks = asks or any(_key(o) == "hydra.mode" and str(o.value()) == "MULTIRUN" for o in parsed)
    if not (is_multirun(words) or asks):
        named = f"hydra.run.dir='${{paths.runs}}/{directory_name(overrides, CONTROL)}'"
        return Arrangement((*words, *([] if "hydra.run.dir" in given else [named])), multirun=False, dry=dry)

    # The first key varies slowest: with seeds there, the first rows to finish make a whole table.
    added = [f"{key}={value}" for key, value in sorted(params.items(), key=lambda item: item[0] not in SEEDS)]
    added = [word for word in added if word.partition("=")[0] not in given]
    every = parsed + _parse(added)
    swept = {_key(o): _values(o) for o in every if o.is_sweep_override()}
    _given_once(every, swept)
    # A row's key that has one value only is not swept, but it makes the row: variant=wo_rag is no row of variant=full.
    rows = {*(paper.get("rows") or ()), paper.get("each")} - set(swept)
    fixed = {_key(o): (_value(_given(o)),) for o in every if _key(o) in rows}
    identity = [o for o in (*overrides, *added) if not o.startswith("sweep=")]
    folder = Path("outputs/sweeps") / directory_name(identity, CONTROL, ("experiment", *swept))
    extra = ["hydra.sweeper.params=null"] if params else []
    extra += ["+hydra.callbacks.in_process._target_=meld.cli.in_process.InProcess"] if dry else []
    if "hydra.sweep.dir" in given:
        folder = _plain_path(next(o for o in parsed if _key(o) == "hydra.sweep.dir"))
    else:
        extra.append(f"hydra.sweep.dir='{folder}'")
    if "hydra.sweep.subdir" not in given:
        # Hydra knows a group apart from the package it lands in: dataset@datasets.x is excluded as dataset.
        constant = ",".join(f"'{o.key_or_group}'" for o in every if not o.is_sweep_override())
        extra.append("hydra.sweep.subdir=" + (f"'{JOB_DIRECTORY}'" if swept else "run"))
        extra.append(f"hydra.job.config.override_dirname.exclude_keys=[{constant}]")
    experiment = next((str(o.value()) for o in parsed if _key(o) == "experiment"), None)
    record = SweepRecord(command, experiment, {**swept, **fixed}, paper)
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
    scales = next((o for o in parsed if _key(o) == "scale" and o.is_sweep_override()), None)
    if scales is not None and any(_key(o) == "experiment" for o in chosen):
        raise ConfigError(
            f"{scales.input_line}: a preset's grid is that of one scale, and scores of two scales do not compare",
            where="the command line",
            fix="one command for each scale",
        )
    fixed = [text for text, o in zip(overrides, parsed, strict=True) if not o.is_sweep_override()]
    return preset_sweep(fixed, config_dir)


def _values(override: Override) -> tuple[str, ...]:
    """The values that a swept key takes."""
    name = override.input_line
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        raise ConfigError(
            f"{name} does not list its values, so the jobs are not known before they run",
            where="the command line",
            fix=f"list them: {_key(override)}=A,B or {_key(override)}=range(1,4)",
        )
    found = tuple(_value(text) for text in override.sweep_string_iterator())
    twice = [value for value, count in Counter(found).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{name} lists {twice[0]} more than once", where="the command line", fix="list each value once"
        )
    return found


def _given_once(every: Sequence[Override], swept: Mapping[str, object]) -> None:
    """Hydra lets the last value of a key win; of a swept key that would be a sweep without it."""
    counts = Counter(_key(o) for o in every)
    twice = [key for key in swept if counts[key] > 1]
    if twice:
        given = " ".join(str(o.input_line) for o in every if _key(o) == twice[0])
        raise ConfigError(f"{twice[0]} is given more than once: {given}", where="the command line", fix="give it once")


def _given(override: Override) -> str:
    """What stands behind the equals sign."""
    return (override.input_line or "").partition("=")[2]


def _plain_path(override: Override) -> Path:
    text = _unquoted(_given(override))
    if "${" in text:
        raise ConfigError(
            f"{override.input_line} refers to another key, but the sweep's folder is needed before any job is composed",
            where="the command line",
            fix="write the folder out: hydra.sweep.dir=FOLDER",
        )
    return Path(text)


def _parse(overrides: Sequence[str]) -> list[Override]:
    found: list[Override] = OverridesParser.create().parse_overrides(overrides=list(overrides))
    return found


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _value(text: str) -> str:
    """A value as one reads it: ``[diversity, quality]`` and ``'[diversity,quality]'`` are the same."""
    return re.sub(r"\s*([,:\[\]{}])\s*", r"\1", _unquoted(text))


def _unquoted(text: str) -> str:
    return text.strip().strip("'\"")


def _config_dir(words: Sequence[str]) -> Path | None:
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in {"--config-dir", "-cd"}:
            return Path(value) if value else Path(words[place + 1]) if place + 1 < len(words) else None
    return None
