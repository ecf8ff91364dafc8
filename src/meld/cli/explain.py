"""``meld explain RUN QUERY_ID``: why a prediction is what it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.errors import UserError
from meld.report.explain import Explanation, as_line, explain

USAGE = "meld explain RUN QUERY_ID [--json]"
_CHOICES = 10


def run_explain(words: Sequence[str], console: Console | None = None) -> int:
    """Carry out ``meld explain ...``.

    Args:
        words: What follows ``explain``.
        console: Where to print; the terminal by default.

    Returns:
        Exit code.

    Raises:
        UserError: For wrong arguments, a directory without predictions, or an id that names no query or several.
    """
    given = [word for word in words if word != "--json"]
    if len(given) != 2 or any(word.startswith("--") for word in given):
        raise UserError(
            "meld explain takes a run directory and a query id.",
            fix=f"{USAGE}; a part of an id will do if no other query's holds it",
        )
    run, wanted = Path(given[0]), given[1]
    if not run.is_dir():
        raise UserError(f"There is no directory {run}.", fix="give a run directory such as outputs/runs/NAME")
    found = explain(run, wanted)
    if len(given) < len(words):
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return 0
    show(found, console or Console())
    return 0


def show(found: Explanation, console: Console) -> None:
    """Print an explanation. Values of tables are text, never markup."""
    console.print(Text(found.query_id, style="bold"))
    _show_query(found, console)
    _show_answer(found, console)
    if found.experts:
        line = ", ".join(f"{name} {weight:.3f}" for name, weight in found.experts)
        _section(console, "experts", line)
    _show_path(found, console)
    if found.choices:
        cut = f" (the first {_CHOICES} of {len(found.choices)})" if len(found.choices) > _CHOICES else ""
        _section(console, "ranked", f"answers, the most probable first{cut}")
        console.print(_choices_table(found))
    if found.demonstrations:
        _section(console, "like it", "retrieved demonstrations")
        console.print(_demonstrations_table(found))
    if found.prompt:
        _section(console, "prompt", found.prompt)
    for note in found.notes:
        console.print(Text(note, style="dim"))


def _section(console: Console, name: str, text: str) -> None:
    console.print(Text.assemble((f"{name:<9} ", "cyan"), text), soft_wrap=True)


def _show_query(found: Explanation, console: Console) -> None:
    if found.title:
        _section(console, "table", found.title)
    for entity in found.entities:
        _section(console, "given", as_line(entity) or "(empty)")
    if found.target:
        _section(console, "asked", found.target)


def _show_answer(found: Explanation, console: Console) -> None:
    output = "(no answer)" if found.output is None else found.output or "(empty)"
    _section(console, "answer", f"{output}   score {found.score:.3f}, {found.status}")
    if found.raw:
        _section(console, "written", found.raw)
    if found.gold is not None:
        gold = " | ".join(value or "(empty)" for value in found.gold[:_CHOICES])
        verdict = ("right", "green") if found.correct else ("wrong", "red")
        console.print(Text.assemble((f"{'gold':<9} ", "cyan"), gold, "   ", verdict), soft_wrap=True)


def _show_path(found: Explanation, console: Console) -> None:
    touched = [edit.step for edit in found.edits]
    if found.path:
        still = [step for step in found.path if step not in touched]
        said = f"   (left this query as it was: {', '.join(still)})" if still else ""
        _section(console, "path", " > ".join(found.path) + said)
    if found.edits:
        table = Table()
        for heading in ("step", "did", "where", "before", "after", "confidence"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "confidence" else "left")
        for edit in found.edits:
            several = edit.entity >= 0 and len(found.entities) > 1
            place = f"{edit.attribute} of tuple {edit.entity + 1}" if several else edit.attribute
            cells = (edit.step, edit.kind, place, edit.before, edit.after, f"{edit.confidence:.3f}")
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)


def _choices_table(found: Explanation) -> Table:
    with_evidence = any(choice.evidence is not None for choice in found.choices)
    table = Table()
    table.add_column("answer", overflow="fold")
    table.add_column("probability", justify="right")
    if with_evidence:
        table.add_column("by retrieval alone", justify="right")
    for choice in found.choices[:_CHOICES]:
        style = "bold" if choice.value == found.output else ""
        value = f"{choice.value} ({choice.record})" if choice.record else choice.value or "(empty)"
        cells = [Text(value, style=style), Text(f"{choice.probability:.3f}", style=style)]
        if with_evidence:
            cells.append(Text("" if choice.evidence is None else f"{choice.evidence:.3f}"))
        table.add_row(*cells)
    return table


def _demonstrations_table(found: Explanation) -> Table:
    table = Table()
    for heading in ("similarity", "label", "source", "in prompt", "query"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "similarity" else "left")
    for demo in found.demonstrations:
        query = " | ".join(as_line(entity) for entity in demo.entities)
        shown = "?" if demo.shown is None else "yes" if demo.shown else "no"
        cells = (f"{demo.similarity:.3f}", demo.label, demo.provenance, shown)
        table.add_row(*(Text(cell) for cell in cells), Text(f"{demo.target}? {query}" if demo.target else query))
    return table
