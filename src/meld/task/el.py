"""EL, entity linking: which entity of a knowledge graph does a cell mean?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer
from meld.task.di import value_text
from meld.text import normalise
from meld.types import Query, Sample, UnitData

_NEGATIVES = 8


class EntityLinking:
    """One of a cell's candidate entities; scored by top-1 accuracy. By default solved by the encoder alone.

    The candidates are those of the query (``Query.options``), so the task itself has no domain.

    Args:
        solver: ``encoder`` or ``llm``.
        max_candidates: Candidates that are ranked where a query brings none of its own.
    """

    name = "el"
    title = "entity linking"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "encoder", max_candidates: int = 24) -> None:
        self.solver = solver
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The row, and the cell alone in the form candidates have."""
        entity = query.entities[0]
        mention = normalise(entity.get(query.target or "", ""))
        return (render(entity), value_text("", mention)) if mention else (render(entity),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """Row and cell are aligned with the right entity; the cell's other candidates are negatives.

        Equal cells of different rows may mean different entities; none of these is a negative of that cell's text.
        """
        right: dict[str, set[str]] = {}
        offered: dict[str, dict[str, None]] = {}
        for sample in data.train:
            for anchor in self.encoder_texts(sample.query, render):
                right.setdefault(anchor, set()).add(entity_text(sample.label))
                offered.setdefault(anchor, {}).update(dict.fromkeys(map(entity_text, sample.query.options)))
        made: list[Alignment] = []
        for anchor, positives in right.items():
            wrong = [option for option in offered[anchor] if option not in positives and option != anchor]
            chosen = rng.permutation(len(wrong))[:_NEGATIVES]
            negatives = tuple(wrong[i] for i in sorted(chosen))
            made.append(Alignment(anchor, tuple(sorted(positives)), negatives, "entity"))
        return made

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """The candidates of the labelled cells: a cell means one entity, so all others are negatives."""
        entities = {entity_text(s.label) for s in data.train} | {
            entity_text(option) for s in data.train for option in s.query.options
        }
        return {"entity": sorted(entities)}

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: which entity a cell means gives no label of another task."""
        return []

    def parse(self, raw: str) -> str | None:
        """Any text."""
        return read_answer(raw)


def entity_text(option: str) -> str:
    """How a candidate entity is written for the encoder."""
    return value_text("", normalise(option))
