"""DC, data cleaning: what is the right value of a suspicious cell?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer, replace
from meld.task.corrupt import learn_channel
from meld.task.di import value_text
from meld.task.ed import column_values, corrupted
from meld.types import Query, Sample, UnitData


class DataCleaning:
    """Open answer about (tuple, attribute); scored over all errors of the table.

    Args:
        solver: ``llm`` or ``encoder``.
        cells: Which cells are asked: ``flagged`` (by error detection), ``true_errors`` or ``all``.
        corrupted_per_cell: How many corrupted variants the transforms make of each clean few-shot cell.
        max_candidates: Candidates that are ranked where answers are not written, the value as it is included.
    """

    name = "dc"
    title = "data cleaning"
    options: tuple[str, ...] | None = None

    def __init__(
        self, solver: Solver = "llm", cells: str = "flagged", corrupted_per_cell: int = 1, max_candidates: int = 10
    ) -> None:
        self.solver = solver
        self.cells = cells
        self.corrupted_per_cell = corrupted_per_cell
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The tuple and the cell."""
        entity = query.entities[0]
        return (render(entity), value_text(query.target or "", entity[query.target or ""]))

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A cell and its repaired form are aligned; corrupted clean cells count as cells to repair."""
        samples = [*data.train, *(s for s in self.transforms(data.train, data, rng) if s.query.task == self.name)]
        repairs: dict[tuple[str, str], set[str]] = {}
        for sample in samples:
            target = sample.query.target or ""
            dirty = sample.query.entities[0][target]
            if dirty == sample.label or not dirty or not sample.label:
                continue
            anchor, positive = value_text(target, dirty), value_text(target, sample.label)
            repairs.setdefault((anchor, f"value:{target}"), set()).add(positive)
        # One wrong value may stand for several right ones: all are in P_q, none is a negative of another.
        return [
            Alignment(anchor, tuple(sorted(positives)), (), group, (anchor,))
            for (anchor, group), positives in sorted(repairs.items())
        ]

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """The distinct values of each column."""
        return {
            f"value:{attribute}": [value_text(attribute, value) for value in sorted(set(values)) if value]
            for attribute, values in column_values(data).items()
        }

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """A clean cell is corrupted the way the labelled errors are, which gives an ED and a DC sample."""
        repairs = [(s.label, s.query.entities[0][s.query.target or ""]) for s in samples]
        channel = learn_channel([(clean, dirty) for clean, dirty in repairs if clean != dirty])
        columns = column_values(data)
        made: list[Sample] = []
        for sample in samples:
            target = sample.query.target or ""
            whole = Sample(
                Query(
                    id=sample.query.id,
                    unit=sample.query.unit,
                    task=sample.query.task,
                    entities=(replace(sample.query.entities[0], target, sample.label),),
                    rows=sample.query.rows,
                    target=target,
                    title=sample.query.title,
                ),
                sample.label,
            )
            made += corrupted(whole.query, sample.confidence, columns, channel, rng, self.corrupted_per_cell, self.name)
        return made

    def parse(self, raw: str) -> str | None:
        """Any text."""
        return read_answer(raw)
