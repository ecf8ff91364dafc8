"""AVE as a step: an extraction expert adds attributes that a tuple's schema lacks and its title tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meld.metapath.align import Aligner
from meld.metapath.asking import Asker, question_key
from meld.metapath.edits import Edit
from meld.task.ave import ABSENT, TITLES
from meld.text import fold, normalise
from meld.types import Entity, Query, Sample

_TASKS = frozenset({"em", "di", "ed", "dc", "ave"})


class AddAttributes:
    """AVE to tasks about tuples: adds what the expert reads out of a title.

    Args:
        name: The extraction unit.
        targets: Attributes it adds, the most telling first.
        schema: Attributes of the tuples it was trained on.
        text: The one of them that it reads.
        asker: Answers extraction queries with the unit's own expert.
        aligner: Aligns attributes.
        min_confidence: Answers with a lower score add nothing.
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[str],
        schema: Sequence[str],
        text: str,
        asker: Asker,
        aligner: Aligner,
        min_confidence: float = 0.0,
    ) -> None:
        self.name = name
        self.targets = tuple(targets)
        self.schema = tuple(schema)
        self.text = text
        self.asker = asker
        self.aligner = aligner
        self.min_confidence = min_confidence

    def applies(self, query: Query) -> bool:
        """Tuples with a title that lack one of the attributes; what the query asks for is never added."""
        return bool(self._questions(query))

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Add what the titles tell; the confidence is the answer's score."""
        wanted = [self._questions(query) for query in queries]
        answers = self.asker.answers({key: asked for found in wanted for _, key, asked in found})
        return [
            tuple(
                Edit(self.name, "add", index, str(asked.target), "", str(answers[key].output), answers[key].score)
                for index, key, asked in found
                if key in answers and self._tells(asked, str(answers[key].output), answers[key].score)
            )
            for found in wanted
        ]

    def _tells(self, asked: Query, value: str, score: float) -> bool:
        """Whether an answer is a value: not ``n/a``, and not the whole title once more."""
        whole = normalise(asked.entities[0].get(self.text, ""))
        return score >= self.min_confidence and normalise(value) not in {ABSENT, whole}

    def _questions(self, query: Query) -> list[tuple[int, str, Query]]:
        """For every attribute to be added its tuple, what identifies the question, and the question."""
        found: list[tuple[int, str, Query]] = []
        if query.task not in _TASKS:
            return found
        for index, entity in enumerate(query.entities):
            match = self.aligner.match(tuple(entity), self.schema)
            title = self._title(entity, match)
            if title is None:
                continue
            shown = {name: next((entity[a] for a, m in match.items() if m == name), "") for name in self.schema}
            shown[self.text] = entity[title]
            for target in self._lacking(query, entity):
                asked = Query(
                    id=f"{query.id}|{self.name}/{index}/{target}",
                    unit=self.name,
                    task="ave",
                    entities=(shown,),
                    target=target,
                    title=query.title,
                )
                found.append((index, question_key(shown, target), asked))
        return found

    def _title(self, entity: Entity, match: dict[str, str]) -> str | None:
        """The attribute that is read: the one aligned with the expert's text, else one that is called a title."""
        aligned = [name for name, own in match.items() if own == self.text]
        called = [name for wanted in TITLES for name in entity if name.lower() == wanted]
        return next((name for name in (*aligned, *called) if entity[name]), None)

    def _lacking(self, query: Query, entity: Entity) -> list[str]:
        """Attributes that neither the tuple has nor the query asks for, under whatever name."""
        there = tuple(dict.fromkeys((*entity, *((query.target,) if query.target else ()))))
        known = {*self.aligner.match(there, self.targets).values()}
        spelt = {fold(name) for name in there}
        return [target for target in self.targets if target not in known and fold(target) not in spelt]


def telling_attributes(samples: Sequence[Sample], limit: int) -> list[str]:
    """Attributes that labelled titles have most often, at most ``limit``; those that are never there go.

    Args:
        samples: Labelled samples of extraction.
        limit: How many.
    """
    present = Counter(s.query.target or "" for s in samples if normalise(s.label) != ABSENT)
    return [name for name, _ in sorted(present.items(), key=lambda pair: (-pair[1], pair[0])) if name][:limit]


def text_attribute(samples: Sequence[Sample]) -> str:
    """The attribute that an extraction expert reads: one that is called a title, else the longest on average."""
    entities = [s.query.entities[0] for s in samples]
    names = dict.fromkeys(name for entity in entities for name in entity)
    called = [name for wanted in TITLES for name in names if name.lower() == wanted]
    length = {name: sum(len(entity.get(name, "")) for entity in entities) for name in names}
    return called[0] if called else max(names, key=lambda name: length[name], default="")
