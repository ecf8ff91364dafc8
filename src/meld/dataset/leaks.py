"""What of the answers may show in a unit's test queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meld.text import fold
from meld.types import Query, UnitData

_TELLING = {"id", "ids", "label", "labels", "gold", "truth", "match", "index", "key", "cluster", "unnamed"}
"""Words in a column's name that make it look like an id, a label or a cluster key."""


@dataclass(frozen=True)
class Leaks:
    """What of the answers may show in a unit's test queries. All counts are of test queries.

    Attributes:
        equal: Queries that are exactly those of a labelled sample.
        near: Further ones that equal one but for case, accents, spaces and punctuation.
        columns: Attributes shown to models whose name is that of an id, a label or a cluster key.
        filled: Imputation queries whose asked cell is not empty.
    """

    equal: int
    near: int
    columns: tuple[str, ...]
    filled: int

    def words(self) -> str:
        """The findings in one line; empty if there are none."""
        said = [f"{self.equal} test = labelled"] if self.equal else []
        said += [f"{self.near} test ≈ labelled"] if self.near else []
        said += [f"shows {', '.join(self.columns)}"] if self.columns else []
        said += [f"{self.filled} asked cells filled"] if self.filled else []
        return "; ".join(said)


def find_leaks(data: UnitData, hidden_columns: Sequence[str] = ()) -> Leaks:
    """Check a unit for leakage.

    Args:
        data: The unit.
        hidden_columns: Columns that the dataset's options say are ids, labels or keys.
    """
    labelled = [sample.query for sample in (*data.train, *data.dev)]
    exact = {_exact(query) for query in labelled}
    folded = {_folded(query) for query in labelled}
    equal = near = 0
    for query in data.test:
        if _exact(query) in exact:
            equal += 1
        elif _folded(query) in folded:
            near += 1
    names = dict.fromkeys(
        name for query in (*labelled, *data.pool, *data.test) for entity in query.entities for name in entity
    )
    declared = set(hidden_columns)
    telling = tuple(name for name in names if name in declared or _TELLING & set(re.split(r"[^a-z]+", name.lower())))
    filled = sum(bool(q.entities[0].get(q.target or "")) for q in data.test) if data.task == "di" else 0
    return Leaks(equal, near, telling, filled)


def _exact(query: Query) -> tuple[object, ...]:
    return (query.target, tuple(tuple(entity.values()) for entity in query.entities))


def _folded(query: Query) -> tuple[object, ...]:
    return (query.target, tuple(tuple(fold(value) for value in entity.values()) for entity in query.entities))
