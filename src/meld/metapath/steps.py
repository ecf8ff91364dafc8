"""Steps that need no language model, and the one that fills gaps (method section 2).

A step *attaches* candidates or evidence (BLK, ED; EL in :mod:`meld.metapath.link`), *fills* a missing attribute (DI),
*adds* one (AVE, :mod:`meld.metapath.extract`) or *revises* one (DC, :mod:`meld.metapath.revise`). It acts where one of
its attributes aligns with one of the query's, never on the one that the query asks for; other queries stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meld.metapath.align import Aligner
from meld.metapath.asking import Asker, question_key, renamed
from meld.metapath.edits import Edit
from meld.retriever.cells import CellEvidence, Evidence, cell_facts
from meld.retriever.partners import Partners, link_facts
from meld.types import Query

TUPLES = frozenset({"em", "blk", "di", "ed", "dc", "ave", "el"})
"""Tasks whose queries show tuples: their attributes are attributes of things. A column's or a schema's are not."""


class AttachPartners:
    """BLK to EM: how the two tuples stand to each other among all tuples of both tables.

    Args:
        name: The blocking unit.
        dataset: Only queries about this dataset's records.
        partners: Nearest neighbours across the two tables.
    """

    def __init__(self, name: str, dataset: str, partners: Partners) -> None:
        self.name = name
        self.dataset = dataset
        self.partners = partners

    def applies(self, query: Query) -> bool:
        """Pairs of two records of the dataset's tables."""
        return query.task == "em" and query.unit.rpartition(".")[0] == self.dataset and len(query.rows) == 2

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Attach neighbourhood, margin and codes; the confidence is the similarity in [0, 1]."""
        return [self._one(query) if self.applies(query) else () for query in queries]

    def _one(self, query: Query) -> tuple[Edit, ...]:
        link = self.partners.link(*query.rows)
        score = round(min(1.0, max(0.0, (1 + link.similarity) / 2)), 6)
        return attached(self.name, link_facts(link, *query.entities), score)


class AttachCells:
    """ED to DC: whether a cell looks wrong and what the table says instead.

    Args:
        name: The error-detection unit.
        dataset: Only queries about this dataset's tuples.
        cells: The table's evidence.
        probability: Probability of an error given evidence features, from a fitted detector.
    """

    def __init__(
        self, name: str, dataset: str, cells: CellEvidence, probability: Callable[[Sequence[Evidence]], Sequence[float]]
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.cells = cells
        self.probability = probability

    def applies(self, query: Query) -> bool:
        """Questions about a cell of the dataset's table; steps before may have added attributes."""
        return (
            query.task in {"dc", "ed"}
            and query.unit.rpartition(".")[0] == self.dataset
            and query.target in self.cells.table.columns
            and set(query.entities[0]) >= set(self.cells.table.columns)
        )

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Attach the verdict and the table's suggestion; the confidence is that of the verdict."""
        acting = [i for i, query in enumerate(queries) if self.applies(query)]
        evidence = [self.cells.of(queries[i]) for i in acting]
        probabilities = self.probability(evidence) if evidence else []
        made: list[tuple[Edit, ...]] = [()] * len(queries)
        for i, found, p in zip(acting, evidence, probabilities, strict=True):
            made[i] = attached(self.name, cell_facts(found, p), round(max(p, 1 - p), 6))
        return made


class FillMissing:
    """DI to anything: fills an empty attribute that an imputation expert knows.

    Args:
        name: The imputation unit.
        targets: Attributes the expert was trained to fill.
        schema: All attributes of its tuples; a query's attribute is the expert's that it aligns with.
        asker: Answers imputation queries with the unit's own expert.
        aligner: Aligns attributes.
        min_confidence: Answers with a lower score fill nothing.
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[str],
        schema: Sequence[str],
        asker: Asker,
        aligner: Aligner,
        min_confidence: float = 0.0,
    ) -> None:
        self.name = name
        self.targets = frozenset(targets)
        self.schema = tuple(dict.fromkeys((*schema, *targets)))
        self.asker = asker
        self.aligner = aligner
        self.min_confidence = min_confidence

    def applies(self, query: Query) -> bool:
        """Tuples with an empty attribute of the expert's, unless it is what the query itself asks for."""
        return bool(self._questions(query))

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Fill the gaps; the confidence is the answer's score."""
        wanted = [self._questions(query) for query in queries]
        answers = self.asker.answers({key: asked for found in wanted for _, _, key, asked in found})
        return [
            tuple(
                Edit(self.name, "fill", index, attribute, "", str(answers[key].output), answers[key].score)
                for index, attribute, key, _ in found
                if key in answers and answers[key].score >= self.min_confidence
            )
            for found in wanted
        ]

    def _questions(self, query: Query) -> list[tuple[int, str, str, Query]]:
        """For every gap its tuple, its attribute, what identifies the question, and the question."""
        found: list[tuple[int, str, str, Query]] = []
        if query.task not in TUPLES:
            return found
        for index, entity in enumerate(query.entities):
            match = self.aligner.match(tuple(entity), self.schema)
            for attribute, value in entity.items():
                target = match.get(attribute)
                if value or target not in self.targets or attribute == query.target:
                    continue
                shown = renamed(entity, match)
                asked = Query(
                    id=f"{query.id}|{self.name}/{index}/{attribute}",
                    unit=self.name,
                    task="di",
                    entities=(shown,),
                    target=target,
                    title=query.title,
                )
                found.append((index, attribute, question_key(shown, str(target)), asked))
        return found


def attached(step: str, facts: Sequence[tuple[str, str]], confidence: float) -> tuple[Edit, ...]:
    """Facts as edits of the context."""
    return tuple(Edit(step, "attach", -1, name, "", value, confidence) for name, value in facts)
