"""SM, schema matching: do two attributes of two schemas mean the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from meld.task.base import Alignment, MatchShare, Render, Solver, match_option, read_answer
from meld.task.em import MATCH, MISMATCH, pair_alignments
from meld.types import Query, Sample, UnitData


class SchemaMatching:
    """Binary over a pair of attributes with their descriptions; scored by F1 of ``match``.

    Args:
        solver: ``llm`` or ``encoder``.
        match_share: How common matches are taken to be: ``pool`` estimates it on the unlabelled pool and decides for
            the best expected F1 (:mod:`meld.retriever.balance`), ``labelled`` takes their share among labels, one half
            where they are balanced.
    """

    AT_INFERENCE: ClassVar[frozenset[str]] = frozenset({"match_share"})  # of no account for what is trained

    name = "sm"
    title = "schema matching"
    options: tuple[str, ...] | None = (MATCH, MISMATCH)

    def __init__(self, solver: Solver = "llm", match_share: MatchShare = "pool") -> None:
        self.solver = solver
        self.match_share = match_share

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """Both attributes."""
        return tuple(render(entity) for entity in query.entities)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """Pairs labelled match are aligned; partners labelled mismatch are not."""
        return pair_alignments(data.train, render)

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """The attributes of the labelled pairs, by the side they stand on."""
        sides = [dict.fromkeys(render(s.query.entities[side]) for s in data.train) for side in (0, 1)]
        return {"A": list(sides[0]), "B": list(sides[1])}

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: attributes are no tuples, so no other task can be asked about them."""
        return []

    def parse(self, raw: str) -> str | None:
        """``match`` or ``mismatch``; anything else is invalid, never a match."""
        return match_option(read_answer(raw), (MATCH, MISMATCH))
