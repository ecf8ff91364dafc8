"""What every task offers, and the pieces that tasks share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from meld.types import Entity, Query, Sample, UnitData

Solver = Literal["llm", "encoder"]
MatchShare = Literal["pool", "labelled"]
Render = Callable[[Entity], str]
"""Turns an entity into the text that the encoder embeds."""


@dataclass(frozen=True)
class Alignment:
    """Training material of M_RAG: an anchor with its aligned (P_q) and unaligned (N_q) texts (method section 2).

    Attributes:
        anchor: The query text.
        positives: Texts aligned with it, at least one.
        negatives: Texts known not to be aligned; empty asks for hard negatives to be mined.
        group: Hard negatives are mined among the texts of this group.
        excluded: Texts that must not be mined as negatives because they may be aligned as well.
    """

    anchor: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    group: str
    excluded: tuple[str, ...] = ()


class Task(Protocol):
    """One of the ten tasks (method section 1)."""

    name: str
    title: str
    solver: Solver
    options: tuple[str, ...] | None

    def encoder_texts(self, query: Query, render: Render) -> tuple[str, ...]:
        """Texts whose mean embedding represents the query."""
        ...

    def alignments(self, data: UnitData, render: Render, rng: np.random.Generator) -> list[Alignment]:
        """P_q and N_q from the few-shot training samples."""
        ...

    def mining_texts(self, data: UnitData, render: Render) -> Mapping[str, Sequence[str]]:
        """Texts among which hard negatives are mined, by group."""
        ...

    def transforms(self, samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
        """Labelled samples of this or other tasks made from labelled samples of this one, without new labels.

        The result's ``query.task`` says for which task each is; its provenance is ``transformed:<this task>``.
        """
        ...

    def parse(self, raw: str) -> str | None:
        """Read a written answer; None if it cannot be read."""
        ...


_JSON = re.compile(r"\{.*?\}", re.DOTALL)
_REST = re.compile(r'((?:[^"\\]|\\.)*)"\s*(?:\}|,\s*")')
_UNCLOSED = re.compile(r'"((?:[^"\\]|\\.)*)"|((?:[^"\\]|\\.)*)"\s*(?:\n|$)')
_QUOTED = re.compile(r'"\s*:\s*"((?:[^"\\]|\\.)*)')


def read_answer(raw: str) -> str | None:
    """Read the answer from what a model wrote: JSON first, then leniently. Nothing is ever evaluated.

    Args:
        raw: The model's text. It may be a whole JSON object, the rest of one that the prompt opened, or plain text.

    Returns:
        The answer, or None if there is none.
    """
    text = raw.strip()
    if not text:
        return None
    # The rest of an object that the prompt opened comes first: behind it a model may go on inventing further questions.
    rest = _REST.match(text)
    if rest and not text.startswith("{"):
        return _unescape(rest.group(1)).strip() or None
    for candidate in [text, *_JSON.findall(text)]:
        value = _load_value(candidate)
        if value is not None:
            return value
    # The value itself may open with a brace: no JSON object, so the brace is part of the answer.
    if rest:
        return _unescape(rest.group(1)).strip() or None
    quoted = _QUOTED.search(text)
    if quoted:
        return _unescape(quoted.group(1)).strip() or None
    unclosed = _UNCLOSED.match(text)
    if unclosed and not text.startswith("{"):
        return _unescape(unclosed.group(1) or unclosed.group(2) or "").strip() or None
    if text.startswith("{"):
        return None
    return _printable(text.splitlines()[0].strip().strip('"').strip()) or None


def _load_value(text: str) -> str | None:
    try:
        # Numbers stay as they are written: 12.50 is not 12.5.
        loaded = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if isinstance(loaded, dict) and loaded:
        value = loaded.get("answer", next(iter(loaded.values())))
    else:
        value = loaded
    if not isinstance(value, str):
        return None
    return _printable(value).strip() or None


def _unescape(body: str) -> str:
    try:
        return _printable(str(json.loads(f'"{body}"')))
    except ValueError:
        return _printable(body)


def _printable(value: str) -> str:
    """Half of a surrogate pair, which JSON escapes can smuggle in, cannot be written to any file."""
    return value.encode("utf-8", "replace").decode("utf-8")


_NEGATION = re.compile(r"\b(?:no|not|non|never|neither|nor|cannot|without|hardly|mis|un)\b|n['’]t\b")


def match_option(answer: str | None, options: Sequence[str]) -> str | None:
    """The option an answer names, ignoring case and surrounding punctuation; None if it names none or several.

    ``match`` is not found inside ``mismatch`` or ``non-match``: whole words count. A negated answer names nothing: what
    ``not a match`` means is clear, but guessing is not this function's business, and it must never become a match.
    """
    if answer is None:
        return None
    folded = answer.strip().strip(".'\"").casefold()
    for option in options:
        if option.casefold() == folded:
            return option
    if _NEGATION.search(folded):
        return None
    found = [option for option in options if re.search(rf"(?<![\w-]){re.escape(option.casefold())}(?![\w-])", folded)]
    return found[0] if len(found) == 1 else None


def replace(entity: Entity, attribute: str, value: str) -> Entity:
    """A copy of an entity with one value changed; attribute order is kept."""
    return {name: (value if name == attribute else old) for name, old in entity.items()}
