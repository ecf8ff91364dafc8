"""The steps a meta-path is made of: what applying an expert does to a query (method section 2).

A step *attaches* candidates or evidence (BLK, ED, solved by the encoder alone) or *fills* a missing attribute (DI). It
acts where its attribute aligns with one of the query's, and leaves every other query as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from meld.retriever.cells import CellEvidence, Evidence, cell_facts
from meld.retriever.partners import Partners, link_facts
from meld.text import fold
from meld.types import Entity, Query


class Step(Protocol):
    """One expert as a step of a path."""

    name: str
    """The expert's unit."""
    needs_llm: bool
    """Whether the step asks a language model, as opposed to the encoder alone."""

    def applies(self, query: Query) -> bool:
        """Whether the step could change the query."""
        ...

    def apply(self, queries: Sequence[Query]) -> list[Query]:
        """The queries with what the step adds; those it does not apply to come back unchanged."""
        ...


class AttachPartners:
    """BLK to EM: how the two tuples stand to each other among all tuples of both tables.

    Args:
        name: The blocking unit.
        dataset: Only queries about this dataset's records.
        partners: Nearest neighbours across the two tables.
    """

    needs_llm = False

    def __init__(self, name: str, dataset: str, partners: Partners) -> None:
        self.name = name
        self.dataset = dataset
        self.partners = partners

    def applies(self, query: Query) -> bool:
        """Pairs of two records of the dataset's tables."""
        return query.task == "em" and query.unit.partition(".")[0] == self.dataset and len(query.rows) == 2

    def apply(self, queries: Sequence[Query]) -> list[Query]:
        """Attach neighbourhood, margin and codes."""
        return [self._one(query) if self.applies(query) else query for query in queries]

    def _one(self, query: Query) -> Query:
        facts = link_facts(self.partners.link(*query.rows), *query.entities)
        return replace(query, context=(*query.context, *facts))


class AttachCells:
    """ED to DC: whether a cell looks wrong and what the table says instead.

    Args:
        name: The error-detection unit.
        dataset: Only queries about this dataset's tuples.
        cells: The table's evidence.
        probability: Probability of an error given evidence features, from a fitted detector.
    """

    needs_llm = False

    def __init__(
        self, name: str, dataset: str, cells: CellEvidence, probability: Callable[[Sequence[Evidence]], Sequence[float]]
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.cells = cells
        self.probability = probability

    def applies(self, query: Query) -> bool:
        """Questions about a cell of the dataset's table."""
        return (
            query.task in {"dc", "ed"}
            and query.unit.partition(".")[0] == self.dataset
            and query.target in self.cells.table.columns
            and set(query.entities[0]) == set(self.cells.table.columns)
        )

    def apply(self, queries: Sequence[Query]) -> list[Query]:
        """Attach the verdict and the table's suggestion."""
        acting = [query for query in queries if self.applies(query)]
        evidence = [self.cells.of(query) for query in acting]
        probabilities = self.probability(evidence) if evidence else []
        changed = {
            query.id: replace(query, context=(*query.context, *cell_facts(found, probability)))
            for query, found, probability in zip(acting, evidence, probabilities, strict=True)
        }
        return [changed.get(query.id, query) for query in queries]


class FillMissing:
    """DI to anything: fills an empty attribute that an imputation expert knows.

    Args:
        name: The imputation unit.
        targets: Attributes the expert was trained to fill.
        ask: Answers imputation queries with the unit's own expert; None where it has no answer.
        max_queries: Cells that one application asks about at most; further ones stay empty.
    """

    needs_llm = True

    def __init__(
        self,
        name: str,
        targets: Sequence[str],
        ask: Callable[[Sequence[Query]], Sequence[str | None]],
        max_queries: int = 500,
    ) -> None:
        self.name = name
        self.targets = {fold(target): target for target in targets}
        self.ask = ask
        self.max_queries = max_queries
        self._known: dict[str, str | None] = {}

    def applies(self, query: Query) -> bool:
        """Tuples with an empty attribute of the expert's, unless it is what the query itself asks for."""
        return any(True for _ in self._gaps(query))

    def _gaps(self, query: Query) -> list[tuple[int, str]]:
        return [
            (index, attribute)
            for index, entity in enumerate(query.entities)
            for attribute, value in entity.items()
            if not value and fold(attribute) in self.targets and attribute != query.target
        ]

    def apply(self, queries: Sequence[Query]) -> list[Query]:
        """Fill the gaps; every distinct (tuple, attribute) is asked once."""
        asked: dict[str, Query] = {}
        for query in queries:
            for index, attribute in self._gaps(query):
                key = _cell_key(query.entities[index], attribute)
                if key not in self._known and key not in asked and len(asked) < self.max_queries:
                    asked[key] = Query(
                        id=f"{query.id}|{self.name}/{index}/{attribute}",
                        unit=self.name,
                        task="di",
                        entities=(query.entities[index],),
                        target=self.targets[fold(attribute)],
                        title=query.title,
                    )
        if asked:
            self._known.update(zip(asked, self.ask(list(asked.values())), strict=True))
        return [self._filled(query) for query in queries]

    def _filled(self, query: Query) -> Query:
        entities = [dict(entity) for entity in query.entities]
        changed = False
        for index, attribute in self._gaps(query):
            value = self._known.get(_cell_key(query.entities[index], attribute))
            if value:
                entities[index][attribute] = value
                changed = True
        return replace(query, entities=tuple(entities)) if changed else query


def _cell_key(entity: Entity, attribute: str) -> str:
    return "\x1f".join([attribute, *(f"{name}\x1e{value}" for name, value in entity.items())])


def apply_path(path: Sequence[str], steps: Mapping[str, Step], queries: Sequence[Query]) -> list[Query]:
    """Apply a path step by step, each on the result of the one before (``chase: sequential``).

    Args:
        path: Step names in order.
        steps: All steps by name.
        queries: What to augment.

    Returns:
        One query per query, in order.
    """
    current = list(queries)
    for name in path:
        current = steps[name].apply(current)
    return current


def changed(before: Sequence[Query], after: Sequence[Query]) -> int:
    """How many queries a path changed."""
    return int(np.sum([a.context != b.context or a.entities != b.entities for a, b in zip(before, after, strict=True)]))
