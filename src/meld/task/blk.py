"""BLK, blocking: which tuples of the other table could describe the same thing? Solved by the encoder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer
from meld.types import Query, Sample, UnitData


class Blocking:
    """Ranking of the other table's tuples; scored by recall@1. There is no language-model path.

    Args:
        solver: Only ``encoder``.

    Raises:
        ValueError: For another solver.
    """

    name = "blk"
    title = "blocking"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "encoder") -> None:
        if solver != "encoder":
            raise ValueError("blocking is solved by the encoder; set tasks.blk.solver=encoder")
        self.solver: Solver = solver

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The tuple."""
        return (render(query.entities[0]),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A tuple is aligned with its labelled partner."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        for sample in data.train:
            table, _, record = sample.label.partition(":")
            partner = data.tables[table].rows.get(record)
            if partner is not None:
                found.setdefault((render(sample.query.entities[0]), table), {})[render(partner)] = None
        # A tuple may have several partners: all are in P_q, none is a negative of another.
        return [Alignment(anchor, tuple(partners), (), table) for (anchor, table), partners in found.items()]

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """The tuples of each table."""
        return {name: [render(entity) for entity in table.rows.values()] for name, table in data.tables.items()}

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: its labels are those of entity matching."""
        return []

    def parse(self, raw: str) -> str | None:
        """A record id."""
        return read_answer(raw)
