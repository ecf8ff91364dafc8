"""Cells seen against their table: the evidence behind error detection, repair candidates and a cell's facts.

A cell (t, a, v) is judged by what similar tuples say (M_RAG's neighbours), by the other attributes that determine a in
this table, and by how often v, its shape and its character trigrams occur in the column. The cell's own row never
votes, neither with the value asked about nor with the one the table holds (a corrupted copy must not be betrayed by its
original).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from meld.encoder.vectors import Vectors
from meld.task.base import Render
from meld.task.di import value_text
from meld.text import pattern
from meld.types import Entity, Query, Table

_MAX_DISTINCT = 3000
"""Distinct values of a column, most frequent first, that are compared character by character."""

_VERDICT = "cell"
"""Name of the fact with which error detection judges a cell."""

FEATURES = (
    "count",
    "pattern_count",
    "neighbour_agreement",
    "neighbour_disagreement",
    "dependency_agreement",
    "dependency_disagreement",
    "similar_frequent",
    "rare_trigram",
    "empty",
    "column_empty",
    "cosine",
    "column_distinct",
)


@dataclass(frozen=True)
class Evidence:
    """What the table says about one cell.

    Attributes:
        features: Shape (len(FEATURES),).
        suggestions: Other values for the cell with a weight, best first.
    """

    features: NDArray[np.float64]
    suggestions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Cell:
    """A cell asked about.

    Attributes:
        record: Id of its tuple; empty where none is known.
        row: Where the table has that tuple; None if it does not.
        entity: The tuple as asked.
        attribute: The attribute asked about.
        value: Its value as asked.
        stored: Its value in the table; None if the table does not have the tuple.
    """

    record: str
    row: int | None
    entity: Entity
    attribute: str
    value: str
    stored: str | None


@dataclass(frozen=True)
class _Dependencies:
    """What the attributes that determine another say about a value of it.

    Attributes:
        agreement: Mean share of tuples, equal in such an attribute, that have the value; 0.5 where none is equal.
        disagreement: Largest share that have one other value.
        rivals: Those other values with their shares, added up.
    """

    agreement: float
    disagreement: float
    rivals: Mapping[str, float]


class CellEvidence:
    """Statistics of a table, ready to judge cells of its tuples or of corrupted copies of them.

    Args:
        table: The table as it is, dirty.
        vectors: Vectors of its rendered tuples and of its cells (``attribute: value``).
        render: How tuples were rendered.
        n_neighbours: Similar tuples that vote.
    """

    def __init__(self, table: Table, vectors: Vectors, render: Render, n_neighbours: int = 5) -> None:
        self.table = table
        self.vectors = vectors
        self.records = list(table.rows)
        self._index = {record: i for i, record in enumerate(self.records)}
        self._rows = [table.rows[record] for record in self.records]
        self._array = vectors.get([render(entity) for entity in self._rows])
        self._n_neighbours = n_neighbours
        self._neighbours = _nearest_rows(self._array, n_neighbours)
        self._admitted: dict[str, NDArray[np.intp]] = {}
        self._counts = {a: Counter(row[a] for row in self._rows) for a in table.columns}
        self._patterns = {a: Counter(pattern(row[a]) for row in self._rows) for a in table.columns}
        self._trigrams = {a: Counter(t for row in self._rows for t in set(_trigrams(row[a]))) for a in table.columns}
        self._frequent = {a: [v for v, _ in c.most_common(_MAX_DISTINCT) if v] for a, c in self._counts.items()}
        self._determined = {a: self._determinants(a) for a in table.columns}
        self._similar: dict[tuple[str, str], list[tuple[str, float, int]]] = {}

    def admit(self, reference: str, vector: NDArray[np.float32]) -> None:
        """Let the nearest tuples of the table vote on the cells of a tuple that is not in it.

        Args:
            reference: ``<table>:<id>``, an id that the table does not have.
            vector: Shape (d,), the unit vector of the rendered tuple.
        """
        nearest = np.argsort(-(self._array @ vector), kind="stable")[: self._n_neighbours]
        self._admitted[reference.partition(":")[2]] = nearest

    def forget(self) -> None:
        """Forget the admitted tuples, and what was compared with their values."""
        self._admitted.clear()
        self._similar.clear()

    def _determinants(self, attribute: str) -> dict[str, dict[str, Counter[str]]]:
        """For each other attribute that repeats values: its value to the counts of ``attribute``'s values."""
        found = {}
        n = len(self._rows)
        for other in self.table.columns:
            if other == attribute or len(self._counts[other]) > 0.8 * n or len(self._counts[other]) < 2:
                continue
            groups: dict[str, Counter[str]] = defaultdict(Counter)
            for row in self._rows:
                if row[other]:
                    groups[row[other]][row[attribute]] += 1
            agreeing = sum(c.most_common(1)[0][1] - 1 for c in groups.values())
            possible = sum(c.total() - 1 for c in groups.values())
            # An attribute that does not determine this one only adds noise.
            if possible and agreeing / possible > 0.7:
                found[other] = dict(groups)
        return found

    def of(self, query: Query) -> Evidence:
        """The evidence on the query's cell.

        Args:
            query: About one tuple of the table (or a copy with a changed cell) and a target attribute.
        """
        cell = self._cell(query)
        votes = self._votes(cell)
        laws = self._dependencies(cell)
        similar = self._similar_to(cell.attribute, cell.value)
        similar = [(v, s, c - (v == cell.stored)) for v, s, c in similar if c > (v == cell.stored)]
        features = self._features(cell, votes, laws, similar)
        return Evidence(features, _suggestions(cell.value, votes, laws.rivals, similar))

    def _cell(self, query: Query) -> _Cell:
        attribute = query.target or ""
        record = query.rows[0].partition(":")[2] if query.rows else ""
        row = self._index.get(record)
        stored = self._rows[row][attribute] if row is not None else None
        return _Cell(record, row, query.entities[0], attribute, query.entities[0][attribute], stored)

    def _votes(self, cell: _Cell) -> Counter[str]:
        """The attribute's values in the tuples that vote."""
        voters = self._admitted.get(cell.record) if cell.row is None else self._neighbours[cell.row]
        return Counter(() if voters is None else (self._rows[i][cell.attribute] for i in voters))

    def _dependencies(self, cell: _Cell) -> _Dependencies:
        """What the attributes that determine the cell's say, the cell's own row left out."""
        agreement, disagreement = [], 0.0
        rivals: dict[str, float] = defaultdict(float)
        own = None if cell.row is None else self._rows[cell.row]
        for other, groups in self._determined[cell.attribute].items():
            group = groups.get(cell.entity[other])
            if group is None:
                continue
            support = Counter(group)
            if own is not None and own[other] == cell.entity[other]:
                support[own[cell.attribute]] -= 1
            size = sum(support.values())
            if size < 1:
                continue
            agreement.append(support[cell.value] / size)
            others = ((v, c) for v, c in support.items() if v != cell.value)
            best, count = max(others, key=lambda p: (p[1], p[0]), default=("", 0))
            if count:
                disagreement = max(disagreement, count / size)
                rivals[best] += count / size
        return _Dependencies(float(np.mean(agreement)) if agreement else 0.5, disagreement, rivals)

    def _features(
        self, cell: _Cell, votes: Counter[str], laws: _Dependencies, similar: Sequence[tuple[str, float, int]]
    ) -> NDArray[np.float64]:
        """The cell as numbers, in the order of ``FEATURES``."""
        attribute, value = cell.attribute, cell.value
        n, total = len(self._rows), max(1, votes.total())
        rival, rival_votes = next(((v, c) for v, c in votes.most_common() if v != value), ("", 0))
        count = self._counts[attribute][value] - (cell.stored == value)
        own_pattern = cell.stored is not None and pattern(cell.stored) == pattern(value)
        own_grams = set() if cell.stored is None else set(_trigrams(cell.stored))
        rare = min((self._trigrams[attribute][g] - (g in own_grams) for g in _trigrams(value)), default=0)
        return np.array(
            [
                np.log1p(max(0, count)),
                np.log1p(max(0, self._patterns[attribute][pattern(value)] - own_pattern)),
                votes[value] / total,
                rival_votes / total,
                laws.agreement,
                laws.disagreement,
                max((s for _, s, c in similar if c > 2 * count + 1), default=0.0),
                np.log1p(max(0, rare)),
                float(not value),
                self._counts[attribute][""] / n,
                self._cosine(attribute, value, rival or value),
                len(self._counts[attribute]) / n,
            ]
        )

    def _cosine(self, attribute: str, value: str, other: str) -> float:
        """How near two values of an attribute are to the encoder; 0 for values that it was not given."""
        texts = [value_text(attribute, value), value_text(attribute, other)]
        if any(text not in self.vectors for text in texts):
            return 0.0
        one, two = (self.vectors.get([text])[0] for text in texts)
        return float(one @ two)

    def _similar_to(self, attribute: str, value: str) -> list[tuple[str, float, int]]:
        """Values of the column that look alike, as (value, similarity in [0, 1], count), best first."""
        key = (attribute, value)
        if key not in self._similar:
            found = process.extract(value, self._frequent[attribute], scorer=fuzz.ratio, limit=8, score_cutoff=60)
            self._similar[key] = [(v, s / 100, self._counts[attribute][v]) for v, s, _ in found if v != value]
        return self._similar[key]


def _suggestions(
    value: str, votes: Counter[str], rivals: Mapping[str, float], similar: Sequence[tuple[str, float, int]]
) -> tuple[tuple[str, float], ...]:
    """Other values for a cell, weighed by dependencies, neighbours and likeness; best first."""
    total = max(1, votes.total())
    weights: dict[str, float] = defaultdict(float)
    for suggestion, share in rivals.items():
        weights[suggestion] += 2 * share
    for suggestion, count in votes.items():
        weights[suggestion] += count / total
    for suggestion, similarity, count in similar[:5]:
        weights[suggestion] += similarity * (0.5 + 0.5 * count / (count + 2))
    ordered = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple((v, round(float(w), 4)) for v, w in ordered if v not in (value, ""))


def _trigrams(value: str) -> list[str]:
    padded = f"^{value}$"
    return [padded[i : i + 3] for i in range(max(1, len(padded) - 2))]


def _nearest_rows(array: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """The k nearest other rows of each row, shape (n, min(k, n - 1))."""
    k = min(k, len(array) - 1)
    found = np.zeros((len(array), max(k, 0)), dtype=np.intp)
    for start in range(0, len(array), 512):
        similarity = array[start : start + 512] @ array.T
        rows = np.arange(len(similarity))
        similarity[rows, rows + start] = -np.inf
        found[start : start + 512] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return found


def cell_facts(evidence: Evidence, probability: float | None = None) -> tuple[tuple[str, str], ...]:
    """What error detection tells data cleaning about a cell.

    Args:
        evidence: The table's evidence.
        probability: Of being wrong, where a detector was fitted.
    """
    facts = []
    if probability is not None:
        word = "wrong" if probability > 0.8 else "doubtful" if probability > 0.3 else "fine"
        facts.append((_VERDICT, word))
    if evidence.suggestions:
        facts.append(("table says", evidence.suggestions[0][0]))
    return tuple(facts)


def is_judged(query: Query) -> bool:
    """Whether error detection has told the query what it makes of its cell (:func:`cell_facts`)."""
    return any(name == _VERDICT for name, _ in query.context)


def evidence_of(queries: Sequence[Query], cells: CellEvidence) -> list[Evidence]:
    """The evidence on each query's cell."""
    return [cells.of(query) for query in queries]
