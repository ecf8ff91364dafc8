"""EL as a step: the cells of a column are linked, and what kind of entities they are is attached (EL to CTA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rapidfuzz import fuzz, process

from meld.dataset.labelled import SEPARATOR
from meld.metapath.asking import Asker
from meld.metapath.edits import Edit
from meld.metapath.steps import attached
from meld.text import normalise
from meld.types import Prediction, Query

COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "cta": (("values", "entities"),),
    "re": (("subject values", "subject entities"), ("object values", "object entities")),
}
"""By task: attributes that hold a column's cells, and the fact that is attached for each."""

_MAX_CELLS = 5
_SHOWN = 3
_LONGEST = 60
_ALIKE = 80
"""Similarity of spelling (0 to 100) from which an entity is a candidate for a cell."""


class AttachEntities:
    """EL to CTA and RE: names and descriptions of the entities that a column's cells are linked with.

    The entities are the candidates that the linking unit's own training side offers.

    Args:
        name: The entity-linking unit.
        target: What the unit calls the cell to be linked.
        entities: Entities as the unit writes them, perhaps with a description after `` - ``.
        asker: Links a cell to one of its query's options with the unit's own expert.
        max_candidates: Candidates of a cell at most.
        min_confidence: Links with a lower score are left out.
    """

    def __init__(
        self,
        name: str,
        target: str,
        entities: Sequence[str],
        asker: Asker,
        max_candidates: int = 8,
        min_confidence: float = 0.0,
    ) -> None:
        self.name = name
        self.target = target
        self.asker = asker
        self.max_candidates = max_candidates
        self.min_confidence = min_confidence
        self._by_name: dict[str, list[str]] = {}
        for entity in sorted(set(entities)):
            self._by_name.setdefault(normalise(entity.partition(" - ")[0]), []).append(entity)
        self._names = list(self._by_name)
        self._shortlists: dict[str, tuple[str, ...]] = {}

    def applies(self, query: Query) -> bool:
        """Columns with a cell that is spelt like one of the entities."""
        return any(
            self._candidates(cell)
            for attribute, _ in COLUMNS.get(query.task, ())
            for cell in _cells(query.entities[0].get(attribute, ""))
        )

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Attach what the linked cells are; the confidence is the mean score of the links."""
        questions: dict[str, Query] = {}
        for query in queries:
            for attribute, _ in COLUMNS.get(query.task, ()):
                for cell in _cells(query.entities[0].get(attribute, "")):
                    options = self._candidates(cell)
                    if options:
                        questions[cell] = self._question(cell, options)
        answers = self.asker.answers(questions)
        return [
            tuple(
                edit
                for attribute, fact in COLUMNS.get(query.task, ())
                for edit in self._facts(fact, _cells(query.entities[0].get(attribute, "")), answers)
            )
            for query in queries
        ]

    def _question(self, cell: str, options: tuple[str, ...]) -> Query:
        return Query(
            id=f"{self.name}|{cell}",
            unit=self.name,
            task="el",
            entities=({self.target: cell},),
            target=self.target,
            options=options,
        )

    def _facts(self, fact: str, cells: Sequence[str], answers: Mapping[str, Prediction]) -> tuple[Edit, ...]:
        linked = [answers[cell] for cell in cells if cell in answers]
        linked = [answer for answer in linked if answer.score >= self.min_confidence]
        if not linked:
            return ()
        kinds = Counter(_kind(str(answer.output)) for answer in linked)
        shown = "; ".join(kind for kind, _ in kinds.most_common(_SHOWN))
        score = round(sum(answer.score for answer in linked) / len(linked), 6)
        return attached(self.name, ((fact, shown),), score)

    def _candidates(self, cell: str) -> tuple[str, ...]:
        """Entities whose names are spelt like a cell, the likest first."""
        if cell not in self._shortlists:
            found = process.extract(
                normalise(cell), self._names, scorer=fuzz.ratio, limit=self.max_candidates, score_cutoff=_ALIKE
            )
            entities = [entity for name, _, _ in found for entity in self._by_name[name]]
            self._shortlists[cell] = tuple(entities[: self.max_candidates])
        return self._shortlists[cell]


def _cells(values: str) -> list[str]:
    """The first cells of a column, which a query shows in one text."""
    return list(dict.fromkeys(cell.strip() for cell in values.split(SEPARATOR) if cell.strip()))[:_MAX_CELLS]


def _kind(entity: str) -> str:
    """What an entity is: the head of its description, else its name."""
    name, _, description = entity.partition(" - ")
    head = description.partition(",")[0].strip() or name.strip()
    return head if len(head) <= _LONGEST else head[: _LONGEST - 1].rstrip() + "…"
