"""How two runs differ: in configuration, data, code, environment and results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from meld.errors import DataError, UserError
from meld.evaluate.paired import Difference, paired_difference
from meld.report.record import read_config
from meld.report.results import ENVIRONMENT, RESULTS, Row, read_json, read_results, reading_order
from meld.report.scored import counted_unit
from meld.seeds import derive
from meld.store.store import MANIFEST
from meld.store.uses import all_linked
from meld.store.why import ABSENT, Leaf, differing, flat

_DATA = ("data", "gold")
_NOT_CONFIG = ("dry_run", "force")


@dataclass(frozen=True)
class Change:
    """A metric in both runs.

    Attributes:
        dataset: The dataset.
        task: The task's short name.
        system: Whose answers: ``own`` for the runs' own, else the baseline's name.
        metric: The metric.
        old: Its value in the first run; None if it has none.
        new: In the second.
        paired: Their difference over the same queries with its interval; None where predictions are missing or the runs
            were not asked the same.
    """

    dataset: str
    task: str
    system: str
    metric: str
    old: float | None
    new: float | None
    paired: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether the values are equal."""
        return self.old == self.new


@dataclass(frozen=True)
class RunDiff:
    """How two runs differ.

    Attributes:
        runs: Their directories.
        config: Leaves of the configurations that differ.
        data: Units whose content differs, ``data.<unit>`` or ``gold.<unit>``.
        code: What differs in version and commit.
        environment: What differs in dependencies, hardware and seeds.
        results: The runs' own metrics, and baselines' that differ.
        identical: Whether both results.json are equal byte for byte; None if one is missing.
        notes: What could not be compared.
    """

    runs: tuple[str, str]
    config: tuple[Leaf, ...]
    data: tuple[Leaf, ...]
    code: tuple[Leaf, ...]
    environment: tuple[Leaf, ...]
    results: tuple[Change, ...]
    identical: bool | None
    notes: tuple[str, ...] = ()


def diff_runs(first: Path, second: Path) -> RunDiff:
    """Compare two run directories.

    Args:
        first: What is compared with.
        second: What is compared.

    Raises:
        UserError: If one of them is no run directory.
        DataError: If a record cannot be read.
    """
    for run in (first, second):
        if not run.is_dir():
            raise UserError("There is no such directory.", where=str(run), fix="give two run directories")
    config = [flat({k: v for k, v in read_config(run).items() if k not in _NOT_CONFIG}) for run in (first, second)]
    notes = []
    surroundings = [_environment(run) for run in (first, second)]
    for run, found in zip((first, second), surroundings, strict=True):
        if not found:
            notes.append(f"{run.name} has no {ENVIRONMENT}: code and environment are not compared")
    code, rest = (_surroundings(surroundings, part) if all(surroundings) else () for part in (True, False))
    files = [run / RESULTS for run in (first, second)]
    missing = [file.parent.name for file in files if not file.is_file()]
    notes += [f"{name} has no {RESULTS}: `meld status` tells how far it is" for name in missing]
    there = all(file.is_file() for file in files)
    return RunDiff(
        (str(first), str(second)),
        tuple(differing(*config)),
        tuple(differing(_data(first), _data(second))),
        code,
        rest,
        tuple(_changes(first, second)) if there else (),
        files[0].read_bytes() == files[1].read_bytes() if there else None,
        tuple(notes),
    )


def diff_json(diff: RunDiff) -> dict[str, Any]:
    """A comparison as plain data."""
    return asdict(diff)


def diff_text(diff: RunDiff) -> Group:
    """A comparison for the terminal."""
    first, second = diff.runs
    parts: list[Text | Table] = [Text(f"A  {first}\nB  {second}", style="bold")]
    said = (
        ("configuration", diff.config),
        ("data", diff.data),
        ("code", diff.code),
        ("environment", diff.environment),
    )
    for name, leaves in said:
        text = Text(f"\n{name}: ", style="bold").append("" if leaves else "the same", style="not bold")
        for leaf in leaves:
            text.append(f"\n  {leaf}", style="not bold")
        parts.append(text)
    if diff.results:
        parts += [Text(), _table(diff)]
    if diff.identical is not None:
        equal = "equal byte for byte" if diff.identical else "not equal"
        parts.append(Text(f"results.json: {equal}", style="green" if diff.identical else "yellow"))
    parts += [Text(note, style="yellow") for note in diff.notes]
    return Group(*parts)


def _table(diff: RunDiff) -> Table:
    table = Table(title="results", title_style="bold", caption_justify="left")
    for heading in ("dataset", "task", "system", "metric"):
        table.add_column(heading)
    for heading in ("A", "B", "B − A", "95 % interval, paired"):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in diff.results:
        clear = change.paired is not None and change.paired.clear
        delta, interval = "", ""
        if change.old is not None and change.new is not None:
            delta = f"{change.new - change.old:+.3f}"
        if change.paired is not None:
            interval = f"[{change.paired.low:+.3f}, {change.paired.high:+.3f}]"
        table.add_row(
            Text(change.dataset), change.task, Text(change.system), change.metric,
            _value(change.old), _value(change.new), delta, interval, style="bold" if clear else "",
        )  # fmt: skip
    table.caption = Text("bold: the interval leaves zero out")
    return table


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _changes(first: Path, second: Path) -> list[Change]:
    sides = [{_about(row): row for row in read_results(run).rows} for run in (first, second)]
    rows = sorted({**sides[1], **sides[0]}.items(), key=lambda item: reading_order(item[1]))
    found = []
    for about, row in rows:
        old, new = (side[about].value if about in side else None for side in sides)
        own = about[2] == "own"
        if not own and old == new:
            continue
        paired = _paired(first, second, row) if own and None not in (old, new) else None
        found.append(Change(*about, old, new, paired))
    return found


def _about(row: Row) -> tuple[str, str, str, str]:
    return row.dataset, row.task, "own" if row.own else row.system, row.metric


def _paired(first: Path, second: Path, row: Row) -> Difference | None:
    try:
        sides = [counted_unit(run, row.unit) for run in (first, second)]
        return paired_difference(sides[:1], sides[1:], row.metric, derive("paired", row.unit) % 2**32)
    except (DataError, ValueError, KeyError):
        return None


def _data(run: Path) -> dict[str, object]:
    """Digests of the units' content; the artifact's key where its manifest is no longer there."""
    found: dict[str, object] = {}
    for name, folder in all_linked(run).items():
        if folder.parent.name not in _DATA:
            continue
        content: object = None
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            content = manifest["config"]["content"]
        except (OSError, ValueError, KeyError, TypeError):
            content = f"artifact {folder.name}"
        found[name] = content
    return found


def _environment(run: Path) -> dict[str, Any]:
    return read_json(run / ENVIRONMENT) if (run / ENVIRONMENT).is_file() else {}


def _surroundings(sides: list[dict[str, Any]], code: bool) -> tuple[Leaf, ...]:
    """Differences in code, or in everything else; what only one side's format records is left out."""
    parts = ("code",) if code else ("dependencies", "hardware", "seeds")
    both: list[Mapping[str, Any]] = [{part: side[part] for part in parts if part in side} for side in sides]
    shared = [part for part in parts if all(part in side for side in both)]
    leaves = differing(*(flat({part: side[part] for part in shared}) for side in both)) if shared else []
    return tuple(leaf for leaf in leaves if ABSENT not in (leaf.old, leaf.new) or not code)
