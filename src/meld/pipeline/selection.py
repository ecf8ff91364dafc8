"""What selection did in a run: ``selection.json``, and one table of the whole pool for each unit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meld.report.results import Cost
from meld.stages.base import read_json
from meld.stages.select import STEPS

TABLES = "selection"
"""Folder of a run directory that holds ``<unit>.parquet``: every item of the pool with its terms, rank or reason."""

_PARTS = ("features", "influence", "pick")


def selection_summary(
    experts: Sequence[str], made: Mapping[str, Path], costs: Sequence[Cost], folder: Path
) -> dict[str, Any]:
    """What selection kept, by unit, and what every step took, also where an earlier run took it.

    Args:
        experts: Units with an expert.
        made: Artifact directories by node id.
        costs: Costs of the run's stages.
        folder: The run directory, which gets the tables.

    Returns:
        By unit; empty if nothing was selected.
    """
    shutil.rmtree(folder / TABLES, ignore_errors=True)
    units = {}
    for unit in experts:
        if f"pick:{unit}" not in made:
            continue
        pick = made[f"pick:{unit}"]
        picked = read_json(pick / "selected.json")
        rounds = read_json(made[f"refine:{unit}"] / "rounds.json")["rounds"] if f"refine:{unit}" in made else []
        steps, notes = _steps(unit, made)
        spent = {cost.stage: cost.seconds for cost in costs if cost.unit == unit}
        units[unit] = {
            "pool": picked["pool"],
            "selected": len(picked["ids"]),
            "trained": _trained(rounds),
            "auxiliary": sum(r.get("auxiliary", 0) for r in rounds),
            "provenance": {
                p: {"pool": picked["pool_provenance"].count(p), "selected": picked["provenance"].count(p)}
                for p in sorted(set(picked["pool_provenance"]))
            },
            "dropped": picked["dropped"],
            "steps": steps,
            "notes": notes,
            "seconds": {
                "selection": round(sum(spent.get(part, 0.0) for part in _PARTS), 3),
                "training": spent.get("refine", 0.0),
            },
            "training_tokens": sum(r.get("tokens", 0) for r in rounds),
        }
        (folder / TABLES).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pick / "items.parquet", folder / TABLES / f"{unit}.parquet")
    return units


def _trained(rounds: Sequence[Mapping[str, Any]]) -> int:
    """Few-shot and selected samples that the expert was trained on; 0 where rounds mix them with more than is told."""
    if len(rounds) != 1 or "auxiliary" not in rounds[0]:
        return 0
    return int(rounds[0]["examples"]) - int(rounds[0]["auxiliary"])


def _steps(unit: str, made: Mapping[str, Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Steps of a unit's three artifacts in their order, and what was noted on the way."""
    steps: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    for part in _PARTS:
        if f"{part}:{unit}" in made:
            content = read_json(made[f"{part}:{unit}"] / STEPS)
            steps += [{"stage": part, **step} for step in content["steps"]]
            notes |= content["notes"]
    return steps, notes
