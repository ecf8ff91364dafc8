"""Comparing the runs of a sweep, and rebuilding the report of whatever directory is given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from meld.errors import UserError
from meld.report.html import REPORT, Bar, Group, environment, facts, show, write_report
from meld.report.paper import jobs_of, paper_table
from meld.report.paper_page import write_paper
from meld.report.record import SEEDS, read_record
from meld.report.results import RESULTS, Results, Row, find_runs, read_costs, read_results, reading_order, write_text
from meld.report.seeds import over_seeds
from meld.report.selection import Overlap, overlaps, selected_ids
from meld.report.status import JobState, job_states

if TYPE_CHECKING:
    import pandas as pd

MARKDOWN = "comparison.md"
CSV = "comparison.csv"
_ABSENT = "–"


@dataclass(frozen=True)
class Run:
    """One finished run of a sweep.

    Attributes:
        name: Its directory relative to the sweep's.
        results: Its results.json.
        seconds: How long it took; None if it did not say.
    """

    name: str
    results: Results
    seconds: float | None


@dataclass(frozen=True)
class Line:
    """One line of the comparison: the runs that differ in nothing but their seeds, or one baseline.

    Attributes:
        label: What sets it apart, e.g. ``k=2``; the baseline's name.
        values: What varies, in the order of :attr:`Comparison.varying`; empty for baselines.
        own: Whether it is runs of the method, not a baseline.
        runs: How many runs it summarises.
        scores: Per column of the comparison, one row per run.
        seconds: Mean time of its runs.
    """

    label: str
    values: tuple[str, ...]
    own: bool
    runs: int
    scores: Mapping[tuple[str, str, str], tuple[Row, ...]]
    seconds: float | None

    def number(self, column: tuple[str, str, str]) -> str:
        """The value of one run, mean and standard deviation of several, a dash for none."""
        rows = self.scores.get(column, ())
        if not rows:
            return _ABSENT
        found = over_seeds(rows)
        return f"{found.mean:.3f}" + (f" ± {found.deviation:.3f}" if found.seeds > 1 else "")

    def spread(self, column: tuple[str, str, str]) -> str:
        """The interval of a single run, or that of the mean of several; empty for none."""
        rows = self.scores.get(column, ())
        if not rows:
            return ""
        found = over_seeds(rows)
        return f"[{found.low:.3f}, {found.high:.3f}]"

    def cell(self, column: tuple[str, str, str]) -> str:
        """Number and spread in one line."""
        return f"{self.number(column)} {self.spread(column)}".strip()


@dataclass(frozen=True)
class Comparison:
    """What a sweep found.

    Attributes:
        runs: Its finished runs.
        varying: Config keys in which they differ, seeds left out.
        seeds: The seed keys in which they differ.
        columns: Headline metrics as (dataset, task, metric).
        lines: The method's lines in order of their values, then the baselines.
    """

    runs: tuple[Run, ...]
    varying: tuple[str, ...]
    seeds: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    lines: tuple[Line, ...]

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Names of the synthetic datasets."""
        return tuple(sorted({name for run in self.runs for name in run.results.synthetic}))


def build(directory: Path) -> Path:
    """Rebuild the report of a run directory, or the comparison of a sweep directory.

    A sweep directory gets ``report.html``, ``comparison.md`` and ``comparison.csv``, and where it is known what was
    swept, the files of its table (``paper_page.py``); the reports of its runs are left alone.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: If the directory does not exist, or holds no finished run.
    """
    if not directory.is_dir():
        raise UserError("There is no such directory.", where=str(directory), fix="give a run or sweep directory")
    if (directory / RESULTS).is_file():
        return write_report(directory)
    record = read_record(directory)
    folders = find_runs(directory) if record is None else jobs_of(directory, record)[0]
    if not folders:
        raise UserError(
            "No finished run was found here: no results.json in it or below.",
            where=str(directory),
            fix=f"`meld status {directory}` tells what is unfinished; the run's own command continues it",
        )
    table = paper_table(directory)
    comparison = compare(directory, folders)
    write_text(directory / MARKDOWN, markdown(comparison))
    write_text(directory / CSV, frame(comparison).to_csv(index=False, lineterminator="\n"))
    if table is not None:
        return write_paper(directory, table, job_states(directory))
    agreement = _agreement(directory, comparison)
    page = render(comparison, directory.resolve().name, job_states(directory), agreement)
    return write_text(directory / REPORT, page)


def compare(directory: Path, folders: Sequence[Path]) -> Comparison:
    """Compare finished runs.

    Args:
        directory: Run names are given relative to it.
        folders: The run directories.
    """
    runs = []
    for folder in folders:
        costs = read_costs(folder)
        name = folder.relative_to(directory).as_posix()
        runs.append(Run(name, read_results(folder), costs.total_seconds if costs else None))
    keys = sorted({key for run in runs for key in run.results.config})
    differing = [key for key in keys if len({_canonical(run.results.config.get(key)) for run in runs}) > 1]
    varying = tuple(key for key in differing if key not in SEEDS)
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: [_order(run.results.config.get(key)) for key in varying]):
        groups.setdefault(tuple(_canonical(run.results.config.get(key)) for key in varying), []).append(run)
    lines = [_line(varying, group) for group in groups.values()]
    main = sorted((row for run in runs for row in run.results.rows if row.main), key=reading_order)
    columns = tuple(dict.fromkeys((row.dataset, row.task, row.metric) for row in main))
    lines += [_baseline(system, runs) for system in dict.fromkeys(row.system for row in main if not row.own)]
    seeds = tuple(key for key in differing if key in SEEDS)
    return Comparison(tuple(runs), varying, seeds, columns, tuple(lines))


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table of headline metrics."""
    heads = [*(comparison.varying or ("run",)), *(f"{d} {t} {m}" for d, t, m in comparison.columns), "runs"]
    lines = ["| " + " | ".join(_plain(head) for head in heads) + " |"]
    left = max(len(comparison.varying), 1)
    lines.append("|" + "---|" * left + "---:|" * (len(heads) - left))
    for line in comparison.lines:
        first = list(line.values) if line.values else [line.label] + [""] * (left - 1)
        cells = [*first, *(line.cell(column) for column in comparison.columns), str(line.runs)]
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    notes = ["value [95 % bootstrap interval] of one run; mean ± standard deviation [interval of the mean] of several"]
    failed = {failure.unit: run.name for run in comparison.runs for failure in run.results.failures}
    notes += [f"{unit} failed in {name}" for unit, name in failed.items()]
    if comparison.seeds:
        notes.append(f"runs of one line differ in {', '.join(comparison.seeds)}")
    if comparison.synthetic:
        notes.append(f"synthetic data: {', '.join(comparison.synthetic)}")
    return "\n".join(lines) + "\n\n" + "; ".join(_plain(note) for note in notes) + ".\n"


def frame(comparison: Comparison) -> pd.DataFrame:
    """Every result of every run, one row per run and system, three columns (value, low, high) per dataset, task and
    metric.
    """
    import pandas as pd

    records: list[dict[str, Any]] = []
    for run in comparison.runs:
        for system in dict.fromkeys(row.system for row in run.results.rows):
            record: dict[str, Any] = {"run": run.name, "system": system}
            for key in (*comparison.varying, *comparison.seeds):
                record[key] = show(run.results.config.get(key))
            for row in run.results.rows:
                if row.system == system:
                    name = f"{row.unit}.{row.metric}"
                    record.update({name: row.value, f"{name}.low": row.ci_low, f"{name}.high": row.ci_high})
            records.append(record)
    return pd.DataFrame.from_records(records)


def render(comparison: Comparison, name: str, jobs: Sequence[JobState], agreement: Sequence[Overlap] = ()) -> str:
    """The comparison as HTML text.

    Args:
        comparison: What to show.
        name: The sweep's name.
        jobs: The state of all its jobs; unfinished ones are listed.
        agreement: Where selectors agree, if several ran.
    """
    groups = []
    for dataset, task, metric in comparison.columns:
        bars = tuple(
            _bar(line, line.scores[dataset, task, metric])
            for line in comparison.lines
            if line.scores.get((dataset, task, metric))
        )
        groups.append(Group(dataset, task, metric, dataset in comparison.synthetic, bars))
    shared = {
        key: value
        for key, value in comparison.runs[0].results.config.items()
        if key not in (*comparison.varying, *comparison.seeds)
    }
    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            name=name,
            comparison=comparison,
            groups=groups,
            facts=facts(shared),
            unfinished=[job for job in jobs if job.state != "done"],
            overlaps=agreement,
        )
    )


def _agreement(directory: Path, comparison: Comparison) -> list[Overlap]:
    """Where the selectors of a sweep agree; what varies besides the selector must be equal for a comparison."""
    if "selector" not in comparison.varying:
        return []
    others = [key for key in (*comparison.varying, *comparison.seeds) if key not in ("selector", "method", "refine")]
    runs = []
    for run in comparison.runs:
        config = run.results.config
        same = _canonical({key: config.get(key) for key in others})
        runs.append((str(config.get("selector")), same, selected_ids(directory / run.name)))
    return overlaps(runs)


def _line(varying: tuple[str, ...], runs: Sequence[Run]) -> Line:
    values = tuple(show(runs[0].results.config.get(key)) for key in varying)
    label = ", ".join(f"{key}={value}" for key, value in zip(varying, values, strict=True))
    times = [run.seconds for run in runs if run.seconds is not None]
    scores: dict[tuple[str, str, str], tuple[Row, ...]] = {}
    for run in runs:
        for row in run.results.rows:
            if row.own and row.main:
                column = (row.dataset, row.task, row.metric)
                scores[column] = (*scores.get(column, ()), row)
    return Line(label or runs[0].name, values, True, len(runs), scores, mean(times) if times else None)


def _baseline(system: str, runs: Sequence[Run]) -> Line:
    """A baseline's line: runs in which it gave the very same numbers (it often cannot differ) count once."""
    scores: dict[tuple[str, str, str], tuple[Row, ...]] = {}
    for run in runs:
        for row in run.results.rows:
            if row.system != system or not row.main:
                continue
            column = (row.dataset, row.task, row.metric)
            before = scores.get(column, ())
            if all((row.value, row.n) != (other.value, other.n) for other in before):
                scores[column] = (*before, row)
    return Line(system, (), False, len(runs), scores, None)


def _bar(line: Line, rows: Sequence[Row]) -> Bar:
    """A single run keeps its interval; several are summed up."""
    found = over_seeds(rows)
    return Bar(line.label, found.mean, found.low, found.high, found.n, line.own)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size before everything else by name."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (False, float(value), "")
    return (True, 0.0, show(value))


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
