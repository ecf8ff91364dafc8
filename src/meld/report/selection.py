"""What a report says about selection: what was kept and dropped and why, what it cost, where selectors agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from meld.report.results import SELECTION, read_json
from meld.selector.cost_model import TRAINING_PASSES, Work, at_scale, operations_ratio, speed, work_of

TABLES = "selection"
PAPER_PARAMETERS = {"proxy": 500_000_000, "expert": 7_000_000_000}
"""The papers' proxy and expert."""
_SHOWN = 8
_FIXED = ("id", "provenance", "rank", "reason")


@dataclass(frozen=True)
class Item:
    """One line of the pool: its id, its terms as text, its rank, or why it was dropped."""

    id: str
    provenance: str
    rank: str
    terms: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class UnitSelection:
    """A unit's selection as the report shows it.

    Attributes:
        unit: The unit.
        kept: The unit's part of ``selection.json``.
        terms: Names of the terms, heads of the items' columns.
        first: The first picks.
        dropped: Dropped items that came closest, as the last ones in the pool's order of reasons.
        speed: Operations per second of the proxy's steps, by the cost model; 0 if none ran.
        at_scale: Operations of selecting and training on the selection over those of training on everything, with the
            papers' models and one epoch; None where it is not known.
    """

    unit: str
    kept: Mapping[str, Any]
    terms: tuple[str, ...]
    first: tuple[Item, ...]
    dropped: tuple[Item, ...]
    speed: float
    at_scale: float | None


@dataclass(frozen=True)
class Overlap:
    """How far two selectors agree.

    Attributes:
        left: One.
        right: The other.
        jaccard: Size of the intersection over that of the union, mean over units (and seeds).
        shared: Size of the intersection over that of the smaller set, likewise.
    """

    left: str
    right: str
    jaccard: float
    shared: float


def unit_selections(run: Path) -> list[UnitSelection]:
    """The selections of a run; empty if it selected nothing.

    Raises:
        DataError: If ``selection.json`` is damaged.
    """
    if not (run / SELECTION).is_file():
        return []
    units = read_json(run / SELECTION).get("units") or {}
    return [_unit(name, kept, run / TABLES / f"{name}.parquet") for name, kept in sorted(units.items())]


def _unit(name: str, kept: Mapping[str, Any], table: Path) -> UnitSelection:
    work = work_of(kept.get("steps", ()))
    terms: tuple[str, ...] = ()
    first: tuple[Item, ...] = ()
    dropped: tuple[Item, ...] = ()
    if table.is_file():
        import pandas as pd

        frame = pd.read_parquet(table)
        terms = tuple(str(column) for column in frame.columns if column not in _FIXED)
        picked = frame[frame["rank"].notna()].sort_values("rank")
        first = tuple(_item(row, terms) for row in picked.head(_SHOWN).to_dict("records"))
        rest = frame[frame["rank"].isna()].drop_duplicates("reason")
        dropped = tuple(_item(row, terms) for row in rest.head(_SHOWN).to_dict("records"))
    return UnitSelection(name, kept, terms, first, dropped, speed(work).get("proxy", 0.0), scale_ratio([kept]))


def scale_ratio(units: Sequence[Mapping[str, Any]]) -> float | None:
    """The cost model's answer for some units together, at the papers' sizes of models.

    Training on everything reads the few-shot samples, which are outside the budget, once as well, and the whole pool
    instead of the selection; the auxiliary set grows with both.

    Args:
        units: Parts of ``selection.json``.

    Returns:
        Operations of selecting and training an epoch over those of training an epoch on everything; None where that is
        not known, or a model took part that the papers name no size of (a rater).
    """
    size = PAPER_PARAMETERS["expert"]
    selection: list[Work] = []
    part = whole = 0
    for kept in units:
        tokens, selected, pool = (int(kept.get(key, 0)) for key in ("training_tokens", "selected", "pool"))
        trained = int(kept.get("trained", 0))
        if any(step.get("model") not in {"", "proxy", None} for step in kept.get("steps", ())):
            return None
        if not tokens or not trained:
            continue
        selection += at_scale(work_of(kept.get("steps", ())), PAPER_PARAMETERS)
        part += tokens
        whole += round(tokens * (trained + pool - selected) / trained)
    if not whole:
        return None
    reads = [Work("expert", tokens, TRAINING_PASSES, size) for tokens in (part, whole)]
    return operations_ratio(selection, *reads)


def run_ratio(run: Path) -> float | None:
    """:func:`scale_ratio` of all units of a run; None if it selected nothing."""
    if not (run / SELECTION).is_file():
        return None
    return scale_ratio(list((read_json(run / SELECTION).get("units") or {}).values()))


def _item(row: Mapping[Any, Any], terms: Sequence[str]) -> Item:
    rank = row["rank"]
    return Item(
        str(row["id"]),
        str(row["provenance"]),
        "" if rank is None or rank != rank else str(int(rank)),
        tuple(f"{float(row[term]):.3g}" for term in terms),
        str(row["reason"]),
    )


def selected_ids(run: Path) -> dict[str, frozenset[str]]:
    """By unit the ids that a run selected; empty if it selected nothing."""
    import pandas as pd

    found = {}
    for table in sorted((run / TABLES).glob("*.parquet")):
        frame = pd.read_parquet(table, columns=["id", "rank"])
        found[table.stem] = frozenset(frame[frame["rank"].notna()]["id"].astype(str))
    return found


def overlaps(runs: Sequence[tuple[str, str, Mapping[str, frozenset[str]]]]) -> list[Overlap]:
    """How far selectors agree, in the order in which they first appear.

    Args:
        runs: For each run its selector, what else must be equal for a comparison (its seeds, c), and by unit what it
            selected.
    """
    names = list(dict.fromkeys(name for name, _, _ in runs))
    found = []
    for left, right in combinations(names, 2):
        jaccard, shared = [], []
        for one, other in ((a, b) for a in runs if a[0] == left for b in runs if b[0] == right and a[1] == b[1]):
            for unit in one[2].keys() & other[2].keys():
                mine, theirs = one[2][unit], other[2][unit]
                if mine and theirs:
                    both = len(mine & theirs)
                    jaccard.append(both / len(mine | theirs))
                    shared.append(both / min(len(mine), len(theirs)))
        if jaccard:
            found.append(Overlap(left, right, mean(jaccard), mean(shared)))
    return found
