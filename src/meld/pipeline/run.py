"""Carrying out a plan, and writing the run directory."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.text import Text

from meld.backbone.weights import check_reachable
from meld.config.build import build
from meld.config.tree import config_hash
from meld.errors import ConfigError, UserError
from meld.logger.base import LightningSink, MetricLogger, MetricSink
from meld.pipeline.display import Display
from meld.pipeline.node import Node, Plan, artifact
from meld.pipeline.plan import make_plan
from meld.pipeline.routing import write_routing
from meld.pipeline.selection import TABLES as SELECTION
from meld.pipeline.selection import selection_summary
from meld.pipeline.tracking import Tracking
from meld.report.annotation import ANNOTATION
from meld.report.console import reasons
from meld.report.html import write_report
from meld.report.paths import search_costs, write_paths
from meld.report.results import Cost, Failure, Row, rows_of, write_costs, write_environment, write_json, write_results
from meld.stages.base import Context, read_json
from meld.store.store import Draft, Store
from meld.store.uses import link_artifacts, note_run
from meld.types import Score


def identity(tree: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """What identifies a run for people: the options chosen and the papers' numbers, flat.

    Args:
        tree: The resolved configuration.
        choices: Group to option, as composed.
    """
    groups = (
        "suite",
        "variant",
        "encoder",
        "retriever",
        "annotator",
        "backbone",
        "expert",
        "metapath",
        "selector",
        "refine",
        "router",
        "mixer",
        "engine",
        "trainer",
        "serializer",
        "transfer",
    )
    numbers = (
        "seed",
        "data_seed",
        "k",
        "B",
        "c",
        "n_demos",
        "sigma",
        "tau",
        "lambda1",
        "lambda2",
        "damping",
        "max_path",
    )
    flat: dict[str, Any] = {"method": tree["system"]}
    flat |= {name: choices[name] for name in groups if name in choices}
    flat |= {"proxy": choices.get("backbone@proxy", "")}
    flat |= {name: tree[name] for name in numbers}
    flat |= {"path_steps": " ".join(tree["path_steps"]), "path_align": tree["path_align"]}
    return flat


class RunRecord:
    """The run directory: status while it runs, results when it is done.

    Args:
        folder: The directory; made if absent.
        command: The command that repeats the run.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._status: dict[str, Any] = {
            "state": "running",
            "stage": "",
            "done": 0,
            "total": 0,
            "started": _now(),
            "updated": _now(),
            "command": command,
            "error": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }

    def update(self, **fields: Any) -> None:
        """Change the status and write it."""
        self._status |= {**fields, "updated": _now()}
        write_json(self.folder / "status.json", self._status)

    def log(self, error: Exception) -> None:
        """Append an error to the run's log, with where in the program it was raised."""
        with (self.folder / "meld.log").open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def execute(
    tree: Mapping[str, Any],
    shown: Mapping[str, Any],
    choices: Mapping[str, str],
    folder: Path,
    command: str,
    console: Console,
    group: str | None = None,
) -> tuple[Failure, ...]:
    """Carry out a run.

    A unit that fails does not stop the others: they are carried through without it, and it is named in the results.

    Args:
        tree: The resolved, validated configuration as plain containers.
        shown: The same without secrets, for records and loggers.
        choices: Group to option, as composed.
        folder: The run directory.
        command: The command that repeats the run.
        console: Where to draw.
        group: The sweep's name; None outside a sweep.

    Returns:
        The units that failed; empty if all is well.

    Raises:
        UserError: If data or weights are missing or unusable, or a stage cannot be carried out, so that no unit comes
            to be scored.
    """
    # Lightning's notes on devices and finished epochs would drown the one line per stage.
    for noisy in ("lightning.pytorch", "lightning.fabric", "sentence_transformers", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A model that cannot be reached is reported once, with the remedy, not at each of five attempts.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    record = RunRecord(folder, command)
    record.update()
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(shown), sort_keys=False, allow_unicode=True))
    try:
        store = Store(Path(tree["paths"]["store"]))
        plan = make_plan(tree, store)
        for note in plan.notes:
            console.print(note, style="dim", markup=False, highlight=False)
        for names, reason in reasons(plan.failures):
            _say_failed(console, names, reason)
        nodes = plan.wanted(tree["until"])
        if any(not store.current(node.stage, node.key, node.sources) for node in nodes):
            check_reachable(plan.workshop.encoder.path, "encoder.path")
            if plan.experts:
                check_reachable(plan.backbone.path, "backbone.path", plan.backbone.revision)
        tracking = Tracking(_build_logger(tree), tree, shown, folder, group, nodes)
        complete = False
        try:
            plan, costs = _carry_out(plan, tree, store, record, console, tracking.sink)
            for unit in _write_run(plan, tree, choices, folder, store, costs, tracking):
                note = (
                    f"{unit}: no question has a known answer; its answers are in predictions/, and nothing is scored."
                )
                console.print(note, style="dim", markup=False, highlight=False)
            complete = not plan.failures
        finally:
            tracking.finish(complete)
    except KeyboardInterrupt:
        record.update(state="failed", error="interrupted; the same command continues")
        raise
    except Exception as error:
        record.update(state="failed", error=f"{type(error).__name__}: {error}")
        raise
    failed = "; ".join(f"{names}: {reason}" for names, reason in reasons(plan.failures))
    record.update(state="failed" if failed else "done", stage="", error=failed or None)
    return plan.failures


def _say_failed(console: Console, names: str, reason: str) -> None:
    text = Text(f"{names} failed: ", style="bold red").append(reason, style="not bold default")
    console.print(text.append("\n  the other units go on without", style="dim"), highlight=False)


def _build_logger(tree: Mapping[str, Any]) -> MetricLogger:
    made: MetricLogger = build(tree["logger"], allow=tuple(tree.get("allow") or ()), place="logger")
    return made


def _carry_out(
    plan: Plan,
    tree: Mapping[str, Any],
    store: Store,
    record: RunRecord,
    console: Console,
    sink: MetricSink,
) -> tuple[Plan, list[Cost]]:
    """Make the artifacts of a plan; where a unit fails, those of the plan without it.

    Returns:
        The plan that was carried out in the end, and what its artifacts cost.

    Raises:
        ConfigError: Of any stage.
        Exception: What a stage of the whole suite raised, or the last unit that was left.
    """
    made: dict[tuple[str, str], Cost] = {}
    note_run(store, record.folder)
    claimed: dict[str, Path] = {}
    with Display(console, len(plan.wanted(tree["until"]))) as display:
        while True:
            nodes = plan.wanted(tree["until"])
            display.expect(len(nodes))
            # A claim on everything before anything is looked up: `meld store gc` leaves it alone from here on.
            claimed |= {node.id.replace(":", "."): artifact(store, node) for node in nodes}
            link_artifacts(record.folder, claimed)
            following = None
            for number, node in enumerate(nodes):
                if (node.stage, node.key) in made:
                    continue
                display.stage(f"{node.stage} {node.unit}")
                record.update(stage=f"{node.stage} {node.unit}", done=number, total=len(nodes))
                try:
                    made[node.stage, node.key] = _make(plan, node, tree, store, display, sink)
                except ConfigError:
                    raise
                except Exception as error:
                    if node.unit not in plan.units:
                        raise
                    following = plan.without(Failure.of(node.unit, node.stage, error))
                    if not following.scored:
                        raise
                    record.log(error)
                    break
            if following is None:
                break
            for names, reason in reasons([f for f in following.failures if f not in plan.failures]):
                _say_failed(display.console, names, reason)
            for note in (note for note in following.notes if note not in plan.notes):
                display.console.print(note, style="dim", markup=False, highlight=False)
            plan = following
    costs = [made[node.stage, node.key] for node in nodes]
    reused = sum(cost.reused for cost in costs)
    if reused:
        console.print(f"[dim]{reused} of {len(costs)} artifacts were in the store already[/dim]", highlight=False)
    return plan, costs


def _make(plan: Plan, node: Node, tree: Mapping[str, Any], store: Store, display: Display, sink: MetricSink) -> Cost:
    """Make one artifact, or find it in the store."""
    force = tree["force"]
    forced = {force} if isinstance(force, str) else set(force or ())
    name = f"{node.stage} {node.unit}"

    def work(draft: Draft) -> None:
        if node.trains and plan.trainer.isolate:
            _in_own_process(node, plan, tree, draft)
        else:
            node.run(_context(node, draft.out, draft.work, store, display, _sink_of(sink, node)), plan.workshop)

    def waiting(holder: str, seconds: float) -> None:
        display.stage(f"{name} (waiting for {holder})")

    fields = {
        "unit": node.unit,
        "config": dict(node.config),
        "inputs": node.sources,
        "seeds": {"run": int(tree["seed"]), "data": int(tree["data_seed"]), "stage": node.seed},
        "code": {"version": node.version},
        "origin": dict(node.origin),
    }
    outcome = store.compute(node.stage, node.key, fields, work, force=node.chain_stage in forced, on_wait=waiting)
    manifest = store.manifest(node.stage, node.key)
    seconds, memory = float(str(manifest["seconds"])), float(str(manifest["peak_memory_mb"]))
    display.finished(name, None if outcome.reused else seconds)
    used = manifest.get("cpu_seconds")
    cpu = None if used is None else float(str(used))
    return Cost(node.stage, node.unit, node.key, seconds, memory, outcome.reused, cpu)


def _sink_of(sink: MetricSink, node: Node) -> Callable[[str], Logger | None]:
    return lambda name: LightningSink(sink, f"{node.stage}/{node.unit}/{name}")


def _context(
    node: Node, out: Path, work: Path, store: Store, display: Display, logger: Callable[[str], Logger | None]
) -> Context:
    inputs = {name: artifact(store, source) for name, source in node.inputs.items()}
    return Context(out, work, inputs, node.seed, display, logger)


def _in_own_process(node: Node, plan: Plan, tree: Mapping[str, Any], draft: Draft) -> None:
    """Run a training stage in a process of its own (see :mod:`meld.pipeline.worker`).

    Raises:
        UserError: If that process fails; its last lines say why.
    """
    draft.work.mkdir(parents=True, exist_ok=True)
    spec = draft.work / "spec.json"
    content = {"tree": tree, "node": node.id, "out": str(draft.out), "work": str(draft.work)}
    spec.write_text(json.dumps({**content, "failures": [asdict(failure) for failure in plan.failures]}))
    done = subprocess.run(
        [sys.executable, "-m", "meld.pipeline.worker", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (draft.work / "worker.log").write_text(done.stdout)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise UserError(
            f"The training process of {node.id} ended with code {done.returncode}.",
            where=f"{draft.work / 'worker.log'}\n{last}",
            fix="mend what the log says and repeat the command; finished stages are kept",
        )


def _write_run(
    plan: Plan,
    tree: Mapping[str, Any],
    choices: Mapping[str, str],
    folder: Path,
    store: Store,
    costs: Sequence[Cost],
    tracking: Tracking,
) -> list[str]:
    """Write everything a finished run directory holds, and hand it to the logger.

    Returns:
        Units that could not be scored, because nothing was held out of what is known.
    """
    nodes = plan.wanted(tree["until"])
    made = {node.id: artifact(store, node) for node in nodes}
    hash_ = config_hash(tree)
    link_artifacts(folder, {id_.replace(":", "."): path for id_, path in made.items()})
    write_costs(folder, costs, sum(cost.seconds for cost in costs if not cost.reused), search_costs(made))
    write_paths(folder, made)
    write_environment(folder, {"seed": int(tree["seed"]), "data_seed": int(tree["data_seed"])})
    tracking.costs(costs)
    tracking.artifacts({id_.replace(":", "."): path for id_, path in made.items()})
    if not any(node.stage == "evaluate" for node in nodes):
        return []
    rows: list[Row] = []
    unscored: list[str] = []
    tables = folder / "predictions"
    shutil.rmtree(tables, ignore_errors=True)
    tables.mkdir()
    for unit in plan.scored:
        dataset, _, task = unit.rpartition(".")
        place = made[f"evaluate:{unit}"]
        shutil.copyfile(place / "predictions.parquet", tables / f"{unit}.parquet")
        every = read_json(place / "scores.json")
        if not any(score["n"] for score in every["own"] if score["main"]):
            unscored.append(unit)
            continue
        for system, scores in every.items():
            name = str(tree["system"]) if system == "own" else system
            rows += rows_of(dataset, task, name, [Score(**s) for s in scores], hash_)
    config = {**identity(tree, choices), "synthetic": list(plan.synthetic)}
    write_results(folder, config, hash_, rows, plan.failures)
    write_routing(plan, made, folder, tracking.sink)
    reports = {u: made[f"evaluate:{u}"] / "annotation.json" for u in plan.scored}
    annotated = {u: read_json(path) for u, path in reports.items() if path.is_file()}
    write_json(folder / ANNOTATION, {"annotator": config.get("annotator", ""), "units": annotated})
    selection = selection_summary(plan.scored, made, costs, folder)
    if selection:
        write_json(folder / "selection.json", {"selector": config.get("selector", ""), "units": selection})
    write_report(folder)
    tracking.samples(tables, folder / SELECTION)
    tracking.results(rows, str(tree["system"]))
    return unscored
