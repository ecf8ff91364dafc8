"""A sweep's table as a page to be kept: what was measured, seed by seed, beside baselines, with what it was made by."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from meld.errors import DataError
from meld.report.paper import COSTS, MEAN, Column, Job, PaperTable, paper_table
from meld.report.paper_text import MISSING, markdown
from meld.report.results import ENVIRONMENT, read_json

_PLACES = ("paths.", "hydra.run.", "hydra.sweep.")


def kept_page(directory: Path) -> str:
    """The page, as Markdown. It names no folder of the machine and no dataset that was not measured.

    Args:
        directory: A sweep's directory.

    Raises:
        DataError: If nothing of a sweep has finished there, or a file of it is damaged.
    """
    table = paper_table(directory)
    if table is None or not table.jobs:
        raise DataError(
            "No job of a sweep has finished here.", where=str(directory), fix=f"meld status {directory} says why"
        )
    scored = {column for (_, column), cell in table.cells.items() if cell.values}
    shown = replace(
        table,
        columns=tuple(column for column in table.columns if column in scored),
        record=replace(table.record, command=portable(table.record.command)),
    )
    parts = [markdown(shown), *_by_seed(shown), *_baselines(shown), *_made(shown)]
    return "\n".join(parts)


def portable(command: str) -> str:
    """A command without the overrides that only say where things lie on one machine."""
    words = [word for word in shlex.split(command) if not word.lstrip("+~").startswith(_PLACES)]
    return shlex.join(words)


def _by_seed(table: PaperTable) -> list[str]:
    """Every seed's value, in the order of the seeds; nothing of a single one, which the table shows."""
    if len(_every_seed(table)) < 2:
        return []
    columns = [column for column in table.columns if column.metric not in COSTS]
    lines = ["### Seed by seed", "", *_head("dataset", "task", "row", *_seeds(table))]
    for column in columns:
        for row in table.measured:
            cell = table.cells.get((row, column))
            values = _values_by_seed(table.jobs[row], cell.values if cell is not None else ())
            if values:
                found = [f"{values[seed]:.1f}" if seed in values else MISSING for seed in _every_seed(table)]
                lines.append(_line(column.dataset, column.task, table.rows[row], *found))
    return [*lines, ""]


def _values_by_seed(jobs: Sequence[Job], values: Sequence[float]) -> dict[tuple[str, ...], float]:
    """Empty where a set was left out of some jobs, so that nobody could say whose values these are."""
    return dict(zip([job.seed for job in jobs], values, strict=True)) if len(jobs) == len(values) else {}


def _every_seed(table: PaperTable) -> list[tuple[str, ...]]:
    return sorted({job.seed for jobs in table.jobs.values() for job in jobs})


def _seeds(table: PaperTable) -> list[str]:
    names = table.record.seeds
    return [", ".join(f"{n} {v}" for n, v in zip(names, seed, strict=False)) for seed in _every_seed(table)]


def _baselines(table: PaperTable) -> list[str]:
    """Main scores of the systems that train nothing, over the reference row's jobs."""
    jobs = table.jobs.get(table.reference) or next(iter(table.jobs.values()))
    found: dict[tuple[Column, str], list[float]] = {}
    for job in jobs:
        for row in job.results.rows:
            if row.main and not row.own:
                found.setdefault((Column(row.dataset, row.task, row.metric), row.system), []).append(100 * row.value)
    lines = ["### Baselines", "", *_head("dataset", "task", "metric", "system", "value", "seeds")]
    for column in table.columns:
        for (about, system), values in found.items():
            if about == column != MEAN:
                cells = (column.dataset, column.task, column.metric, system, f"{mean(values):.1f}", str(len(values)))
                lines.append(_line(*cells))
    return [*lines, ""] if found else []


def _made(table: PaperTable) -> list[str]:
    """When, by which version and on what the jobs ran."""
    jobs = [job for of_row in table.jobs.values() for job in of_row]
    days = sorted({_day(job) for job in jobs} - {""})
    when = f"; jobs finished {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    facts = [f"Written by `meld report DIR --page FILE`{when}."]
    environments = [read_json(file) for job in jobs if (file := job.folder / ENVIRONMENT).is_file()]
    commits = sorted({str(e.get("code", {}).get("commit") or "")[:10] for e in environments} - {""})
    machines = sorted({str(e.get("machine", "")) for e in environments} - {""})
    facts += [f"Code {', '.join(commits)}."] if commits else []
    if environments:
        versions = environments[0].get("versions", {})
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        facts.append(f"{'; '.join(machines)}; {listed}.")
    unknown = len(jobs) - len(environments)
    facts += [f"Of {unknown} of {len(jobs)} jobs it is not recorded what they ran on."] if unknown else []
    return [" ".join(facts), ""]


def _day(job: Job) -> str:
    status = job.folder / "status.json"
    return str(read_json(status).get("updated", ""))[:10] if status.is_file() else ""


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
