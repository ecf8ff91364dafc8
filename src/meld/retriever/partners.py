"""Partners across two tables by M_RAG: the ranking behind blocking, and the facts it attaches to a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld.encoder.vectors import Vectors
from meld.task.base import Render
from meld.text import codes
from meld.types import Entity, Query, Table

_DEPTH = 10
"""Neighbours kept per tuple."""

_NEAREST = "nearest"
"""Name of the first fact that blocking attaches to a pair."""


@dataclass(frozen=True)
class Link:
    """How two tuples stand to each other among all tuples of both tables.

    Attributes:
        similarity: Their cosine.
        rank_right: Rank of the right tuple among the left one's neighbours, 1 is the nearest; ``_DEPTH + 1`` is beyond.
        rank_left: The same the other way round.
        margin: Similarity minus the best similarity that either side has with anybody else.
    """

    similarity: float
    rank_right: int
    rank_left: int
    margin: float

    @property
    def mutual(self) -> bool:
        """Whether each is the other's nearest."""
        return self.rank_right == 1 and self.rank_left == 1


class Partners:
    """Nearest neighbours between two tables.

    Args:
        left: The one table.
        right: The other.
        vectors: Vectors of all their rendered tuples.
        render: How tuples were rendered.
    """

    def __init__(self, left: Table, right: Table, vectors: Vectors, render: Render) -> None:
        self.render = render
        self.vectors = vectors
        self.names = (left.name, right.name)
        self.ids = (list(left.rows), list(right.rows))
        self._arrays = (
            vectors.get([render(entity) for entity in left.rows.values()]),
            vectors.get([render(entity) for entity in right.rows.values()]),
        )
        self._top: dict[str, tuple[NDArray[np.intp], NDArray[np.float32]]] = {}
        for name, own, other in (
            (left.name, self._arrays[0], self._arrays[1]),
            (right.name, self._arrays[1], self._arrays[0]),
        ):
            self._top[name] = _top(own, other, _DEPTH)
        self._row = [{record: i for i, record in enumerate(ids)} for ids in self.ids]
        self._admitted: dict[str, NDArray[np.float32]] = {}

    def admit(self, reference: str, vector: NDArray[np.float32]) -> None:
        """Make a tuple that is in neither table known, so that it can be asked about; it is nobody's neighbour itself.

        Args:
            reference: ``<table>:<id>``, an id that the table does not have.
            vector: Shape (d,), the unit vector of the rendered tuple.
        """
        self._admitted[reference] = vector

    def forget(self) -> None:
        """Forget the admitted tuples."""
        self._admitted.clear()

    def nearest(self, reference: str) -> list[tuple[str, float]]:
        """The nearest tuples of the other table, as (``<table>:<id>``, cosine), nearest first.

        Args:
            reference: ``<table>:<id>`` of the tuple.
        """
        table, _, record = reference.partition(":")
        side = self.names.index(table)
        other = 1 - side
        if reference in self._admitted:
            row = 0
            indices, scores = _top(self._admitted[reference][None], self._arrays[other], _DEPTH)
        else:
            row = self._row[side][record]
            indices, scores = self._top[table]
        return [
            (f"{self.names[other]}:{self.ids[other][i]}", float(s))
            for i, s in zip(indices[row], scores[row], strict=True)
        ]

    def neighbours(self, depth: int = 4) -> Iterator[tuple[str, str, Link]]:
        """Every tuple of the left table with its nearest ones of the right table, and how they stand to each other.

        Args:
            depth: Neighbours per tuple.
        """
        for record in self.ids[0]:
            left = f"{self.names[0]}:{record}"
            for right, _ in self.nearest(left)[:depth]:
                yield left, right, self.link(left, right)

    def link(self, left: str, right: str) -> Link:
        """How the tuples ``<left table>:<id>`` and ``<right table>:<id>`` stand to each other."""
        if left in self._admitted or right in self._admitted:
            return self._admitted_link(left, right)
        i = self._row[0][left.partition(":")[2]]
        j = self._row[1][right.partition(":")[2]]
        similarity = float(self._arrays[0][i] @ self._arrays[1][j])
        rank_right, best_left = _rank(self._top[self.names[0]], i, j)
        rank_left, best_right = _rank(self._top[self.names[1]], j, i)
        return Link(similarity, rank_right, rank_left, similarity - max(best_left, best_right))

    def _admitted_link(self, left: str, right: str) -> Link:
        """A link of which at least one end is in no table: its ranks are those it would have if it were."""
        vectors = [self._vector(side, reference) for side, reference in enumerate((left, right))]
        similarity = float(vectors[0] @ vectors[1])
        ranks, best = [], []
        for side, other in ((0, right), (1, left)):
            own = self._row[1 - side].get(other.partition(":")[2]) if other not in self._admitted else None
            scores = self._arrays[1 - side] @ vectors[side]
            rivals = np.delete(scores, own) if own is not None else scores
            ranks.append(min(int((rivals > similarity).sum()), _DEPTH) + 1)
            best.append(float(rivals.max()) if len(rivals) else 0.0)
        return Link(similarity, ranks[0], ranks[1], similarity - max(best))

    def _vector(self, side: int, reference: str) -> NDArray[np.float32]:
        known = self._admitted.get(reference)
        return self._arrays[side][self._row[side][reference.partition(":")[2]]] if known is None else known


def assumed_pairs(partners: Partners, most: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What can be taken for matches and for mismatches where nobody has labelled a pair, as ``(left, right)``.

    Mutual nearest neighbours stand for matches; near ones that are behind somebody else for mismatches, at most twice
    as many.

    Args:
        partners: Nearest neighbours across the two tables.
        most: Matches at most; of more, every second, third, ... is taken.
    """
    matches: list[tuple[str, str]] = []
    mismatches: list[tuple[str, str]] = []
    for left, right, link in partners.neighbours():
        if link.mutual:
            matches.append((left, right))
        elif link.margin < 0:
            mismatches.append((left, right))
    matches = _spread(matches, most)
    return matches, _spread(mismatches, 2 * len(matches))


def _spread(items: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most ``most`` items at even distances."""
    return list(items[:: max(1, -(-len(items) // most))]) if most else []


def _top(
    own: NDArray[np.float32], other: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Indices and cosines of the nearest rows of ``other`` for each row of ``own``, both of shape (n, depth)."""
    depth = min(depth, len(other))
    indices = np.zeros((len(own), depth), dtype=np.intp)
    scores = np.zeros((len(own), depth), dtype=np.float32)
    for start in range(0, len(own), 512):
        similarity = own[start : start + 512] @ other.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
        indices[start : start + 512] = order
        scores[start : start + 512] = np.take_along_axis(similarity, order, axis=1)
    return indices, scores


def _rank(top: tuple[NDArray[np.intp], NDArray[np.float32]], row: int, wanted: int) -> tuple[int, float]:
    """Rank of one neighbour, and the best similarity with anybody else."""
    indices, scores = top
    at = np.flatnonzero(indices[row] == wanted)
    rank = int(at[0]) + 1 if len(at) else indices.shape[1] + 1
    others = scores[row][indices[row] != wanted]
    return rank, float(others[0]) if len(others) else 0.0


def link_facts(link: Link, left: Entity, right: Entity) -> tuple[tuple[str, str], ...]:
    """What blocking tells entity matching about a pair, in words that tokenize well.

    Args:
        link: How the two stand to each other.
        left: The left tuple.
        right: The right tuple.
    """
    if link.mutual:
        nearest = "both"
    elif link.rank_right == 1 or link.rank_left == 1:
        nearest = "one"
    elif min(link.rank_right, link.rank_left) <= 3:
        nearest = "close"
    else:
        nearest = "none"
    margin = (
        "ahead" if link.margin > 0.05 else "even" if link.margin > -0.05 else "behind" if link.margin > -0.2 else "far"
    )
    return ((_NEAREST, nearest), ("margin", margin), ("codes", shared_codes(left, right)))


def shared_codes(left: Entity, right: Entity) -> str:
    """Whether two tuples name a model number in common: ``same``, ``different`` or ``unknown``."""
    a, b = codes(" ".join(left.values())), codes(" ".join(right.values()))
    return "same" if a & b else "different" if a and b else "unknown"


def is_linked(query: Query) -> bool:
    """Whether blocking has told the query how its two tuples stand to each other (:func:`link_facts`)."""
    return any(name == _NEAREST for name, _ in query.context)


def pair_partners(tables: Mapping[str, Table], vectors: Vectors, render: Render) -> Partners | None:
    """Partners of a dataset of two tables; None for another number of tables."""
    if len(tables) != 2:
        return None
    left, right = tables.values()
    return Partners(left, right, vectors, render)


def pair_links(queries: Sequence[Query], partners: Partners) -> list[Link | None]:
    """The link of each pair query; None where a query is not about two records of the tables."""
    links: list[Link | None] = []
    for query in queries:
        known = tuple(row.partition(":")[0] for row in query.rows) == partners.names
        links.append(partners.link(*query.rows) if known else None)
    return links
