"""EM, entity matching: do two tuples describe the same thing?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from meld.task.base import Alignment, MatchShare, Render, Solver, match_option, read_answer, replace
from meld.types import Query, Sample, UnitData

MATCH, MISMATCH = "match", "mismatch"


class EntityMatching:
    """Binary over a pair of tuples; scored by F1 of ``match``.

    Args:
        solver: ``llm`` or ``encoder``.
        match_share: How common matches are taken to be: ``pool`` estimates it on the unlabelled pool and decides for
            the best expected F1 (:mod:`meld.retriever.balance`), ``labelled`` takes their share among labels, one half
            where they are balanced.
    """

    AT_INFERENCE: ClassVar[frozenset[str]] = frozenset({"match_share"})  # of no account for what is trained

    name = "em"
    title = "entity matching"
    options: tuple[str, ...] | None = (MATCH, MISMATCH)

    def __init__(self, solver: Solver = "llm", match_share: MatchShare = "pool") -> None:
        self.solver = solver
        self.match_share = match_share

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """Both tuples."""
        return tuple(render(entity) for entity in query.entities)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """Pairs labelled match are aligned; partners labelled mismatch are not."""
        return pair_alignments(data.train, render)

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """The tuples of the right table, and of the left one."""
        return {name: [render(entity) for entity in table.rows.values()] for name, table in data.tables.items()}

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """A matching pair with an attribute that both sides fill becomes an imputation query (EM to DI)."""
        made: list[Sample] = []
        for sample in samples:
            if sample.label != MATCH:
                continue
            left, right = sample.query.entities
            shared = [a for a in left if left[a] and right.get(a) and len(left[a]) <= 40]
            if not shared:
                continue
            target = shared[int(rng.integers(len(shared)))]
            query = Query(
                id=f"{sample.id}>di/{target}",
                unit=sample.query.unit,
                task="di",
                entities=(replace(left, target, ""),),
                target=target,
                title=sample.query.title,
            )
            made.append(Sample(query, left[target], "transformed:em", 0.9 * sample.confidence))
        return made

    def parse(self, raw: str) -> str | None:
        """``match`` or ``mismatch``; anything else is invalid, never a match."""
        return match_option(read_answer(raw), (MATCH, MISMATCH))


def pair_alignments(samples: Sequence[Sample], render: Render) -> list[Alignment]:
    """Alignment of labelled pairs, anchored at either side.

    Args:
        samples: Pair samples labelled match or mismatch.
        render: Text of an entity.
    """
    positives: dict[tuple[str, str], set[str]] = {}
    negatives: dict[tuple[str, str], set[str]] = {}
    for sample in samples:
        left, right = (render(entity) for entity in sample.query.entities)
        target = positives if sample.label == MATCH else negatives
        target.setdefault(("B", left), set()).add(right)
        target.setdefault(("A", right), set()).add(left)
    return [
        Alignment(anchor, tuple(sorted(aligned)), tuple(sorted(negatives.get((side, anchor), set()) - aligned)), side)
        for (side, anchor), aligned in sorted(positives.items())
    ]
