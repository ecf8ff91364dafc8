"""What steps change, and how the changes of a path come together (``chase``).

``sequential``: each step reads what the steps before it left, as in the papers' figure. ``frozen``: every step reads
the query as it was asked, and the answers are joined per attribute: the highest confidence wins, ties go to the
expert whose name comes first. Then the result cannot depend on the order of the steps, which is Theorem 4 of the
conference version (there claimed of any path; a step that reads another's answer can break it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from meld.text import fold
from meld.types import Query

CHASES = ("sequential", "frozen")

Kind = str
"""``fill`` (a missing attribute), ``add`` (one that was not in the schema), ``revise`` (a value) or ``attach`` (a
fact)."""


@dataclass(frozen=True)
class Edit:
    """One change of a query.

    Attributes:
        step: The expert that made it.
        kind: ``fill`` | ``add`` | ``revise`` | ``attach``.
        entity: Place of the tuple among the query's entities; -1 for a fact of the context.
        attribute: The attribute, or the fact's name.
        before: Its value before; empty unless revised.
        after: Its value now.
        confidence: Score of the expert's answer, in [0, 1].
    """

    step: str
    kind: Kind
    entity: int
    attribute: str
    before: str
    after: str
    confidence: float


class Step(Protocol):
    """One expert as a step of a path.

    Attributes:
        name: The expert's unit.
    """

    name: str

    def applies(self, query: Query) -> bool:
        """Whether the step could change the query."""
        ...

    def edits(self, queries: Sequence[Query]) -> list[tuple[Edit, ...]]:
        """What the step changes in each query; at most one edit per attribute. Never the attribute asked for."""
        ...


@dataclass(frozen=True)
class Walk:
    """Queries after a path, with what changed.

    Attributes:
        queries: One per query, in order.
        edits: The changes of each query, in the order in which they were made.
    """

    queries: tuple[Query, ...]
    edits: tuple[tuple[Edit, ...], ...]


def walk(path: Sequence[str], steps: Mapping[str, Step], queries: Sequence[Query], chase: str = "sequential") -> Walk:
    """Apply a path.

    Args:
        path: Step names in order.
        steps: All steps by name.
        queries: What to augment.
        chase: ``sequential`` | ``frozen``.
    """
    if chase == "frozen":
        found = [steps[name].edits(queries) for name in path]
        joined = [join([edit for of_step in found for edit in of_step[i]]) for i in range(len(queries))]
        return Walk(tuple(edited(q, e) for q, e in zip(queries, joined, strict=True)), tuple(joined))
    current = list(queries)
    made: list[list[Edit]] = [[] for _ in queries]
    for name in path:
        for i, edits in enumerate(steps[name].edits(current)):
            if edits:
                current[i] = edited(current[i], edits)
                made[i] += edits
    return Walk(tuple(current), tuple(map(tuple, made)))


def apply_path(
    path: Sequence[str], steps: Mapping[str, Step], queries: Sequence[Query], chase: str = "sequential"
) -> list[Query]:
    """The queries after a path, as :func:`walk` leaves them."""
    return list(walk(path, steps, queries, chase).queries)


def join(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """One edit per attribute: the most confident, ties to the expert whose name comes first.

    Attributes are compared by their folded names, so that two experts that spell one attribute differently do not add
    it twice. The order of the result depends on experts and attributes alone; facts of one expert stay in its order.

    Args:
        edits: All changes of one query; those of one step in that step's order.
    """
    place: dict[Edit, int] = {}
    counts: dict[str, int] = {}
    for edit in edits:
        place[edit] = counts[edit.step] = counts.get(edit.step, -1) + 1
    best: dict[tuple[int, str], Edit] = {}
    for edit in edits:
        key = (edit.entity, fold(edit.attribute) or edit.attribute)
        rival = best.get(key)
        if rival is None or (-edit.confidence, edit.step, place[edit]) < (-rival.confidence, rival.step, place[rival]):
            best[key] = edit
    return tuple(sorted(best.values(), key=lambda edit: (edit.step, place[edit])))


def edited(query: Query, edits: Sequence[Edit]) -> Query:
    """A query with changes made; new attributes and facts come last, in the order of the edits."""
    if not edits:
        return query
    entities = [dict(entity) for entity in query.entities]
    context = list(query.context)
    for edit in edits:
        if edit.entity < 0:
            context.append((edit.attribute, edit.after))
        else:
            entities[edit.entity][edit.attribute] = edit.after
    return replace(query, entities=tuple(entities), context=tuple(context))
