"""The files of a sweep's table: ``report.html`` with its figure, ``paper.md``, ``paper.tex``, ``paper.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meld.report.figures import draw, save
from meld.report.html import REPORT, Bar, Group, environment
from meld.report.paper import COSTS, Column, PaperTable
from meld.report.paper_text import cost_cell, cost_names, counts, difference, frame, latex, legend, markdown
from meld.report.paper_text import measured as measured_text
from meld.report.paper_text import printed as printed_text
from meld.report.results import write_text
from meld.report.status import JobState

NAME = "paper"


def write_paper(directory: Path, table: PaperTable, jobs: Sequence[JobState]) -> Path:
    """Write a sweep's table and figure.

    Args:
        directory: The sweep's.
        table: What it found.
        jobs: The state of all its jobs; unfinished ones are listed.

    Returns:
        The path of ``report.html``.
    """
    write_text(directory / f"{NAME}.md", markdown(table))
    write_text(directory / f"{NAME}.tex", latex(table))
    write_text(directory / f"{NAME}.csv", frame(table).to_csv(index=False, lineterminator="\n"))
    figure = draw(table)
    image = save(figure, directory) if figure is not None else ""
    return write_text(directory / REPORT, render(table, image, jobs))


def render(table: PaperTable, figure: str, jobs: Sequence[JobState]) -> str:
    """The page as HTML text.

    Args:
        table: What to show.
        figure: An SVG element; empty for none.
        jobs: The state of the sweep's jobs.
    """
    return (
        environment()
        .get_template("paper.html.j2")
        .render(
            table=table,
            figure=figure,
            groups=_groups(table),
            unfinished=[job for job in jobs if job.state != "done"],
            finished=sum(len(found) for found in table.jobs.values()),
            legend=legend(table),
            heads=COSTS,
            costs=cost_names(table),
            measured=measured_text,
            printed=printed_text,
            difference=difference,
            counts=counts,
            cost=cost_cell,
        )
    )


def _groups(table: PaperTable) -> list[Group]:
    """Rows beside the simple baselines of their runs, one chart for each score."""
    groups = []
    for column in table.columns:
        found = []
        for row, label in table.rows.items():
            cell = table.cells.get((row, column))
            if cell is not None and cell.value is not None and cell.n:
                low, high = max(0.0, cell.low / 100), min(1.0, cell.high / 100)
                found.append(Bar(label, cell.value / 100, low, high, cell.n, True))
        if found:
            name, synthetic = column.dataset, column.dataset in table.synthetic
            found += _baselines(table, column)
            groups.append(Group(name, column.task, column.metric, synthetic, tuple(found)))
    return groups


def _baselines(table: PaperTable, column: Column) -> list[Bar]:
    """The baselines of the first job that has the unit; they train on nothing that a seed or a row changes."""
    for jobs in table.jobs.values():
        for job in jobs:
            own = [
                row
                for row in job.results.rows
                if not row.own and (row.dataset, row.task, row.metric) == (column.dataset, column.task, column.metric)
            ]
            if own:
                return [Bar(row.system, row.value, row.ci_low, row.ci_high, row.n, False) for row in own]
    return []
