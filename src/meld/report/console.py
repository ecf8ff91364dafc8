"""Results and costs as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from meld.report.results import Costs, Failure, Results, stage_order


def results_table(results: Results, *, all_metrics: bool = True) -> Table:
    """The results of a run: its own system in bold, baselines below it, synthetic datasets marked as such.

    Args:
        results: The content of results.json; units that failed come last, with the reason and the remedy below.
        all_metrics: False leaves only each task's headline metric.
    """
    synthetic = set(results.synthetic)
    caption = "value [95 % bootstrap interval]"
    if synthetic:
        caption += " · * synthetic data, made by the project"
    title = " · ".join(str(results.config[key]) for key in ("method", "suite") if results.config.get(key))
    table = Table(title=Text(title or "Results"), title_style="bold", caption_justify="left")
    table.add_column("dataset", overflow="fold")
    for heading in ("task", "system", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [row for row in results.rows if all_metrics or row.main]
    above: tuple[str, ...] = ("", "", "")
    for position, row in enumerate(rows):
        name = f"{row.dataset}*" if row.dataset in synthetic else row.dataset
        same_unit = above[:2] == (name, row.task)
        style = ("bold" if row.main else "") if row.own else "dim"
        table.add_row(
            Text("" if same_unit else name),
            "" if same_unit else row.task,
            Text("" if same_unit and above[2] == row.system else row.system, style=style),
            Text(row.metric, style=style),
            Text(f"{row.value:.3f}", style=style),
            Text(f"[{row.ci_low:.3f}, {row.ci_high:.3f}]", style=style),
            Text(f"{row.n:,}", style=style),
            end_section=position + 1 < len(rows) and rows[position + 1].unit != row.unit,
        )
        above = (name, row.task, row.system)
    if results.failures and rows:
        table.add_section()
    for failure in results.failures:
        table.add_row(Text(failure.dataset), failure.task, Text("failed", style="bold red"), Text(failure.stage))
    table.caption = Text(caption)
    for names, reason in reasons(results.failures):
        table.caption.append(f"\n{names} failed: ", style="bold red not italic").append(reason, style="not italic")
    return table


def reasons(failures: Sequence[Failure]) -> list[tuple[str, str]]:
    """Why units failed: the units of which the same is to be said, and the reason with its remedy."""
    said: dict[str, list[str]] = {}
    for failure in failures:
        said.setdefault(failure.what + (f"\n  fix: {failure.fix}" if failure.fix else ""), []).append(failure.unit)
    return [(", ".join(units), reason) for reason, units in said.items()]


def costs_table(costs: Costs) -> Table:
    """What each stage took, summed over units, in the chain's order.

    ``seconds`` is what computing the stage's artifacts took, whenever that was; ``here`` is the part this run spent.
    """
    table = Table(title="Costs", caption=Text(f"this run: {duration(costs.total_seconds)}"), caption_justify="left")
    table.add_column("stage", no_wrap=True)
    for heading in ("artifacts", "reused", "seconds", "here", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in sorted({cost.stage for cost in costs.stages}, key=stage_order):
        of_stage = [cost for cost in costs.stages if cost.stage == stage]
        table.add_row(
            Text(stage),
            str(len(of_stage)),
            str(sum(cost.reused for cost in of_stage)),
            duration(sum(cost.seconds for cost in of_stage)),
            duration(sum(cost.seconds for cost in of_stage if not cost.reused)),
            f"{max(cost.peak_memory_mb for cost in of_stage):,.0f} MB",
        )
    return table


def duration(seconds: float) -> str:
    """Seconds for people: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
