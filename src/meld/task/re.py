"""RE, relation extraction: how are two columns of a table related?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer
from meld.task.cta import class_alignments, class_texts
from meld.types import Query, Sample, UnitData


class RelationExtraction:
    """One of the dataset's relations for a pair of columns; scored by micro-F1 and macro-F1.

    The relations are those of the unit (``UnitData.options``), so the task itself has no domain.

    Args:
        solver: ``llm`` or ``encoder``.
        max_positives: Aligned column pairs per anchor in M_RAG's training.
        max_candidates: Relations that are ranked where answers are not written.
    """

    name = "re"
    title = "relation extraction"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "llm", max_positives: int = 3, max_candidates: int = 24) -> None:
        self.solver = solver
        self.max_positives = max_positives
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The pair of columns."""
        return (render(query.entities[0]),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A pair of columns is aligned with its relation's name, and with pairs of the same relation."""
        return class_alignments(data, render, rng, self.max_positives)

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Labelled pairs and the relations' names: only there is it known that a negative is one."""
        return class_texts(data, render)

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: a relation alone does not say of which type its columns are."""
        return []

    def parse(self, raw: str) -> str | None:
        """Any text; the relations are too many to look for one inside a sentence."""
        return read_answer(raw)
