"""One job under Hydra: from the composed configuration to a run directory."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from meld.config.compose import origin_of
from meld.config.presets import register_presets, shipped
from meld.config.schema import register_schema
from meld.config.tree import plain, redact
from meld.config.validate import validate
from meld.errors import UserError
from meld.report.console import costs_table, results_table
from meld.report.results import Failure, read_costs, read_results


@dataclass
class Outcome:
    """What came of the jobs of one command.

    Attributes:
        folder: The sweep's directory; None for a single run.
        failed: How many jobs failed, in whole or in some units.
        error: What made a single run fail.
    """

    folder: str | None = None
    failed: int = 0
    error: Exception | None = None


def hydra_entry(command: str, multirun: bool) -> Outcome:
    """Let Hydra compose ``sys.argv`` and run the jobs.

    Args:
        command: What the user typed.
        multirun: Whether it is a sweep: a failing job is then reported in its own log and does not stop the others.
    """
    register_schema()
    register_presets()
    outcome = Outcome()

    def job(config: DictConfig) -> None:
        context = HydraConfig.get()
        folder = Path(context.runtime.output_dir)
        if context.mode == RunMode.MULTIRUN:
            outcome.folder = str(context.sweep.dir)
        try:
            failures = run_job(config, folder, command, outcome.folder)
        except Exception as error:
            if not multirun:
                # Raised once Hydra is done: it would print a line of its own about it.
                outcome.error = error
                return
            outcome.failed += 1
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "meld.log").open("a", encoding="utf-8") as log:
                log.write("".join(traceback.format_exception(error)))
            shown = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            print(f"meld: job {folder.name} failed: {shown}\n  log: {folder / 'meld.log'}", file=sys.stderr)
        else:
            outcome.failed += bool(failures)

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
    context = HydraConfig.get()
    choices: dict[str, str] = {
        str(k): str(v) for k, v in context.runtime.choices.items() if not str(k).startswith("hydra/")
    }
    tree, shown = _resolved(config, choices)
    console = Console()
    if tree["dry_run"]:
        from meld.pipeline.dry_run import show
        from meld.store.store import Store

        return show(tree, Store(Path(tree["paths"]["store"])), console)
    from meld.pipeline.run import execute

    failures = execute(tree, shown, choices, folder, command, console, Path(sweep).name if sweep else None)
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


def _resolved(config: DictConfig, choices: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The validated configuration as plain containers, with and without secrets."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with open_dict(own):
        validate(own, origin=origin_of(choices, list(HydraConfig.get().overrides.task)))
    return plain(own), redact(own)
