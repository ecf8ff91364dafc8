"""The files of a run directory: results.json and costs.json written canonically, read back, gathered into a frame."""

from __future__ import annotations

import glob
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.errors import DataError, UserError
from meld.store.machine import code_version, dependencies, hardware
from meld.types import Score

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "results.json"
COSTS = "costs.json"
STATUS = "status.json"
ROUTING = "routing.json"
SELECTION = "selection.json"
PATHS = "paths.json"
ENVIRONMENT = "environment.json"

OWN_SYSTEMS = ("meld", "meld_ds", "gpt4")
STAGES = (
    "data",
    "serialize",
    "encode",
    "annotate",
    "init",
    "metapath",
    "features",
    "influence",
    "pick",
    "select",
    "refine",
    "route",
    "infer",
    "evaluate",
    "report",
)
"""The chain's order, for display; stages of other names follow alphabetically."""

_TASKS = ("em", "blk", "di", "ed", "dc", "sm", "cta", "re", "el", "ave")
_METRICS = ("f1", "micro_f1", "macro_f1", "recall@1", "accuracy", "precision", "recall")
_DIGITS = 6
_PACKAGES = ("meld-dp", "torch", "transformers", "peft", "lightning", "sentence-transformers")


@dataclass(frozen=True)
class Row:
    """One line of results.json.

    Attributes:
        dataset: The dataset.
        task: The task's short name.
        system: ``meld`` or ``meld_ds`` for the run's own answers, else the baseline's name.
        metric: Name of the metric.
        value: In [0, 1].
        n: Queries or cells it was computed over.
        ci_low: Lower end of the 95 % interval.
        ci_high: Upper end.
        main: Whether it is the task's headline metric.
        config_hash: Hash of the config that produced it.
    """

    dataset: str
    task: str
    system: str
    metric: str
    value: float
    n: int
    ci_low: float
    ci_high: float
    main: bool
    config_hash: str

    @property
    def unit(self) -> str:
        """``<dataset>.<task>``."""
        return f"{self.dataset}.{self.task}"

    @property
    def own(self) -> bool:
        """Whether the run itself, not a baseline, produced it."""
        return self.system in OWN_SYSTEMS


@dataclass(frozen=True)
class Failure:
    """A unit that could not be carried through, while the others were.

    Attributes:
        dataset: The dataset.
        task: The task's short name.
        stage: The kind of artifact at which it failed; ``data`` where it could not be loaded.
        what: What is wrong.
        where: The place; it may hold paths, so it is no part of results.json.
        fix: What to do about it.
    """

    dataset: str
    task: str
    stage: str
    what: str
    where: str = ""
    fix: str = ""

    @property
    def unit(self) -> str:
        """``<dataset>.<task>``."""
        return f"{self.dataset}.{self.task}"

    @classmethod
    def of(cls, unit: str, stage: str, error: Exception) -> Failure:
        """What an error says about a unit."""
        dataset, _, task = unit.rpartition(".")
        if isinstance(error, UserError):
            return cls(dataset, task, stage, error.what, error.where, error.fix)
        said = f"{type(error).__name__}: {error}"
        return cls(dataset, task, stage, said, fix="this is a fault of the program; meld.log has its traceback")


@dataclass(frozen=True)
class Results:
    """The content of results.json.

    Attributes:
        config: What identifies the run, flat; ``synthetic`` lists the datasets that are made up.
        config_hash: Hash of the config.
        rows: The results in reading order.
        failures: The units without results, and why they have none.
    """

    config: Mapping[str, Any]
    config_hash: str
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Names of the synthetic datasets."""
        return tuple(self.config.get("synthetic") or ())


@dataclass(frozen=True)
class Cost:
    """What one stage took.

    Attributes:
        stage: The stage's name.
        unit: The unit or dataset it ran for; empty for stages of the whole suite.
        key: The artifact's key.
        seconds: Wall-clock time of the computation, also where it happened in an earlier run.
        peak_memory_mb: Highest memory use.
        reused: Whether the artifact was found in the store, so that this run did not spend the time.
        cpu_seconds: Processor time, which a busy machine does not lengthen; None where an older version did not record
            it. A GPU's work is not in it.
    """

    stage: str
    unit: str
    key: str
    seconds: float
    peak_memory_mb: float
    reused: bool
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Costs:
    """The content of costs.json.

    Attributes:
        stages: In the order they ran.
        total_seconds: Wall-clock time of this run.
        searches: What the meta-path search of each unit took (paths evaluated, queries asked, seconds), whenever that
            was.
    """

    stages: tuple[Cost, ...]
    total_seconds: float
    searches: tuple[Mapping[str, Any], ...] = ()


def rows_of(dataset: str, task: str, system: str, scores: Sequence[Score], config_hash: str) -> list[Row]:
    """Turn the scores of one system on one unit into result rows."""
    return [Row(dataset, task, system, s.metric, s.value, s.n, s.low, s.high, s.main, config_hash) for s in scores]


def reading_order(row: Row) -> tuple[object, ...]:
    """Sort key: by dataset and task, the run's own system before baselines, the headline metric first."""
    return (
        row.dataset,
        *_rank(row.task, _TASKS),
        not row.own,
        row.system,
        not row.main,
        *_rank(row.metric, _METRICS),
    )


def write_results(
    run: Path, config: Mapping[str, Any], config_hash: str, rows: Sequence[Row], failures: Sequence[Failure] = ()
) -> Path:
    """Write results.json; equal content gives equal bytes whatever the order of rows and keys.

    Args:
        run: The run directory; created if missing.
        config: Flat values of what identifies the run. No timings, paths or secrets.
        config_hash: Its hash.
        rows: The results.
        failures: Units that have none. The key is left out where there are no failures.

    Raises:
        ValueError: For a number that is not finite, or two rows about the same thing.
    """
    seen: set[tuple[str, str, str, str]] = set()
    for row in rows:
        name = (row.dataset, row.task, row.system, row.metric)
        if name in seen:
            raise ValueError(f"two result rows for {'/'.join(name)}")
        seen.add(name)
    ordered = [asdict(row) for row in sorted(rows, key=reading_order)]
    content: dict[str, Any] = {"config": dict(config), "config_hash": config_hash, "rows": ordered}
    if failures:
        told = ("dataset", "task", "stage", "what", "fix")
        content["failures"] = [{name: getattr(f, name) for name in told} for f in failures]
    return write_json(run / RESULTS, content)


def read_results(run: Path) -> Results:
    """Read results.json of a run directory.

    Raises:
        DataError: If it is missing or not what :func:`write_results` writes.
    """
    content = read_json(run / RESULTS)
    try:
        rows = tuple(Row(**row) for row in content["rows"])
        failures = tuple(Failure(**failure) for failure in content.get("failures", ()))
        ordered = tuple(sorted(rows, key=reading_order))
        return Results(dict(content["config"]), str(content["config_hash"]), ordered, failures)
    except (KeyError, TypeError) as error:
        raise _foreign(run / RESULTS) from error


def write_costs(
    run: Path, stages: Sequence[Cost], total_seconds: float, searches: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write costs.json, stages and searches in the order given."""
    content: dict[str, Any] = {"stages": [asdict(cost) for cost in stages], "total_seconds": total_seconds}
    if searches:
        content["searches"] = list(searches)
    return write_json(run / COSTS, content)


def read_costs(run: Path) -> Costs | None:
    """Read costs.json of a run directory; None where there is none.

    Raises:
        DataError: If it is not what :func:`write_costs` writes.
    """
    if not (run / COSTS).is_file():
        return None
    content = read_json(run / COSTS)
    try:
        stages = tuple(Cost(**cost) for cost in content["stages"])
        return Costs(stages, float(content["total_seconds"]), tuple(content.get("searches") or ()))
    except (KeyError, TypeError) as error:
        raise _foreign(run / COSTS) from error


def write_environment(run: Path, seeds: Mapping[str, int] | None = None) -> Path:
    """Record what the run ran on: code, dependency versions, hardware and seeds; no part of a result's identity.

    Args:
        run: The run directory.
        seeds: The run's seeds by name.
    """
    every = dependencies()
    content = {
        "code": code_version(),
        "versions": {name: every[name] for name in ("python", *_PACKAGES) if name in every},
        "dependencies": every,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "hardware": hardware(),
        "seeds": dict(seeds or {}),
    }
    return write_json(run / ENVIRONMENT, content)


def load_results(pattern: str | Path) -> pd.DataFrame:
    """Gather the results of many runs.

    Args:
        pattern: A glob over run directories, sweep directories (searched for runs) or results.json files.

    Returns:
        One row per result row: ``run`` (directory name) and ``path``, the columns of :class:`Row`, then the run's
        config; a config key that has a column's name is prefixed with ``config.``.

    Raises:
        UserError: If nothing matches, or what matches holds no results.
    """
    import pandas as pd

    text = os.path.expanduser(str(pattern))
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UserError(
            "No file or directory matches.",
            where=text,
            fix="give a run directory, a sweep directory or a glob such as 'outputs/runs/*'",
        )
    runs = sorted({run for match in matches for run in find_runs(Path(match))})
    if not runs:
        raise UserError(
            f"None of the {len(matches)} places that match holds a results.json.",
            where=text,
            fix="`meld status DIR` tells which runs are unfinished",
        )
    records = []
    for run in runs:
        results = read_results(run)
        for row in results.rows:
            record: dict[str, Any] = {"run": run.name, "path": str(run), **asdict(row)}
            taken = set(record)
            for key, value in results.config.items():
                record[f"config.{key}" if key in taken else key] = value
            records.append(record)
    return pd.DataFrame.from_records(records)


def find_runs(place: Path) -> list[Path]:
    """Run directories at or below a place, or the one a results.json lies in; links are not followed."""
    if place.is_file():
        return [place.parent] if place.name == RESULTS else []
    found = []
    for folder, below, files in os.walk(place):
        if RESULTS in files:
            found.append(Path(folder))
            below.clear()
        else:
            below.sort()
    return found


def stage_order(stage: str) -> tuple[int, str]:
    """Sort key that puts stages in the chain's order."""
    return _rank(stage, STAGES)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write canonical JSON (sorted keys, floats rounded to 6 digits) in one step: readers never see half a file.

    Raises:
        ValueError: For a number that is not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(path, text)


def write_text(path: Path, text: str) -> Path:
    """Write a file in one step, also where several processes write it: readers see one of them, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: If the file is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no {path.name}.", where=str(path.parent), fix="is this a finished run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"Not valid JSON: {error}", where=str(path), fix="run the same command again") from None
    if not isinstance(content, dict):
        raise _foreign(path)
    return content


def _foreign(path: Path) -> DataError:
    return DataError("The file does not have the expected content.", where=str(path), fix="run the same command again")


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name), "") if name in order else (len(order), name)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):  # numpy scalars
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number in the results is not finite")
        return round(value, _DIGITS) + 0.0  # -0.0 becomes 0.0
    return value
