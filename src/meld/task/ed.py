"""ED, error detection: is a cell of a tuple wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, match_option, read_answer, replace
from meld.task.corrupt import ErrorChannel, corrupt, learn_channel
from meld.task.di import value_text
from meld.types import Query, Sample, UnitData

ERROR, CORRECT = "error", "correct"


class ErrorDetection:
    """Binary over (tuple, attribute); scored by F1 over all cells. By default solved by the encoder alone.

    Args:
        solver: ``encoder`` or ``llm``.
        corrupted_per_cell: How many corrupted variants the transforms make of each clean few-shot cell.
    """

    name = "ed"
    title = "error detection"
    options: tuple[str, ...] | None = (ERROR, CORRECT)

    def __init__(self, solver: Solver = "encoder", corrupted_per_cell: int = 1) -> None:
        self.solver = solver
        self.corrupted_per_cell = corrupted_per_cell

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The tuple and the cell."""
        entity = query.entities[0]
        return (render(entity), value_text(query.target or "", entity[query.target or ""]))

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """None of its own: cells and their repairs are aligned by data cleaning."""
        return []

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Nothing to mine."""
        return {}

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """A clean cell that is corrupted becomes an error (ED to ED), and its repair is known (ED to DC)."""
        made: list[Sample] = []
        clean = [sample for sample in samples if sample.label == CORRECT]
        columns = column_values(data)
        channel = learn_channel([])
        for sample in clean:
            made += corrupted(sample.query, sample.confidence, columns, channel, rng, self.corrupted_per_cell, "ed")
        return made

    def parse(self, raw: str) -> str | None:
        """``error`` or ``correct``."""
        return match_option(read_answer(raw), (ERROR, CORRECT))


def column_values(data: UnitData) -> dict[str, list[str]]:
    """All values of each column over the unit's tables, in row order."""
    columns: dict[str, list[str]] = {}
    for table in data.tables.values():
        for entity in table.rows.values():
            for attribute, value in entity.items():
                columns.setdefault(attribute, []).append(value)
    return columns


def corrupted(
    query: Query,
    confidence: float,
    columns: Mapping[str, Sequence[str]],
    channel: ErrorChannel,
    rng: np.random.Generator,
    variants: int,
    source: str,
) -> list[Sample]:
    """Corrupt the asked cell of a clean tuple.

    Returns:
        For each variant one ED sample (``error``) and one DC sample (the clean value).
    """
    target = query.target or ""
    clean = query.entities[0][target]
    made: list[Sample] = []
    for variant in range(variants):
        dirty = corrupt(clean, columns.get(target, ()), channel, rng)
        if dirty is None:
            continue
        entity = replace(query.entities[0], target, dirty)
        for task, label in (("ed", ERROR), ("dc", clean)):
            if task == "dc" and not clean:
                continue
            changed = Query(
                id=f"{query.id}>{task}/{variant}",
                unit=query.unit,
                task=task,
                entities=(entity,),
                rows=query.rows,
                target=target,
                title=query.title,
            )
            made.append(Sample(changed, label, f"transformed:{source}", 0.9 * confidence))
    return made
