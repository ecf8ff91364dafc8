"""What is kept of a question that was asked (``asked.parquet``): the query as asked, what steps changed, the prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from meld.metapath.edits import Edit
from meld.types import Query

MOST = 5000
"""Questions of a unit that are kept; of more, every n-th."""

_PAIR = pa.struct([("name", pa.string()), ("value", pa.string())])
_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        # One JSON list of [attribute, value] pairs per entity, as the experts saw it.
        ("entities", pa.list_(pa.string())),
        ("target", pa.string()),
        ("title", pa.string()),
        ("context", pa.list_(_PAIR)),
        (
            "edits",
            pa.list_(
                pa.struct(
                    [
                        ("step", pa.string()),
                        ("kind", pa.string()),
                        ("entity", pa.int64()),
                        ("attribute", pa.string()),
                        ("before", pa.string()),
                        ("after", pa.string()),
                        ("confidence", pa.float64()),
                    ]
                )
            ),
        ),
        ("prompt", pa.string()),
        ("n_demos", pa.int64()),
        ("shortened", pa.int64()),
        ("options", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float64())),
        ("evidence", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Asked:
    """A question as it was asked.

    Attributes:
        query: With what the path changed.
        edits: These changes.
        prompt: What the experts read; empty where the encoder alone answered.
        n_demos: Demonstrations that found room in it.
        shortened: Values that were shortened to fit.
        options: Answers that were ranked, best first.
        probabilities: Theirs; similarities for blocking.
        evidence: What retrieval alone gives them; empty where it was not asked apart.
    """

    query: Query
    edits: tuple[Edit, ...] = ()
    prompt: str = ""
    n_demos: int = 0
    shortened: int = 0
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    evidence: tuple[float, ...] = ()


def save_asked(asked: Sequence[Asked], path: Path) -> None:
    """Write questions in the order of their ids, at most ``MOST`` of them, spread evenly."""
    ordered = sorted(asked, key=lambda a: a.query.id)
    if len(ordered) > MOST:
        ordered = [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, MOST).round().astype(int)]
    pq.write_table(pa.Table.from_pylist([_row(a) for a in ordered], schema=_SCHEMA), path, compression="zstd")


def _row(asked: Asked) -> dict[str, Any]:
    query = asked.query
    return {
        "query_id": query.id,
        "entities": [json.dumps(list(entity.items()), ensure_ascii=False) for entity in query.entities],
        "target": query.target,
        "title": query.title,
        "context": [{"name": name, "value": value} for name, value in query.context],
        "edits": [asdict(edit) for edit in asked.edits],
        "prompt": asked.prompt,
        "n_demos": asked.n_demos,
        "shortened": asked.shortened,
        "options": list(asked.options),
        "probabilities": list(asked.probabilities),
        "evidence": list(asked.evidence),
    }


def load_asked(path: Path, ids: Sequence[str], unit: str) -> dict[str, Asked]:
    """Read some questions of a unit; those that were not kept are missing from the result.

    Args:
        path: What :func:`save_asked` wrote.
        ids: Query ids.
        unit: The unit.
    """
    table = pq.read_table(path, filters=[("query_id", "in", list(ids))], schema=_SCHEMA) if ids else None
    found = {}
    for row in [] if table is None else table.to_pylist():
        query = Query(
            id=row["query_id"],
            unit=unit,
            task=unit.rpartition(".")[2],
            entities=tuple(dict(json.loads(text)) for text in row["entities"]),
            target=row["target"],
            title=row["title"],
            context=tuple((fact["name"], fact["value"]) for fact in row["context"]),
        )
        found[query.id] = Asked(
            query,
            tuple(Edit(**edit) for edit in row["edits"]),
            row["prompt"],
            row["n_demos"],
            row["shortened"],
            tuple(row["options"]),
            tuple(row["probabilities"]),
            tuple(row["evidence"]),
        )
    return found
