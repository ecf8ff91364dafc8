"""One job under Hydra: from the composed configuration to a run directory."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from meld.cli.gpu import pin_gpu
from meld.cli.sweeps import swept_values
from meld.config.compose import origin_of
from meld.config.presets import register_presets, shipped
from meld.config.schema import register_schema
from meld.config.tree import plain, redact
from meld.config.validate import validate
from meld.errors import UserError
from meld.report.console import costs_table, results_table
from meld.report.record import Origin, write_job, write_origin
from meld.report.results import STATUS, Failure, read_costs, read_json, read_results, write_json

if TYPE_CHECKING:
    from meld.pipeline.sweep_plan import JobPlan


@dataclass
class Outcome:
    """What came of the jobs of one command.

    Attributes:
        failed: How many jobs failed, in whole or in some units, as far as they ran in this process.
        error: What made a single run fail.
        plans: What the jobs of a sweep would do, if it was a dry run.
    """

    failed: int = 0
    error: Exception | None = None
    plans: list[JobPlan] = field(default_factory=list)


def hydra_entry(command: str, multirun: bool, swept: tuple[str, ...] = ()) -> Outcome:
    """Let Hydra compose ``sys.argv`` and run the jobs.

    Args:
        command: What the user typed.
        multirun: Whether it is a sweep: a failing job is then reported in its own log and does not stop the others.
        swept: The keys that a sweep varies.
    """
    register_schema()
    register_presets()
    outcome = Outcome()

    def job(config: DictConfig) -> None:
        context = HydraConfig.get()
        folder = Path(context.runtime.output_dir)
        if not multirun:
            try:
                outcome.failed += bool(run_job(config, folder, command, None))
            except Exception as error:
                # Raised once Hydra is done: it would print a line of its own about it.
                outcome.error = error
            return
        if "joblib" in str(context.launcher._target_):
            pin_gpu()
        try:
            values = swept_values(list(context.overrides.task), swept)
            if config.dry_run:
                outcome.plans.append(plan_job(config, folder.name, values))
                return
            write_job(folder, values)
            outcome.failed += bool(run_job(config, folder, command, str(context.sweep.dir)))
        except Exception as error:
            outcome.failed += 1
            _record_failure(folder, command, error)

    hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="meld")(job)()
    if outcome.error is not None:
        raise outcome.error
    return outcome


def run_job(config: DictConfig, folder: Path, command: str, sweep: str | None) -> tuple[Failure, ...]:
    """Validate a composed configuration and carry the run out.

    Args:
        config: As Hydra composed it.
        folder: The run directory.
        command: What the user typed.
        sweep: The sweep's directory; None for a single run.

    Returns:
        The units that failed while others did not.

    Raises:
        UserError: For anything the user can mend.
    """
    choices = _choices()
    tree, shown = _resolved(config, choices)
    origin = Origin(command, tuple(HydraConfig.get().overrides.task), choices, _config_dir())
    return carry_out(tree, shown, origin, folder, sweep)


def carry_out(
    tree: dict[str, Any], shown: dict[str, Any], origin: Origin, folder: Path, sweep: str | None = None
) -> tuple[Failure, ...]:
    """Carry out one run and say what came of it.

    Args:
        tree: The validated configuration as plain containers.
        shown: The same without secrets.
        origin: Where it came from; written beside the results, so that ``meld rerun`` finds it.
        folder: The run directory.
        sweep: The sweep's directory; None for a single run.

    Returns:
        The units that failed while others did not.

    Raises:
        UserError: For anything the user can mend.
    """
    console = Console()
    if tree["dry_run"]:
        from meld.pipeline.dry_run import show
        from meld.store.store import Store

        return show(tree, Store(Path(tree["paths"]["store"])), console)
    from meld.pipeline.run import execute

    write_origin(folder, origin)
    group = Path(sweep).name if sweep else None
    failures = execute(tree, shown, origin.choices, folder, origin.command, console, group)
    if tree["until"] in {None, "evaluate", "report"}:
        if sweep is None:
            console.print(results_table(read_results(folder), all_metrics=False))
            costs = read_costs(folder)
            if costs is not None and any(not cost.reused for cost in costs.stages):
                console.print(costs_table(costs))
        console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    else:
        console.print(
            f"stopped after {tree['until']}; artifacts: {folder / 'artifacts'}", highlight=False, soft_wrap=True
        )
    if failures:
        console.print(f"{len(failures)} units failed; the same command tries them again", style="bold red")
    return failures


def plan_job(config: DictConfig, name: str, values: Mapping[str, str]) -> JobPlan:
    """What one job of a sweep would do.

    Raises:
        UserError: For anything the user can mend.
    """
    from meld.pipeline.sweep_plan import plan_of
    from meld.store.store import Store

    tree, _ = _resolved(config, _choices())
    return plan_of(tree, Store(Path(tree["paths"]["store"])), name, values)


def _choices() -> dict[str, str]:
    """Group to option, as composed."""
    chosen = HydraConfig.get().runtime.choices.items()
    return {str(k): str(v) for k, v in chosen if not str(k).startswith("hydra/")}


def _config_dir() -> str:
    """The folder of private configuration that the command line named; empty for none."""
    for source in HydraConfig.get().runtime.config_sources:
        if source.provider == "command-line":
            return str(source.path)
    return ""


def _record_failure(folder: Path, command: str, error: Exception) -> None:
    """A failed job's traceback in its log, and its state where whoever runs the sweep looks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "meld.log").open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
    shown = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    status = read_json(folder / STATUS) if (folder / STATUS).is_file() else {}
    if status.get("state") != "failed":
        # It failed before it began to record itself.
        write_json(folder / STATUS, {**status, "state": "failed", "error": shown, "command": command})
    print(f"meld: job {folder.name} failed: {shown}\n  log: {folder / 'meld.log'}", file=sys.stderr)


def _resolved(config: DictConfig, choices: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The validated configuration as plain containers, with and without secrets."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with open_dict(own):
        validate(own, origin=origin_of(choices, list(HydraConfig.get().overrides.task)))
    return plain(own), redact(own)
