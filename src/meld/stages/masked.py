"""What stands in for *annotate* and *metapath* where a unit's labels and pool are withheld (masked settings)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld.dataset.io import save_samples
from meld.encoder.vectors import Vectors
from meld.retriever.base import Demonstrations, Retriever
from meld.seeds import derive
from meld.stages.base import Context, write_json
from meld.stages.unit import Unit, save_demonstrations

VERSION = 4


def run_annotate(context: Context, unit: Unit, retriever: Retriever) -> None:
    """Write what *annotate* writes: no samples, and demonstrations from other datasets of the same task.

    Args:
        context: Inputs of the unit and of its lenders.
        unit: The unit, its labels and pool withheld.
        retriever: Finds demonstrations.
    """
    save_samples([], context.out / "samples.parquet")
    Vectors([], unit.vectors.array[:0]).save(context.out / "extra")
    lent = {
        lender: [s for s in lender.samples if not s.provenance.startswith("transformed")] for lender in unit.lenders
    }
    corpus = [sample for samples in lent.values() for sample in samples]
    found: dict[str, Demonstrations] = {}
    if corpus:
        queries = list(unit.data.test)
        vectors = np.concatenate([lender.query_vectors([s.query for s in samples]) for lender, samples in lent.items()])
        retrieved = retriever.retrieve(
            queries, unit.query_vectors(queries), corpus, vectors, derive(context.seed, "retrieve")
        )
        found = {query.id: demonstrations for query, demonstrations in zip(queries, retrieved, strict=True)}
    save_demonstrations(found, context.out / "demonstrations.parquet")
    write_json(
        context.out / "report.json",
        {
            "withheld": True,
            "samples": 0,
            "lenders": [lender.name for lender in unit.lenders],
            "corpus": len(corpus),
            "queries": len(unit.data.test),
            "with_demonstrations": sum(bool(demonstrations.ids) for demonstrations in found.values()),
        },
    )


def run_path(context: Context, path: Sequence[str], chase: str) -> None:
    """Write ``path.json``: the user's seed path, since there is no dev set to search on.

    Args:
        context: No inputs.
        path: Its steps; none of them learns from the unit.
        chase: How their results come together.
    """
    write_json(
        context.out / "path.json",
        {
            "path": list(path),
            "tried": {},
            "stopped": "no search: the labels of this unit are withheld",
            "evaluations": 0,
            "queries": {"dev": 0, "steps": 0},
            "chase": chase,
            "possible": list(path),
            "changed_samples": dict.fromkeys(path, 0),
            "steps": {step: {"asked": 0, "over": 0, "edits": {}} for step in path},
            "examples": [],
            "samples": 0,
            "dev": 0,
            "eval": "none: the labels of this unit are withheld",
        },
    )
