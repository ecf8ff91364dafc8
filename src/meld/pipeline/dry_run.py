"""``dry_run=true``: the stages with their keys, what the store has, how long the rest took, and sample prompts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.pipeline.memory import show_memory
from meld.pipeline.node import Node, Plan
from meld.pipeline.plan import make_plan
from meld.report.console import reasons
from meld.report.results import Failure
from meld.serializer.prompt import PromptWriter
from meld.store.store import Store


def show(tree: Mapping[str, Any], store: Store, console: Console) -> tuple[Failure, ...]:
    """Print what a run would do. Loads data and tokenizers, trains nothing, writes no artifact.

    Args:
        tree: The resolved, validated configuration as plain containers.
        store: Where artifacts are.
        console: Where to print.

    Returns:
        The units that could not be loaded.
    """
    plan = make_plan(tree, store)
    for names, reason in reasons(plan.failures):
        console.print(Text(f"{names} would fail: ", style="bold red").append(reason, style="not bold default"))
    nodes = plan.wanted(tree["until"])
    past = past_seconds(store)
    table = Table(title="stages", title_justify="left")
    for column in ("stage", "unit", "key", "state", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    rest, unknown = 0.0, 0
    for node in nodes:
        if store.current(node.stage, node.key, node.sources):
            state, seconds = "[green]in the store[/green]", ""
        else:
            guess = guess_seconds(node, past)
            state, seconds = "new", "?" if guess is None else f"≈ {guess:.0f}"
            rest += guess or 0.0
            unknown += guess is None
        table.add_row(node.stage, node.unit, node.key, state, seconds)
    console.print(table)
    new = sum(not store.current(node.stage, node.key, node.sources) for node in nodes)
    about = f"about {rest:.0f} s by earlier runs on this store" if new > unknown else "no earlier run to estimate from"
    extra = f", {unknown} without an estimate" if unknown and new > unknown else ""
    console.print(
        f"{len(nodes)} artifacts, {new} to be computed: {about if new else 'nothing to do'}{extra}", highlight=False
    )
    trained = any(node.stage == "refine" for node in plan.nodes)
    show_memory(tree, plan.backbone, len(plan.experts) if trained else 0, console)
    _sample_prompts(plan, console)
    return plan.failures


def past_seconds(store: Store) -> dict[tuple[str, str], float]:
    """Seconds of the latest artifact of each stage and unit."""
    latest: dict[tuple[str, str], tuple[str, float]] = {}
    for entry in store.entries():
        key = (entry.stage, str(entry.manifest.get("unit")))
        made = (str(entry.manifest.get("created")), float(str(entry.manifest.get("seconds", 0.0))))
        latest[key] = max(latest.get(key, ("", 0.0)), made)
    return {key: seconds for key, (_, seconds) in latest.items()}


def guess_seconds(node: Node, past: Mapping[tuple[str, str], float]) -> float | None:
    """How long a node will take: as its stage and unit last did, else as the stage did on average; None if unknown."""
    if (node.stage, node.unit) in past:
        return past[(node.stage, node.unit)]
    same_stage = [seconds for (stage, _), seconds in past.items() if stage == node.stage]
    return sum(same_stage) / len(same_stage) if same_stage else None


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _sample_prompts(plan: Plan, console: Console) -> None:
    """One prompt per task that asks a language model, without demonstrations."""
    shown = set()
    for unit in plan.experts:
        task = unit.rpartition(".")[2]
        if task in shown:
            continue
        shown.add(task)
        data = plan.load_data(unit)
        backbone = plan.backbone
        tokenizer = backbone.tokenizer()
        writer = PromptWriter(
            plan.workshop.serializer,
            plan.workshop.tasks,
            partial(_tokens, tokenizer),
            backbone.max_prompt_tokens,
        )
        query = (*(s.query for s in data.train), *data.test)[0]
        prompt = writer.write(query)
        console.rule(f"sample prompt: {unit}", align="left")
        console.print(prompt.text, markup=False, highlight=False)
        console.print(f"({writer.count(prompt.text)} tokens without demonstrations)", style="dim", highlight=False)
