"""A sweep as the paper's table: measured over seeds, published beside it, paired differences, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from meld.errors import DataError
from meld.evaluate.paired import Difference, paired_difference
from meld.report.means import mean_difference, mean_interval, mean_values
from meld.report.published import Published, find, read_published
from meld.report.record import JOB, SweepRecord, read_job, read_record
from meld.report.results import Costs, Results, find_runs, read_costs, read_results, reading_order
from meld.report.scored import counted_unit
from meld.report.selection import run_ratio
from meld.seeds import derive

_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond them the normal's is near enough."""

SELECT_STAGES = ("features", "influence", "pick")
COSTS = {
    "initialize_s": "initialise, s",
    "select_s": "select, s",
    "train_s": "train, s",
    "total_s": "pool to expert, s",
    "at_7b_percent": "by count at 7B, %",
    "peak_memory_gb": "peak memory, GB",
    "gradient_gb": "gradients, GB",
    "infer_s": "answer, s",
    "queries_per_s": "questions / s",
}
"""What a row costs, and how it is headed. The papers' names; what we do not measure stays missing."""


@dataclass(frozen=True, order=True)
class Column:
    """What a score is about.

    Attributes:
        dataset: The dataset.
        task: The task's short name.
        metric: The metric.
    """

    dataset: str
    task: str
    metric: str

    @property
    def unit(self) -> str:
        """``<dataset>.<task>``."""
        return f"{self.dataset}.{self.task}"


MEAN = Column("mean of sets", "all", "main score")
"""The mean over all sets, each by its main score."""


@dataclass(frozen=True)
class Cell:
    """One score of one row.

    Attributes:
        values: One for each seed, on a scale of 100; empty if it was not measured.
        n: Queries behind each.
        half: Half the 95 % interval of several seeds' mean (Student's t), else 0.
        low: Lower end of the 95 % interval: of the mean over seeds, or of one seed over queries (bootstrap).
        high: Upper end.
        published: What the papers print.
        delta: Difference from the reference row on the same queries, on a scale of 1; None where there is none.
    """

    values: tuple[float, ...] = ()
    n: int = 0
    half: float = 0.0
    low: float = 0.0
    high: float = 0.0
    published: tuple[Published, ...] = ()
    delta: Difference | None = None

    @property
    def value(self) -> float | None:
        """The mean over seeds."""
        return mean(self.values) if self.values else None


@dataclass(frozen=True)
class Job:
    """One finished job of a sweep."""

    folder: Path
    row: str
    seed: tuple[str, ...]
    swept: Mapping[str, str]
    results: Results
    costs: Costs | None


@dataclass(frozen=True)
class PaperTable:
    """The table of a sweep.

    Attributes:
        title: Its title.
        record: What was swept.
        rows: Row to label: measured and expected ones first, then those that are only published.
        columns: Scores, those that were measured first.
        cells: By row and column; absent where there is neither a measurement nor a published number.
        costs: By row and cost: means over seeds, summed over units; only what was measured.
        published_costs: By row and cost, as printed.
        reference: The row the others are compared with.
        jobs: The finished jobs by row.
        expected: Rows the grid asks for, each with its values of the keys that make rows.
        about: What identifies all jobs alike (backbone, encoder, suite).
        synthetic: Synthetic datasets.
        notes: What to know when reading it.
    """

    title: str
    record: SweepRecord
    rows: Mapping[str, str]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]
    costs: Mapping[tuple[str, str], float]
    published_costs: Mapping[tuple[str, str], float]
    reference: str
    jobs: Mapping[str, tuple[Job, ...]]
    expected: Mapping[str, tuple[str, ...]]
    about: Mapping[str, Any] = field(default_factory=dict)
    synthetic: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Rows with at least one finished job."""
        return tuple(row for row in self.rows if row in self.jobs)

    @property
    def missing(self) -> tuple[str, ...]:
        """Rows the grid asks for of which no job has finished."""
        return tuple(row for row in self.expected if row not in self.jobs)

    def values(self, row: str) -> tuple[str, ...]:
        """A row's values of the keys that make rows; empty for one that is only published."""
        if row in self.expected or row not in self.jobs:
            return self.expected.get(row, ())
        return _row_values(self.jobs[row][0].swept, self.record)


def paper_table(directory: Path) -> PaperTable | None:
    """Build the table of a sweep directory; None if it has no record of what was swept.

    Raises:
        DataError: If a file of it is damaged.
        ConfigError: If its preset names published numbers that do not exist.
    """
    record = read_record(directory)
    if record is None:
        return None
    folders, strangers = jobs_of(directory, record)
    jobs = [_job(folder, record) for folder in folders]
    by_row: dict[str, tuple[Job, ...]] = {}
    for job in sorted(jobs, key=lambda job: job.seed):
        by_row[job.row] = (*by_row.get(job.row, ()), job)
    table = record.paper.get("table")
    numbers = read_published(str(table)) if table else ()
    expected = _expected(record)
    values = {job.row: _row_values(job.swept, record) for job in jobs} | expected
    names = dict.fromkeys((*expected, *by_row, *(number.row for number in numbers)))
    labels = {str(key): str(text) for key, text in (record.paper.get("labels") or {}).items()}
    rows = {name: _label(name, values.get(name, ()), record, labels) for name in names}
    wanted = record.paper.get("reference")
    # Part of a grid need not hold the preset's reference; the first row is one as good.
    held = wanted is not None and str(wanted) in (*expected, *by_row)
    reference = str(wanted) if held else next(iter(expected))
    columns = _columns(jobs, numbers)
    cells = {}
    for row in rows:
        for column in columns:
            cell = _cell(row, column, by_row, numbers, reference, record)
            if cell is not None:
                cells[row, column] = cell
    mean = _means(cells, [c for c in columns if c in _mains(jobs)], [row for row in rows if row in by_row], reference)
    if mean:
        cells |= {(row, MEAN): cell for row, cell in mean.items()}
        at = max(place for place, column in enumerate(columns) if column in _mains(jobs)) + 1
        columns = (*columns[:at], MEAN, *columns[at:])
    return PaperTable(
        title=str(record.paper.get("title") or ("Sweep over " + ", ".join(record.grid) if record.grid else "One job")),
        record=record,
        rows=rows,
        columns=columns,
        cells=cells,
        costs=_costs(by_row),
        published_costs={(n.row, n.metric): n.value for n in numbers if not n.datasets},
        reference=reference,
        jobs=by_row,
        expected=expected,
        about=_about(jobs, record),
        synthetic=tuple(sorted({name for job in jobs for name in job.results.synthetic})),
        notes=_notes(record, by_row, rows, expected, strangers, cells, reference),
    )


def _job(folder: Path, record: SweepRecord) -> Job:
    swept = read_job(folder)
    return Job(
        folder,
        row_name(swept, record),
        tuple(swept.get(key, "") for key in record.seeds),
        swept,
        read_results(folder),
        read_costs(folder),
    )


def jobs_of(directory: Path, record: SweepRecord) -> tuple[list[Path], list[Path]]:
    """The finished runs of a sweep directory that are its jobs, and those that are not.

    A rerun of a job, or a run that somebody put there, does not say which values of the grid it has.

    Raises:
        DataError: If a job's note of its values is damaged.
    """
    own: list[Path] = []
    strangers: list[Path] = []
    for folder in find_runs(directory):
        known = (folder / JOB).is_file() and set(read_job(folder)) == set(record.grid)
        (own if known else strangers).append(folder)
    return own, strangers


def row_name(swept: Mapping[str, str], record: SweepRecord) -> str:
    """The row that swept values belong to; where nothing makes rows, the reference row."""
    values = _row_values(swept, record)
    return ",".join(values) if values else str(record.paper.get("reference") or "measured")


def row_keys(record: SweepRecord) -> tuple[str, ...]:
    """The keys that make rows: of units that are scored job by job, not the key that says which."""
    return tuple(key for key in record.rows if key != record.paper.get("each"))


def _row_values(swept: Mapping[str, str], record: SweepRecord) -> tuple[str, ...]:
    return tuple(swept.get(key, "") for key in row_keys(record))


def _expected(record: SweepRecord) -> dict[str, tuple[str, ...]]:
    return {row_name(values, record): _row_values(values, record) for values in record.combinations()}


def _label(row: str, values: Sequence[str], record: SweepRecord, labels: Mapping[str, str]) -> str:
    if row in labels or not values:
        return labels.get(row, row)
    return ", ".join(labels.get(value, f"{key}={value}") for key, value in zip(row_keys(record), values, strict=True))


def _columns(jobs: Sequence[Job], numbers: Sequence[Published]) -> tuple[Column, ...]:
    printed = {(dataset, n.task, n.metric) for n in numbers for dataset in n.datasets}
    own = sorted((row for job in jobs for row in job.results.rows if row.own), key=reading_order)
    wanted = [row for row in own if row.main or (row.dataset, row.task, row.metric) in printed]
    measured = dict.fromkeys(Column(row.dataset, row.task, row.metric) for row in wanted)
    units = {column.unit for column in measured}
    timed = [Column(d, t, m) for d, t, m in sorted(printed) if m in COSTS and f"{d}.{t}" in units]
    seen = {
        name for n in numbers for name in n.datasets if any((name, n.task) == (c.dataset, c.task) for c in measured)
    }
    rest = [
        Column(n.datasets[0], n.task, n.metric) for n in numbers if n.datasets and not seen.intersection(n.datasets)
    ]
    unmeasured = [column for column in dict.fromkeys(rest) if column.unit not in units]
    return (*measured, *timed, *unmeasured)


def _cell(
    row: str,
    column: Column,
    by_row: Mapping[str, Sequence[Job]],
    numbers: Sequence[Published],
    reference: str,
    record: SweepRecord,
) -> Cell | None:
    published = find(numbers, column.dataset, column.task, column.metric, row)
    jobs = _about_unit(by_row.get(row, ()), column.unit, record)
    if column.metric in COSTS:
        spent = [cost for job in jobs if (cost := _job_costs(job, column.dataset).get(column.metric)) is not None]
        return Cell(tuple(spent), published=published) if spent or published else None
    scores = [
        score
        for job in jobs
        for score in job.results.rows
        if score.own and (score.dataset, score.task, score.metric) == (column.dataset, column.task, column.metric)
    ]
    if not scores:
        return Cell(published=published) if published else None
    values = tuple(100 * score.value for score in scores)
    half = _half(values)
    low, high = (100 * scores[0].ci_low, 100 * scores[0].ci_high) if len(values) == 1 else _around(values, half)
    delta = None
    if row != reference:
        delta = _delta(_about_unit(by_row.get(reference, ()), column.unit, record), jobs, column)
    return Cell(values, scores[0].n, half, low, high, published, delta)


def _mains(jobs: Sequence[Job]) -> set[Column]:
    """The score that each measured set is judged by."""
    return {
        Column(row.dataset, row.task, row.metric) for job in jobs for row in job.results.rows if row.own and row.main
    }


def _means(
    cells: Mapping[tuple[str, Column], Cell], mains: Sequence[Column], rows: Sequence[str], reference: str
) -> dict[str, Cell]:
    """Each row's mean over the sets in which every row was measured; empty where that would say nothing new."""
    shared = [c for c in mains if all((row, c) in cells and cells[row, c].values for row in rows)]
    if len(shared) < 2 or len(rows) < 2:
        return {}
    found = {}
    for row in rows:
        own = [cells[row, column] for column in shared]
        values = mean_values([cell.values for cell in own])
        if not values:
            continue
        half = _half(values)
        low, high = _around(values, half)
        if len(values) == 1:
            _, low, high = mean_interval([(cell.values[0], cell.low, cell.high) for cell in own])
        delta = None if row == reference else mean_difference([cell.delta for cell in own])
        found[row] = Cell(values, sum(cell.n for cell in own), half, low, high, delta=delta)
    return found


def _about_unit(jobs: Sequence[Job], unit: str, record: SweepRecord) -> list[Job]:
    """The jobs that a unit's score is taken from: all, or those whose value of the key ``each`` names it."""
    each = record.paper.get("each")
    if not each or each not in record.grid:
        return list(jobs)
    return [job for job in jobs if unit in job.swept.get(str(each), "").strip("[]").split(",")]


def _delta(reference: Sequence[Job], jobs: Sequence[Job], column: Column) -> Difference | None:
    """The paired difference over the seeds both rows have; None where predictions are missing or differ in queries."""
    base = {job.seed: job for job in reference}
    pairs = [(base[job.seed], job) for job in jobs if job.seed in base]
    if not pairs:
        return None
    try:
        first = [counted_unit(left.folder, column.unit) for left, _ in pairs]
        second = [counted_unit(right.folder, column.unit) for _, right in pairs]
        return paired_difference(first, second, column.metric, derive("paired", column.unit) % 2**32)
    except (DataError, ValueError, KeyError):
        return None


def _half(values: Sequence[float]) -> float:
    n = len(values)
    if n < 2:
        return 0.0
    quantile = _T975[n - 2] if n - 2 < len(_T975) else 1.96
    return quantile * stdev(values) / sqrt(n)


def _around(values: Sequence[float], half: float) -> tuple[float, float]:
    return max(0.0, mean(values) - half), min(100.0, mean(values) + half)


def _costs(by_row: Mapping[str, Sequence[Job]]) -> dict[tuple[str, str], float]:
    costs = {}
    for row, jobs in by_row.items():
        found = [_job_costs(job) for job in jobs]
        for name in COSTS:
            values = [cost[name] for cost in found if name in cost]
            if values:
                costs[row, name] = mean(values)
    return costs


def _job_costs(job: Job, dataset: str | None = None) -> dict[str, float]:
    """What a job's artifacts cost, whichever run computed them: of one dataset or of all."""
    if job.costs is None:
        return {}
    stages = [cost for cost in job.costs.stages if dataset is None or cost.unit.rpartition(".")[0] == dataset]

    def seconds(*names: str) -> float:
        return sum(cost.seconds for cost in stages if cost.stage in names)

    bill = [cost for cost in stages if cost.stage in (*SELECT_STAGES, "refine")]
    found = {"train_s": seconds("refine"), "total_s": seconds(*SELECT_STAGES, "refine"), "infer_s": seconds("infer")}
    if any(cost.stage in SELECT_STAGES for cost in stages):
        found["select_s"] = seconds(*SELECT_STAGES)
    ratio = run_ratio(job.folder) if dataset is None else None
    if ratio is not None:
        found["at_7b_percent"] = 100 * ratio
    if bill:
        found["peak_memory_gb"] = max(cost.peak_memory_mb for cost in bill) / 1000
    asked = _asked(job, dataset)
    answering = sum(cost.seconds for cost in stages if cost.stage == "infer" and cost.unit in asked)
    if asked and answering:
        found["queries_per_s"] = sum(asked.values()) / answering
    return found


def _asked(job: Job, dataset: str | None) -> dict[str, int]:
    """Questions that experts answered, by unit."""
    import pyarrow.parquet as pq

    asked = {}
    for path in sorted((job.folder / "predictions").glob("*.parquet")):
        unit = path.stem
        if dataset is not None and unit.rpartition(".")[0] != dataset:
            continue
        try:
            experts = pq.read_table(path, columns=["experts"]).column("experts").to_pylist()
        except (OSError, ValueError, KeyError) as error:
            fix = "run the same command again"
            raise DataError("The predictions cannot be read.", where=str(path), fix=fix) from error
        count = sum(bool(names) for names in experts)
        if count:
            asked[unit] = count
    return asked


def _about(jobs: Sequence[Job], record: SweepRecord) -> dict[str, Any]:
    keys = ("suite", "backbone", "encoder", "proxy", "trainer")
    configs = [job.results.config for job in jobs]
    return {
        key: configs[0][key]
        for key in keys
        if configs and key in configs[0] and len({str(c.get(key)) for c in configs}) == 1 and key not in record.grid
    }


def _notes(
    record: SweepRecord,
    by_row: Mapping[str, Sequence[Job]],
    rows: Mapping[str, str],
    expected: Mapping[str, tuple[str, ...]],
    strangers: Sequence[Path],
    cells: Mapping[tuple[str, Column], Cell],
    reference: str,
) -> tuple[str, ...]:
    notes = [str(record.paper["note"])] if record.paper.get("note") else []
    missing = [rows[row] for row in expected if row not in by_row]
    if missing:
        notes.append(f"Not run, hence missing: {', '.join(missing)}.")
    done = sum(len(jobs) for jobs in by_row.values())
    if done < record.jobs:
        notes.append(f"{done} of {record.jobs} jobs have finished.")
    if len({len(jobs) for jobs in by_row.values()}) > 1:
        counts = ", ".join(f"{rows[row]}: {len(by_row[row])}" for row in rows if row in by_row)
        notes.append(f"Rows differ in their number of finished jobs: {counts}.")
    wanted = str(record.paper.get("reference") or reference)
    if wanted != reference and len(rows) > 1:
        notes.append(f"Compared with {rows[reference]}, as this sweep does not have the preset's {wanted}.")
    unpaired = dict.fromkeys(
        column.unit
        for (row, column), cell in cells.items()
        if row != reference and column.metric not in COSTS and cell.values and cell.delta is None
        if (reference, column) in cells and cells[reference, column].values
    )
    if unpaired:
        notes.append(f"Predictions or data are gone, or of other seeds, hence no difference: {', '.join(unpaired)}.")
    if strangers:
        names = ", ".join(folder.name for folder in strangers)
        notes.append(f"Left out, being no jobs of this sweep: {names}.")
    return tuple(notes)
