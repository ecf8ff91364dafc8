"""``dry_run=true`` of a sweep: what its jobs share, what is new, and how long that will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.config.validate import STAGES
from meld.pipeline.dry_run import guess_seconds, past_seconds
from meld.pipeline.node import PART_OF
from meld.pipeline.plan import make_plan
from meld.store.store import Store


@dataclass(frozen=True)
class Piece:
    """One artifact that a job needs.

    Attributes:
        stage: Its kind.
        key: Its key.
        done: Whether the store has it.
        seconds: How long it will take, by earlier runs; None if unknown.
    """

    stage: str
    key: str
    done: bool
    seconds: float | None


@dataclass(frozen=True)
class JobPlan:
    """What one job of a sweep needs.

    Attributes:
        name: The job's directory.
        values: What is swept in it.
        pieces: Its artifacts, in the order of the chain.
        left_out: Units that cannot be read, and why.
    """

    name: str
    values: Mapping[str, str]
    pieces: tuple[Piece, ...]
    left_out: tuple[str, ...] = ()


def plan_of(tree: Mapping[str, Any], store: Store, name: str, values: Mapping[str, str]) -> JobPlan:
    """Plan one job.

    Args:
        tree: The resolved, validated configuration as plain containers.
        store: Where artifacts are.
        name: The job's directory.
        values: What is swept in it.

    Raises:
        UserError: If data or weights are missing or unusable.
    """
    past = past_seconds(store)
    pieces = []
    plan = make_plan(tree, store)
    for node in plan.wanted(tree["until"]):
        done = store.current(node.stage, node.key, node.sources)
        pieces.append(Piece(node.stage, node.key, done, None if done else guess_seconds(node, past)))
    left_out = tuple(f"{failure.unit}: {failure.what}" for failure in plan.failures)
    return JobPlan(name, dict(values), tuple(pieces), left_out)


def show_sweep_plan(plans: Sequence[JobPlan], console: Console | None = None) -> None:
    """Print what a sweep would do: artifacts by stage, what each job adds to those before it, and the time.

    Args:
        plans: Its jobs in the order they run.
        console: Where to print.
    """
    console = console or Console()
    if not plans:
        return
    users = Counter((piece.stage, piece.key) for plan in plans for piece in plan.pieces)
    pieces = {(piece.stage, piece.key): piece for plan in plans for piece in plan.pieces}
    table = Table(title=f"{len(plans)} jobs by stage", title_justify="left")
    for column in ("stage", "artifacts", "shared", "in the store", "new", "seconds"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in sorted({name for name, _ in pieces}, key=_place):
        own = [piece for (name, _), piece in pieces.items() if name == stage]
        shared = sum(users[piece.stage, piece.key] > 1 for piece in own)
        new = [piece for piece in own if not piece.done]
        table.add_row(stage, str(len(own)), str(shared), str(len(own) - len(new)), str(len(new)), _seconds(new))
    console.print(table)
    seen: set[tuple[str, str]] = set()
    jobs = Table(title="jobs, each with what those before it leave to do", title_justify="left")
    for column in ("job", "artifacts", "new", "seconds"):
        jobs.add_column(column, justify="left" if column == "job" else "right")
    for plan in plans:
        mine = [p for p in plan.pieces if not p.done and (p.stage, p.key) not in seen]
        seen |= {(p.stage, p.key) for p in plan.pieces}
        jobs.add_row(Text(plan.name), str(len(plan.pieces)), str(len(mine)), _seconds(mine))
    console.print(jobs)
    for line in dict.fromkeys(line for plan in plans for line in plan.left_out):
        console.print(Text(f"left out: {line}", style="bold red"), soft_wrap=True)
    new = [piece for piece in pieces.values() if not piece.done]
    alone = sum(not piece.done for plan in plans for piece in plan.pieces)
    known = [piece.seconds for piece in new if piece.seconds is not None]
    about = f"about {sum(known):.0f} s one after another by earlier runs on this store" if known else "no estimate"
    about += f", {len(new) - len(known)} of them without an estimate" if known and len(known) < len(new) else ""
    console.print(
        f"{len(pieces)} artifacts, {len(new)} to be computed: {about if new else 'nothing to do'}; without sharing the "
        f"jobs would compute {alone}",
        highlight=False,
        soft_wrap=True,
    )


def _seconds(new: Sequence[Piece]) -> str:
    known = [piece.seconds for piece in new if piece.seconds is not None]
    if not known:
        return "?" if new else ""
    return f"≈ {sum(known):.0f}" + (" + ?" if len(known) < len(new) else "")


def _place(stage: str) -> tuple[int, str]:
    """Sort key that puts stages in the chain's order."""
    return STAGES.index(PART_OF.get(stage, stage)), stage
