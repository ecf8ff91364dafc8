"""CTA, column type annotation: which semantic type do the values of a column have?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer
from meld.task.di import value_text
from meld.text import normalise, words
from meld.types import Query, Sample, UnitData

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NEGATIVES = 8


class ColumnTypeAnnotation:
    """One of the dataset's types for a column; scored by micro-F1 and macro-F1.

    The types are those of the unit (``UnitData.options``), so the task itself has no domain.

    Args:
        solver: ``llm`` or ``encoder``.
        max_positives: Aligned columns per anchor in M_RAG's training.
        max_candidates: Types that are ranked where answers are not written.
    """

    name = "cta"
    title = "column type annotation"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "llm", max_positives: int = 3, max_candidates: int = 24) -> None:
        self.solver = solver
        self.max_positives = max_positives
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The column."""
        return (render(query.entities[0]),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A column is aligned with its type's name, and with columns of the same type."""
        return class_alignments(data, render, rng, self.max_positives)

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Labelled columns and the types' names: only there is it known that a negative is one."""
        return class_texts(data, render)

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: a column's type says nothing about its cells."""
        return []

    def parse(self, raw: str) -> str | None:
        """Any text; the types are too many to look for one inside a sentence."""
        return read_answer(raw)


def class_alignments(
    data: UnitData, render: Render, rng: np.random.Generator, max_positives: int = 3
) -> list[Alignment]:
    """Alignment of labelled queries about one entity with their class's name and with members of the same class.

    The same text may be labelled with several classes; all of them are right then. Classes of which one's name holds
    the other's words (``artist``, ``musical artist``) may be kinds of each other: neither these names nor the members
    of these classes are negatives, though they are no positives either.

    Args:
        data: A unit whose labels are names of classes.
        render: Text of an entity.
        rng: Draws negatives and positives.
        max_positives: Members of the same class per anchor.

    Returns:
        Per distinct text one alignment with names (group ``name``), and one with members (group ``member``) if its
        classes have another one.
    """
    labels, members = _classes(data, render)
    names = _names(data)
    kin = {label: {other for other in names if _kindred(names[label], names[other])} for label in members}
    made: list[Alignment] = []
    for text, own in labels.items():
        barred = own.union(*(kin[label] for label in own))
        wrong = [value_text("", name) for name in sorted(names) if name not in barred]
        right = tuple(value_text("", name) for name in sorted(own))
        chosen = rng.permutation(len(wrong))[:_NEGATIVES]
        spared = tuple(value_text("", name) for name in sorted(barred))
        made.append(Alignment(text, right, tuple(wrong[i] for i in sorted(chosen)), "name", spared))
        same = list(dict.fromkeys(t for label in sorted(own) for t in members[label] if t != text))
        if same:
            picked = rng.permutation(len(same))[:max_positives]
            alike = dict.fromkeys(t for label in sorted(barred) for t in members.get(label, ()))
            made.append(Alignment(text, tuple(same[i] for i in sorted(picked)), (), "member", (text, *alike)))
    return made


def class_texts(data: UnitData, render: Render) -> dict[str, list[str]]:
    """Texts among which :func:`class_alignments` mines: the labelled entities, and the names of all classes."""
    return {
        "member": [render(sample.query.entities[0]) for sample in data.train],
        "name": [value_text("", name) for name in sorted(_names(data))],
    }


def _classes(data: UnitData, render: Render) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """Classes of each text, and texts of each class, in the order of the samples."""
    labels: dict[str, set[str]] = {}
    members: dict[str, list[str]] = {}
    for sample in data.train:
        text, label = render(sample.query.entities[0]), normalise(sample.label)
        if label not in labels.setdefault(text, set()):
            labels[text].add(label)
            members.setdefault(label, []).append(text)
    return labels, members


def _names(data: UnitData) -> dict[str, frozenset[str]]:
    """Words of every class's name, by its normalised name."""
    names = (*data.options, *(sample.label for sample in data.train))
    return {normalise(name): frozenset(words(_CAMEL.sub(" ", name))) for name in names}


def _kindred(left: frozenset[str], right: frozenset[str]) -> bool:
    return bool(left and right) and (left <= right or right <= left)
