"""DC as a step: a cleaning expert repairs cells of a query's tuple that look wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meld.metapath.align import Aligner
from meld.metapath.asking import Asker, question_key
from meld.metapath.edits import Edit
from meld.retriever.cells import CellEvidence, Evidence, cell_facts
from meld.text import normalise
from meld.types import Query

_TASKS = frozenset({"em", "di", "ed", "dc", "ave"})


class ReviseCells:
    """DC to tasks about tuples: what a detector finds suspicious is asked, and a different answer replaces the value.

    A tuple of another dataset is shown in the expert's schema: aligned attributes under the expert's names, the others
    empty. The cell that the query asks about is shown, but neither asked nor changed.

    Args:
        name: The cleaning unit.
        dataset: Its dataset; tuples of its own table are judged as the rows they are.
        cells: Evidence of its table.
        probability: Probability of an error given evidence features, from a detector fitted on the unit's labels.
        threshold: Probability from which a cell is asked.
        asker: Answers cleaning queries with the unit's own expert.
        aligner: Aligns attributes.
        min_confidence: Answers with a lower score revise nothing.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        cells: CellEvidence,
        probability: Callable[[Sequence[Evidence]], Sequence[float]],
        threshold: float,
        asker: Asker,
        aligner: Aligner,
        min_confidence: float = 0.0,
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.cells = cells
        self.probability = probability
        self.threshold = threshold
        self.asker = asker
        self.aligner = aligner
        self.min_confidence = min_confidence
        self._columns = cells.table.columns
        self._judged: dict[str, tuple[Evidence, float]] = {}

    def applies(self, query: Query) -> bool:
        """Tuples with a value under one of the table's attributes, beside the one that is asked."""
        return query.task in _TASKS and any(self._cells(query))

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """Revise the suspicious cells; the confidence is the answer's score."""
        cells = [list(self._cells(query)) if query.task in _TASKS else [] for query in queries]
        self._judge([asked for found in cells for _, _, asked in found])
        wanted = []
        for found in cells:
            kept = []
            for index, attribute, asked in found:
                key = question_key(asked.entities[0], str(asked.target)) + "".join(asked.rows)
                evidence, wrong = self._judged[key]
                if wrong >= self.threshold:
                    kept.append((index, attribute, key, _with_facts(asked, evidence, wrong)))
            wanted.append(kept)
        answers = self.asker.answers({key: asked for kept in wanted for _, _, key, asked in kept})
        made = []
        for query, kept in zip(queries, wanted, strict=True):
            edits = []
            for index, attribute, key, _ in kept:
                before, answer = query.entities[index][attribute], answers.get(key)
                if answer is None or answer.score < self.min_confidence:
                    continue
                if normalise(str(answer.output)) != normalise(before):
                    edits.append(Edit(self.name, "revise", index, attribute, before, str(answer.output), answer.score))
            made.append(tuple(edits))
        return made

    def _cells(self, query: Query) -> list[tuple[int, str, Query]]:
        """Every cell that may be revised: its tuple, its attribute, and the question about it."""
        found = []
        for index, entity in enumerate(query.entities):
            match = self.aligner.match(tuple(entity), self._columns)
            shown = dict.fromkeys(self._columns, "") | {own: entity[name] for name, own in match.items()}
            for attribute, column in match.items():
                if not entity[attribute] or attribute == query.target:
                    continue
                asked = Query(
                    id=f"{query.id}|{self.name}/{index}/{attribute}",
                    unit=self.name,
                    task="dc",
                    entities=(shown,),
                    rows=self._row(query, index),
                    target=column,
                    title=query.title,
                )
                found.append((index, attribute, asked))
        return found

    def _row(self, query: Query, index: int) -> tuple[str, ...]:
        """The row of the expert's own table that a tuple is, if it is one."""
        if query.unit.rpartition(".")[0] != self.dataset or index >= len(query.rows):
            return ()
        table, _, record = query.rows[index].partition(":")
        return (query.rows[index],) if table == self.cells.table.name and record in self.cells.table.rows else ()

    def _judge(self, questions: Sequence[Query]) -> None:
        """Evidence and probability of an error for every distinct cell."""
        new = {question_key(q.entities[0], str(q.target)) + "".join(q.rows): q for q in questions}
        new = {key: query for key, query in new.items() if key not in self._judged}
        evidence = [self.cells.of(query) for query in new.values()]
        if evidence:
            self._judged |= dict(zip(new, zip(evidence, self.probability(evidence), strict=True), strict=True))


def _with_facts(query: Query, evidence: Evidence, probability: float) -> Query:
    """A cleaning question with what error detection says, which is how the expert learnt to read it."""
    return Query(
        id=query.id,
        unit=query.unit,
        task=query.task,
        entities=query.entities,
        rows=query.rows,
        target=query.target,
        title=query.title,
        context=cell_facts(evidence, probability),
    )
