"""DI, data imputation: which value does an empty cell have?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer
from meld.text import normalise
from meld.types import Query, Sample, UnitData


class Imputation:
    """Open answer about a tuple's missing attribute; scored by normalised exact match.

    Args:
        solver: ``llm`` or ``encoder`` (the label of the nearest labelled tuples).
        max_positives: Aligned tuples per anchor in M_RAG's training.
        max_candidates: Candidates that are ranked where answers are not written.
    """

    name = "di"
    title = "data imputation"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "llm", max_positives: int = 3, max_candidates: int = 24) -> None:
        self.solver = solver
        self.max_positives = max_positives
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The tuple; the asked attribute is empty in it."""
        return (render(query.entities[0]),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A tuple is aligned with its value, and with tuples of the same value of the attribute."""
        made: list[Alignment] = []
        by_target: dict[str, list[Sample]] = {}
        for sample in data.train:
            by_target.setdefault(sample.query.target or "", []).append(sample)
        for target, samples in sorted(by_target.items()):
            values = sorted({normalise(sample.label) for sample in samples})
            texts = [render(sample.query.entities[0]) for sample in samples]
            for index, sample in enumerate(samples):
                own = normalise(sample.label)
                wrong = [value_text(target, value) for value in values if value != own]
                chosen = rng.permutation(len(wrong))[:8]
                made.append(
                    Alignment(
                        texts[index],
                        (value_text(target, own),),
                        tuple(wrong[i] for i in sorted(chosen)),
                        f"value:{target}",
                        (value_text(target, own),),
                    )
                )
                same = [
                    texts[other]
                    for other, candidate in enumerate(samples)
                    if other != index and normalise(candidate.label) == own
                ]
                if same:
                    picked = rng.permutation(len(same))[: self.max_positives]
                    positives = tuple(same[i] for i in sorted(picked))
                    made.append(Alignment(texts[index], positives, (), f"row:{target}", (*same, texts[index])))
        return made

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Labelled tuples and values: only there is it known that a negative is one."""
        groups: dict[str, list[str]] = {}
        for sample in data.train:
            target = sample.query.target or ""
            groups.setdefault(f"row:{target}", []).append(render(sample.query.entities[0]))
            groups.setdefault(f"value:{target}", []).append(value_text(target, normalise(sample.label)))
        return groups

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: a filled cell of another attribute may be wrong, and the asked one is the label itself."""
        return []

    def parse(self, raw: str) -> str | None:
        """Any text."""
        return read_answer(raw)


def value_text(attribute: str, value: str) -> str:
    """How a single cell is written for the encoder; an answer that belongs to no attribute stands alone."""
    return f"{attribute}: {value}" if attribute else value
