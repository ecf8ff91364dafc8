"""balance: how common matches are among a unit's questions, estimated on its unlabelled pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from meld.retriever.balance import balance
from meld.stages.base import Context, read_json, write_json
from meld.stages.unit import Unit
from meld.task.em import MATCH

VERSION = 1
BALANCE = "balance.json"


def run(context: Context, unit: Unit) -> None:
    """Write ``balance.json`` (:class:`meld.retriever.balance.Balance`).

    Args:
        context: No further inputs.
        unit: A matching unit, annotated.
    """
    pool = unit.data.pool
    context.progress.begin(f"balance {unit.name}", len(pool))
    labelled = [sample.label == MATCH for sample in unit.samples if sample.provenance == "labelled"]
    found = balance(unit.match_odds(pool), sum(labelled) / max(1, len(labelled)))
    write_json(context.out / BALANCE, {name: round(value, 6) for name, value in asdict(found).items()})


def load_odds(folder: Path | None) -> Mapping[str, float]:
    """What is added to the log-odds of an answer of a unit; nothing where its balance was not estimated.

    Args:
        folder: The artifact, or a unit of a bundle; None for none.
    """
    file = None if folder is None else folder / BALANCE
    return {MATCH: float(read_json(file)["shift"])} if file is not None and file.is_file() else {}
