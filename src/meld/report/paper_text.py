"""A sweep's table as rich text, Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from meld.evaluate.paired import Difference
from meld.report.paper import COSTS, MEAN, Cell, Column, PaperTable

if TYPE_CHECKING:
    import pandas as pd

MISSING = "–"
LEGEND = (
    "Scores times 100. Measured: mean ± half the 95 % interval over seeds (Student's t), or one seed's value "
    "[95 % bootstrap interval over queries]. Difference: to the reference on the same queries, paired 95 % bootstrap "
    "interval; * where it leaves zero out. Published numbers are the papers', with the papers' models. – is missing."
)
LEGEND_MEAN = (
    "Mean of sets: over those on which every row was measured, each by its main score; its difference's interval takes "
    "the sets for independent."
)
LEGEND_COUNT = (
    "By count: operations (2 × parameters × tokens × passes) from pool to expert, had the tokens of this run been read "
    "by a proxy of 0.5B and an expert of 7B parameters, for one epoch, in per cent of training on the full set; an "
    "estimate."
)
LATEX_SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "|": r"\textbar{}"}


def measured(cell: Cell | None, column: Column | None = None) -> str:
    """A cell's measurement in one line; a dash where there is none."""
    value = cell.value if cell is not None else None
    if cell is None or value is None:
        return MISSING
    if column is not None and column.metric in COSTS:
        return f"{value:,.1f}"
    if len(cell.values) > 1:
        return f"{value:.1f} ± {cell.half:.1f}"
    return f"{value:.1f} [{cell.low:.1f}, {cell.high:.1f}]"


def printed(cell: Cell | None) -> str:
    """A cell's published numbers, that of the conference version marked; a dash where there is none."""
    if cell is None or not cell.published:
        return MISSING
    return ", ".join(
        (f"{n.value:,g}" if n.metric in COSTS else f"{n.value:.2f}") + (" (conf.)" if n.paper == "conference" else "")
        for n in cell.published
    )


def difference(delta: Difference | None) -> str:
    """A paired difference times 100 with its interval; empty where there is none."""
    if delta is None:
        return ""
    star = " *" if delta.clear else ""
    return f"{100 * delta.value:+.1f} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}]{star}"


def counts(cell: Cell | None) -> str:
    """Seeds and queries behind a measurement."""
    return f"{len(cell.values)} × {cell.n:,}" if cell is not None and cell.values and cell.n else ""


def lines(table: PaperTable) -> list[tuple[Column, str, Cell | None]]:
    """The table line by line: every column with each row that was measured, is expected or is published there."""
    found: list[tuple[Column, str, Cell | None]] = []
    scored = {column for (_, column), cell in table.cells.items() if cell.values}
    for column in table.columns:
        for row in table.rows:
            cell = table.cells.get((row, column))
            if cell is not None or (column in scored and row in table.expected):
                found.append((column, row, cell))
    return found


def rich_table(table: PaperTable) -> Group:
    """The table for a terminal, costs below it."""
    shown = Table(title=Text(heading(table)), title_style="bold", caption=Text(caption(table)), caption_justify="left")
    shown.add_column("dataset", overflow="fold")
    shown.add_column("task", no_wrap=True)
    shown.add_column("row", overflow="fold")
    every = lines(table)
    # A sweep of one's own has nothing published to stand beside it.
    papers = any(cell is not None and cell.published for _, _, cell in every)
    names = ["measured", *(["published"] if papers else [])]
    for name in (*names, f"difference to {table.rows.get(table.reference, table.reference)}"):
        shown.add_column(name, justify="right")
    shown.add_column("seeds × n", justify="right", no_wrap=True)
    above: Column | None = None
    for place, (column, row, cell) in enumerate(every):
        first = column != above
        name = f"{column.dataset}*" if column.dataset in table.synthetic else column.dataset
        shown.add_row(
            Text(name if first else ""),
            f"{column.task} {COSTS.get(column.metric, column.metric)}" if first else "",
            Text(table.rows[row], style="bold" if row == table.reference else ""),
            Text(measured(cell, column), style="" if cell is not None and cell.values else "dim"),
            *([Text(printed(cell), style="dim")] if papers else []),
            Text(difference(cell.delta) if cell is not None else ""),
            Text(counts(cell), style="dim"),
            end_section=place + 1 < len(every) and every[place + 1][0] != column,
        )
        above = column
    return Group(shown, *([costs_table(table)] if table.costs or table.published_costs else []))


def costs_table(table: PaperTable) -> Table:
    """What each row costs, over all its units, beside what the papers print."""
    names = cost_names(table)
    shown = Table(title=Text("Costs, mean over seeds"), title_style="bold", padding=(0, 0, 0, 1))
    shown.add_column("row", overflow="fold")
    for name in names:
        # A word a line, so that eighty columns are enough.
        shown.add_column(COSTS[name].replace(" ", "\n"), justify="right")
    for row, label in table.rows.items():
        cells = [cost_cell(table, row, name) for name in names]
        if any(cells):
            shown.add_row(Text(label), *(Text(cell or MISSING) for cell in cells))
    return shown


def cost_names(table: PaperTable) -> list[str]:
    """The costs that were measured or are published."""
    known = {name for _, name in (*table.costs, *table.published_costs)}
    return [name for name in COSTS if name in known]


def cost_cell(table: PaperTable, row: str, name: str) -> str:
    """A cost as measured, the published one in parentheses; empty where there is neither."""
    own, theirs = table.costs.get((row, name)), table.published_costs.get((row, name))
    mine = f"{own:,.2f}" if own is not None and own < 10 else f"{own:,.0f}" if own is not None else ""
    return " ".join(part for part in (mine, f"(published {theirs:,g})" if theirs is not None else "") if part)


def heading(table: PaperTable) -> str:
    """Title and what was measured with."""
    with_ = ", ".join(f"{key} {value}" for key, value in table.about.items())
    return table.title + (f" · measured with {with_}" if with_ else "")


def caption(table: PaperTable, costs: bool = True) -> str:
    """The legend, and what to know; ``costs`` says whether they are shown as well."""
    synthetic = f"* synthetic data: {', '.join(table.synthetic)}." if table.synthetic else ""
    return " ".join(part for part in (legend(table, costs), synthetic, *table.notes) if part)


def legend(table: PaperTable, costs: bool = True) -> str:
    """How to read the numbers, of the mean and of costs by count only where there are any."""
    counted = costs and any(name == "at_7b_percent" for _, name in table.costs)
    return " ".join([LEGEND, *([LEGEND_MEAN] if MEAN in table.columns else []), *([LEGEND_COUNT] if counted else [])])


def markdown(table: PaperTable) -> str:
    """The table, its costs and its notes as Markdown."""
    heads = ["dataset", "task", "metric", "row", "measured", "published", "difference", "seeds × n"]
    out = [f"## {_md(heading(table))}", "", "| " + " | ".join(heads) + " |", "|---|---|---|---|---:|---:|---:|---:|"]
    for column, row, cell in lines(table):
        texts = [
            column.dataset,
            column.task,
            column.metric,
            table.rows[row],
            measured(cell, column),
            printed(cell),
            difference(cell.delta) if cell is not None else "",
            counts(cell),
        ]
        out.append("| " + " | ".join(_md(text) for text in texts) + " |")
    names = cost_names(table)
    if names:
        out += ["", "| row | " + " | ".join(COSTS[name] for name in names) + " |", "|---|" + "---:|" * len(names)]
        for row, label in table.rows.items():
            cells = [cost_cell(table, row, name) for name in names]
            if any(cells):
                out.append(f"| {_md(label)} | " + " | ".join(cell or MISSING for cell in cells) + " |")
    return "\n".join([*out, "", _md(caption(table)), "", f"`{table.record.command}`", ""])


def latex(table: PaperTable) -> str:
    """The table as the papers print it: a line for each dataset, a column for each row; published numbers in
    parentheses. Needs the package booktabs.
    """
    rows = list(table.rows)
    out = [
        "% " + table.record.command.replace("\n", " "),
        r"\begin{table}",
        r"\centering",
        r"\caption{" + _tex(heading(table)) + ". " + _tex(caption(table, costs=False)) + "}",
        r"\begin{tabular}{ll" + "r" * len(rows) + "}",
        r"\toprule",
        "Task & Dataset & " + " & ".join(_tex(table.rows[row]) for row in rows) + r" \\",
        r"\midrule",
    ]
    for column in table.columns:
        cells = [table.cells.get((row, column)) for row in rows]
        texts = []
        for cell in cells:
            theirs = printed(cell)
            text = measured(cell, column).replace("±", r"$\pm$").replace(MISSING, "--")
            texts.append(_tex_number(text) + (f" ({theirs})" if theirs != MISSING else ""))
        head = _tex(f"{column.task.upper()} {COSTS.get(column.metric, column.metric)}")
        out.append(f"{head} & {_tex(column.dataset)} & " + " & ".join(texts) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(out)


def frame(table: PaperTable) -> pd.DataFrame:
    """Every cell with all its numbers, one line each; costs of a whole row have no dataset."""
    import pandas as pd

    records: list[dict[str, Any]] = []
    for column, row, cell in lines(table):
        found = cell or Cell()
        delta = found.delta
        records.append(
            {
                "dataset": column.dataset,
                "task": column.task,
                "metric": column.metric,
                "row": row,
                "label": table.rows[row],
                "value": found.value,
                "low": found.low if found.n else None,
                "high": found.high if found.n else None,
                "seeds": len(found.values),
                "n": found.n or None,
                **_published(found),
                "difference": 100 * delta.value if delta else None,
                "difference_low": 100 * delta.low if delta else None,
                "difference_high": 100 * delta.high if delta else None,
            }
        )
    for row, name in dict.fromkeys((*table.costs, *table.published_costs)):
        theirs = {"journal": table.published_costs.get((row, name))}
        label = {"row": row, "label": table.rows[row], "metric": name}
        records.append({**label, "value": table.costs.get((row, name)), **theirs})
    return pd.DataFrame.from_records(records)


def _published(cell: Cell) -> Mapping[str, float | None]:
    by_paper = {number.paper: number.value for number in cell.published}
    return {"journal": by_paper.get("journal"), "conference": by_paper.get("conference")}


def _md(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " ")


def _tex(text: str) -> str:
    plain = text.replace("±", "+/-").replace("×", "x").replace("–", "--").replace("·", "-")
    return "".join(LATEX_SPECIAL.get(character, character) for character in plain)


def _tex_number(text: str) -> str:
    return text.replace("%", r"\%")
