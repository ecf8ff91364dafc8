"""``meld store ls | why | gc``: what the store holds, why something was computed again, and what can go."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.cli.words import Words
from meld.errors import UserError
from meld.report.console import duration
from meld.report.results import read_costs, stage_order
from meld.store.gc import Waste, find_waste, remove
from meld.store.store import Entry, Store
from meld.store.uses import find_uses, read_links
from meld.store.why import Archive, Cause, Explanation, Leaf

PLACES = ("outputs/runs", "outputs/sweeps")
"""Where run directories are looked for; a store also remembers those that lie elsewhere."""


def run_store(words: Sequence[str]) -> int:
    """Carry out ``meld store ...``.

    Args:
        words: What follows it.

    Returns:
        Exit code.

    Raises:
        UserError: For wrong words, or a store that is not there.
    """
    given = _parser().parse_args(words)
    root = Path(given.store)
    if not root.is_dir():
        raise UserError("There is no store.", where=str(root), fix="--store DIR, the paths.store of your runs")
    store = Store(root)
    if given.action == "why":
        return _why(store, given.what, given.json)
    places = [Path(place) for place in given.runs or PLACES]
    return _ls(store, places, given) if given.action == "ls" else _gc(store, places, given)


def _parser() -> Words:
    common = Words(add_help=False)
    common.add_argument("--store", default="outputs/store", metavar="DIR", help="the store (default: outputs/store)")
    runs = Words(add_help=False)
    runs.add_argument(
        "--runs", action="append", metavar="DIR", help=f"where runs are, repeatable (default: {', '.join(PLACES)})"
    )
    parser = Words(prog="meld store")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ls|why|gc")
    listing = actions.add_parser("ls", parents=[common, runs], help="artifacts with size, time, age and who uses them")
    listing.add_argument("--stage", help="only this stage")
    listing.add_argument("--sort", choices=("size", "seconds", "age"), help="largest first (default: by stage)")
    listing.add_argument("--json", action="store_true")
    why = actions.add_parser("why", parents=[common], help="why an artifact, or a run's, were not re-used")
    why.add_argument("what", nargs="+", metavar="RUN [stage:unit] | KEY | stage/KEY")
    why.add_argument("--json", action="store_true")
    gc = actions.add_parser("gc", parents=[common, runs], help="remove what no run needs; says what, unless --yes")
    gc.add_argument("--keep-days", type=float, default=0.0, metavar="N", help="keep what is younger")
    gc.add_argument("--dry-run", action="store_true", help="remove nothing (the default without --yes)")
    gc.add_argument("--yes", action="store_true", help="remove")
    return parser


# -- ls ---------------------------------------------------------------------------------------------------------------


def _ls(store: Store, places: Sequence[Path], given: argparse.Namespace) -> int:
    uses = find_uses(store, places)
    rows = [
        _row(entry, uses.get((entry.stage, entry.key), []))
        for entry in store.entries()
        if given.stage in (None, entry.stage)
    ]
    rows.sort(key=lambda row: (*stage_order(row["stage"]), row["unit"], row["key"]))
    if given.sort:
        column = {"size": "size_bytes", "seconds": "seconds", "age": "age_seconds"}[given.sort]
        rows.sort(key=lambda row: -float(row[column]))
    totals = _totals(rows)
    if given.json:
        print(json.dumps({"artifacts": rows, "totals": totals}, indent=1, sort_keys=True))
        return 0
    console = Console()
    table = Table(title=Text(str(store.root)), title_style="bold")
    for heading in ("stage", "unit", "key"):
        table.add_column(heading, overflow="fold")
    for heading in ("size", "time", "memory", "age", "runs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("used by", no_wrap=True)
    for row in rows:
        used = (str(len(row["runs"])), _names(row["runs"]))
        table.add_row(row["stage"], Text(row["unit"]), row["key"], *_numbers(row), *used)
    console.print(table)
    table = Table(title="by stage", title_style="bold")
    table.add_column("stage")
    for heading in ("artifacts", "unused", "size", "time", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, total in totals.items():
        style = "bold" if name == "all" else ""
        table.add_row(
            name, str(total["artifacts"]), str(total["unused"]), *_numbers(total)[:3], style=style,
            end_section=name == list(totals)[-2] if len(totals) > 1 else False,
        )  # fmt: skip
    console.print(table)
    return 0


def _row(entry: Entry, runs: list[str]) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "stage": entry.stage,
        "unit": str(manifest.get("unit") or ""),
        "key": entry.key,
        "size_bytes": entry.size_bytes,
        "seconds": _number(manifest.get("seconds")),
        "peak_memory_mb": _number(manifest.get("peak_memory_mb")),
        "age_seconds": _age(str(manifest.get("created") or "")),
        "runs": runs,
    }


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sums per stage in the chain's order, and over all as the last."""
    found = {}
    for name in (*sorted({row["stage"] for row in rows}, key=stage_order), "all"):
        those = [row for row in rows if name in ("all", row["stage"])]
        found[name] = {
            "artifacts": len(those),
            "unused": sum(not row["runs"] for row in those),
            "size_bytes": sum(row["size_bytes"] for row in those),
            "seconds": round(sum(row["seconds"] for row in those), 3),
            "peak_memory_mb": max((row["peak_memory_mb"] for row in those), default=0.0),
        }
    return found


def _numbers(row: Mapping[str, Any]) -> list[str]:
    memory = f"{row['peak_memory_mb']:,.0f} MB"
    age = _days(row["age_seconds"]) if "age_seconds" in row else ""
    return [size(row["size_bytes"]), duration(row["seconds"]), memory, age]


def _names(runs: Sequence[str]) -> Text:
    """The first run and how many more there are."""
    if not runs:
        return Text("no run", style="dim")
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    name = Path(runs[0]).name
    return Text((name if len(name) <= 28 else f"{name[:17]}…{name[-10:]}") + more)


def size(count: float) -> str:
    """Bytes for people: ``812 B``, ``3.1 kB``, ``41 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _days(seconds: float) -> str:
    if seconds < 86400:
        return duration(seconds)
    return f"{seconds / 86400:.0f} d"


def _age(created: str) -> float:
    try:
        made = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return round(max(0.0, (datetime.now(timezone.utc) - made).total_seconds()), 0)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


# -- why --------------------------------------------------------------------------------------------------------------


def _why(store: Store, what: Sequence[str], as_json: bool) -> int:
    archive = Archive(store.entries())
    first = Path(what[0])
    if first.is_dir() and len(what) <= 2:
        found = _of_run(archive, first, what[1] if len(what) == 2 else None)
    elif len(what) == 1:
        found = _of_key(archive, what[0])
    else:
        raise UserError("meld store why takes one run or one key.", fix="meld store why RUN stage:unit, or KEY")
    if as_json:
        print(json.dumps([_plain(explanation) for explanation in found], indent=1))
        return 0
    console = Console()
    if len(found) == 1:
        console.print(_told(found[0]), soft_wrap=True, highlight=False)
    else:
        console.print(_summed(first, found), soft_wrap=True, highlight=False)
    return 0


def _of_key(archive: Archive, name: str) -> list[Explanation]:
    found = archive.find(name)
    if not found:
        fix = "meld store ls lists them; a run is named by its directory"
        raise UserError(f"No artifact is named {name!r}.", fix=fix)
    if len(found) > 1:
        names = ", ".join(f"{entry.stage}/{entry.key}" for entry in found[:8])
        raise UserError(f"{name!r} names {len(found)} artifacts: {names}.", fix="give more of the key, or stage/key")
    return [archive.explain(found[0])]


def _of_run(archive: Archive, run: Path, node: str | None) -> list[Explanation]:
    """What a run computed itself, or the one artifact asked about."""
    links = read_links(run)
    if not links:
        raise UserError("This directory links no artifacts.", where=str(run), fix="give a directory that holds one run")
    if node is not None:
        wanted = node.replace(":", ".", 1)
        links = [link for link in links if link.name == wanted]
        if not links:
            known = ", ".join(link.name.replace(".", ":", 1) for link in read_links(run)[:6])
            raise UserError(f"The run has no {node!r}.", where=str(run), fix=f"name a stage and unit of it: {known}, …")
    else:
        costs = read_costs(run)
        reused = {(cost.stage, cost.key) for cost in costs.stages if cost.reused} if costs else set()
        links = [link for link in links if (link.stage, link.key) not in reused]
    entries = [entry for link in links if (entry := archive.get(link.stage, link.key)) is not None]
    if node is not None and not entries:
        raise UserError(f"{node} of this run is not in the store.", where=str(run), fix="repeat the run's command")
    return [archive.explain(entry) for entry in sorted(entries, key=lambda entry: stage_order(entry.stage))]


def _id(entry: Entry) -> str:
    return f"{entry.stage}:{entry.manifest.get('unit')}"


def _told(said: Explanation) -> Text:
    text = Text(f"{_id(said.entry)} {said.entry.key}\n", style="bold")
    if said.forced:
        text.append(f"{said.forced}\n", style="not bold")
    if said.nearest is None:
        return text.append("nothing else of this stage and unit is in the store", style="not bold")
    when = "" if said.earlier else " (made later: there was nothing to re-use when this one was made)"
    text.append(f"differs from the nearest, {said.nearest.key}{when}, because of\n", style="not bold")
    for cause in said.causes:
        text.append(f"  {cause.leaf}\n", style="bold")
        if len(cause.path) > 1:
            text.append(f"    in {' ← '.join(reversed(cause.path))}\n", style="dim not bold")
    if said.own or said.inputs:
        text.append("what differs in the artifact itself\n", style="not bold")
    for leaf in (*said.own, *said.inputs):
        text.append(f"  {leaf}\n", style="dim not bold")
    text.rstrip()
    return text


def _summed(run: Path, found: Sequence[Explanation]) -> Text:
    """A run's own artifacts by what made them new."""
    if not found:
        return Text("every artifact of this run was in the store already")
    groups: dict[str, list[str]] = {}
    for said in found:
        if said.forced:
            reason = said.forced
        elif said.nearest is None or not said.earlier:
            reason = "nothing of the same stage and unit was in the store"
        else:
            reason = "; ".join(str(cause.leaf) for cause in said.causes)
        groups.setdefault(reason, []).append(_id(said.entry))
    text = Text(f"{len(found)} artifacts were computed by {run.name}\n", style="bold")
    for reason, names in groups.items():
        text.append(f"{reason}\n", style="bold").append(f"  {', '.join(names)}\n", style="not bold")
    text.append("meld store why RUN stage:unit tells more about one", style="dim")
    return text


def _plain(said: Explanation) -> dict[str, Any]:
    def leaf(one: Leaf) -> dict[str, Any]:
        return {"name": one.name, "old": one.old, "new": one.new}

    def cause(one: Cause) -> dict[str, Any]:
        return {"path": list(one.path), **leaf(one.leaf)}

    return {
        "artifact": f"{said.entry.stage}/{said.entry.key}",
        "unit": said.entry.manifest.get("unit"),
        "nearest": None if said.nearest is None else f"{said.nearest.stage}/{said.nearest.key}",
        "earlier": said.earlier,
        "own": [leaf(one) for one in said.own],
        "inputs": [leaf(one) for one in said.inputs],
        "causes": [cause(one) for one in said.causes],
    }


# -- gc ---------------------------------------------------------------------------------------------------------------


def _gc(store: Store, places: Sequence[Path], given: argparse.Namespace) -> int:
    if given.keep_days < 0:
        raise UserError("--keep-days is a number of days, 0 or more.", fix="meld store gc --keep-days 7")
    started = time.monotonic()
    uses = find_uses(store, places)
    if given.yes and not given.dry_run and not uses and any(store.entries()):
        raise UserError(
            "No run was found that uses this store, so all of it would go.",
            where=f"{store.root}, runs below {', '.join(map(str, places))}",
            fix="--runs DIR says where the runs are; if there are none, delete the folder",
        )
    waste = find_waste(store, uses, given.keep_days)
    console = Console()
    if not waste:
        console.print("nothing to remove: every artifact is used by a run that is kept")
        return 0
    console.print(_waste_table(waste))
    total = size(sum(item.size_bytes for item in waste))
    if given.dry_run or not given.yes:
        console.print(f"{len(waste)} things, {total}, would be removed; --yes removes them", highlight=False)
        return 0
    removed = remove(store, waste, lambda: find_uses(store, places))
    freed = size(sum(item.size_bytes for item in removed))
    spared = len(waste) - len(removed)
    console.print(
        f"removed {len(removed)} things, {freed}, in {duration(time.monotonic() - started)}"
        + (f"; {spared} stay, as somebody has begun to use them" if spared else ""),
        highlight=False,
    )
    return 0


def _waste_table(waste: Sequence[Waste]) -> Table:
    table = Table(title="what no run needs", title_style="bold")
    for heading in ("what", "name"):
        table.add_column(heading)
    table.add_column("size", justify="right", no_wrap=True)
    for item in waste:
        table.add_row(item.kind, Text(item.name), size(item.size_bytes))
    return table
