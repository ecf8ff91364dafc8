"""AVE, attribute value extraction: which words of a title are the value of an attribute, or is it not there?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from meld.task.base import Alignment, Render, Solver, read_answer, replace
from meld.task.di import value_text
from meld.text import normalise, words
from meld.types import Entity, Query, Sample, UnitData

ABSENT = "n/a"
"""The answer where the title does not have the attribute."""

TITLES = ("title", "name", "product name", "product_name", "product title", "product_title")
"""Attributes of tuples that are read as titles, in lower case."""

_NOTHING = frozenset({ABSENT, "none"})
_NEGATIVES = 8
_MAX_WORDS = 5
_LETTER = re.compile(r"[^\W\d_]")


class AttributeValueExtraction:
    """Open answer about a title and an attribute, ``n/a`` if it is not there; scored by accuracy over all slots.

    Args:
        solver: ``llm`` or ``encoder``.
        max_positives: Aligned titles per anchor in M_RAG's training.
        max_candidates: Candidates that are ranked where answers are not written.
    """

    name = "ave"
    title = "attribute value extraction"
    options: tuple[str, ...] | None = None

    def __init__(self, solver: Solver = "llm", max_positives: int = 3, max_candidates: int = 24) -> None:
        self.solver = solver
        self.max_positives = max_positives
        self.max_candidates = max_candidates

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """The title with the attribute asked in front: titles are alike in one attribute and differ in another."""
        return (value_text(query.target or "", render(query.entities[0])),)

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """A title is aligned with its value of the attribute, and with titles of an equal value.

        Other values that the title holds as well, and titles that hold its value although another one is labelled, may
        also be right and are no negatives. ``n/a`` is no value: titles without one are negatives only.
        """
        made: list[Alignment] = []
        by_target: dict[str, list[Sample]] = {}
        for sample in data.train:
            by_target.setdefault(sample.query.target or "", []).append(sample)
        for target, samples in sorted(by_target.items()):
            found: dict[str, set[str]] = {}
            held: dict[str, str] = {}
            for sample in samples:
                (text,) = self.encoder_texts(sample.query, render)
                found.setdefault(text, set()).update({normalise(sample.label)} - {ABSENT})
                held[text] = _tokens(" ".join(sample.query.entities[0].values()))
            values = {value: _tokens(value) for value in sorted(set().union(*found.values()))}
            for text, own in found.items():
                if not own:
                    continue
                possible = sorted({v for v, tokens in values.items() if tokens.strip() and tokens in held[text]} | own)
                wrong = [value_text(target, value) for value in values if value not in possible]
                chosen = rng.permutation(len(wrong))[:_NEGATIVES]
                made.append(
                    Alignment(
                        text,
                        tuple(value_text(target, value) for value in sorted(own)),
                        tuple(wrong[i] for i in sorted(chosen)),
                        f"value:{target}",
                        tuple(value_text(target, value) for value in possible),
                    )
                )
                same = [other for other, theirs in found.items() if other != text and own & theirs]
                if same:
                    picked = rng.permutation(len(same))[: self.max_positives]
                    spared = [
                        other
                        for other, theirs in found.items()
                        if theirs & set(possible)
                        or any(values[v].strip() and values[v] in held[other] for v in sorted(own))
                    ]
                    positives = tuple(same[i] for i in sorted(picked))
                    made.append(Alignment(text, positives, (), f"title:{target}", (text, *spared)))
        return made

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Labelled titles and values: only there is it known that a negative is one."""
        groups: dict[str, list[str]] = {}
        for sample in data.train:
            target, label = sample.query.target or "", normalise(sample.label)
            groups.setdefault(f"title:{target}", []).extend(self.encoder_texts(sample.query, render))
            known = groups.setdefault(f"value:{target}", [])
            if label != ABSENT:
                known.append(value_text(target, label))
        return groups

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """None: the values taken from a title do not say which of its other words are values."""
        return []

    def parse(self, raw: str) -> str | None:
        """Any text; ``N/A`` and ``None`` are read as ``n/a``, as by ExtractGPT (Brinkmann et al. 2024)."""
        answer = read_answer(raw)
        return ABSENT if answer is not None and normalise(answer) in _NOTHING else answer


def ave_from_tuples(
    samples: Sequence[Sample], rng: np.random.Generator, *, titles: Sequence[str] = TITLES, per_tuple: int = 1
) -> list[Sample]:
    """Extraction samples from tuples whose title holds, word for word, the value of another attribute.

    No label is needed: it is the tuple's own cell, written as the title has it. Left out, because the words may mean
    something else: values without a letter (a 50 in a title is seldom the price), of a single character, of more than
    five words, inside a code, that occur twice, or that are the whole title. For tasks whose cells may be wrong (ED,
    DC) this is not safe.

    Args:
        samples: Labelled samples of entity matching or imputation; whatever the label, each tuple is used once. The
            attribute that imputation asks for is filled with its label.
        rng: Draws the attributes.
        titles: Names of attributes, in lower case, that hold a title; the first one that a tuple fills counts.
        per_tuple: Samples per tuple at most.

    Returns:
        Samples of ``ave`` with provenance ``transformed:<task of the sample>``.
    """
    made: list[Sample] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for sample in samples:
        for index, given in enumerate(sample.query.entities):
            asked = sample.query.target or ""
            entity = replace(given, asked, sample.label) if sample.query.task == "di" and asked in given else given
            key = tuple(entity.items())
            if key in seen:
                continue
            seen.add(key)
            filled = {name.lower(): name for name, value in entity.items() if value}
            title = next((filled[wanted] for wanted in titles if wanted in filled), None)
            if title is None:
                continue
            spans = {a: s for a in entity if a != title and (s := _span(entity[a], entity[title])) is not None}
            picked = rng.permutation(len(spans))[:per_tuple]
            for target in (list(spans)[i] for i in sorted(picked)):
                query = Query(
                    id=f"{sample.id}>ave/{index}/{target}",
                    unit=sample.query.unit,
                    task="ave",
                    entities=({"title": entity[title], "category": _category(entity, target)},),
                    target=target,
                    title=sample.query.title,
                )
                provenance = f"transformed:{sample.query.task}"
                made.append(Sample(query, spans[target], provenance, 0.9 * sample.confidence))
    return made


def _category(entity: Entity, target: str) -> str:
    """The tuple's category, unless it is what is asked."""
    return next((value for name, value in entity.items() if name.lower() == "category" and name != target), "")


def _span(value: str, title: str) -> str | None:
    """The only place where a title holds a value, as it is written there."""
    parts = value.split()
    if len(value.strip()) < 2 or len(parts) > _MAX_WORDS or not _LETTER.search(value):
        return None
    words_in_order = r"\s+".join(map(re.escape, parts))
    places = re.finditer(rf"(?<![\w-]){words_in_order}(?![\w-])", title, re.IGNORECASE)
    found = [place.group() for place in places]
    return found[0] if len(found) == 1 and found[0] != title.strip() else None


def _tokens(text: str) -> str:
    """Words between single spaces, so that a substring test finds whole words."""
    return f" {' '.join(words(text))} "
