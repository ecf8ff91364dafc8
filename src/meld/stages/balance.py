"""balance: how common matches are among a unit's questions, estimated on its unlabelled pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from meld.retriever.balance import balance
from meld.retriever.partners import is_linked
from meld.stages.base import Context, read_json, write_json
from meld.stages.unit import Unit
from meld.task.em import MATCH
from meld.types import Query

VERSION = 1
BALANCE = "balance.json"


@dataclass(frozen=True)
class Odds:
    """What is added to the log-odds of an answer.

    Attributes:
        linked: For *match*, where blocking has attached what it knows of the pair.
        bare: For *match*, elsewhere.
    """

    linked: float
    bare: float

    def of(self, query: Query) -> Mapping[str, float]:
        """By answer to a query."""
        return {MATCH: self.linked if is_linked(query) else self.bare}


def run(context: Context, unit: Unit) -> None:
    """Write ``balance.json``: two of :class:`meld.retriever.balance.Balance`, ``linked`` and ``bare``.

    There is one for either view of a pair, as there are two evidence priors: what blocking knows counts for the queries
    to which a meta-path has attached it, and for no other.

    Args:
        context: No further inputs.
        unit: A matching unit, annotated.
    """
    pool = unit.data.pool
    context.progress.begin(f"balance {unit.name}", len(pool))
    labelled = [sample.label == MATCH for sample in unit.samples if sample.provenance == "labelled"]
    share = sum(labelled) / max(1, len(labelled))
    views = {"linked": unit.partners is not None, "bare": False}
    found = {view: asdict(balance(unit.match_odds(pool, linked), share)) for view, linked in views.items()}
    rounded = {view: {name: round(value, 6) for name, value in one.items()} for view, one in found.items()}
    write_json(context.out / BALANCE, rounded)


def load_odds(folder: Path | None) -> Odds | None:
    """What is added to the log-odds of a unit's answers; None where its balance was not estimated.

    Args:
        folder: The artifact, or a unit of a bundle; None for none.
    """
    file = None if folder is None else folder / BALANCE
    if file is None or not file.is_file():
        return None
    found = read_json(file)
    return Odds(float(found["linked"]["shift"]), float(found["bare"]["shift"]))
