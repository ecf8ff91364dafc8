"""A noise channel for clean cells: the errors few-shot repairs show, backed by common typing errors.

Corrupting clean cells turns them into labelled error-detection and data-cleaning samples without new labels (method
section 2, self-annotation (b)). Copying the kind of error that the few-shot repairs show makes them resemble the
table's own errors.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorChannel:
    """What happened to the few erroneous cells that are labelled.

    Attributes:
        substitutions: Pairs (clean character, dirty character) seen in repairs.
        insertions: Characters that were inserted.
        deletions: How often a character was lost.
        swaps: How often the whole value was replaced by another one.
    """

    substitutions: tuple[tuple[str, str], ...] = ()
    insertions: tuple[str, ...] = ()
    deletions: int = 0
    swaps: int = 0


def learn_channel(repairs: Sequence[tuple[str, str]]) -> ErrorChannel:
    """Read the noise off (clean, dirty) pairs.

    A pair with less than half of its characters in common counts as a swapped value.
    """
    substitutions: list[tuple[str, str]] = []
    insertions: list[str] = []
    deletions = swaps = 0
    for clean, dirty in repairs:
        matcher = difflib.SequenceMatcher(a=clean, b=dirty, autojunk=False)
        if not clean or not dirty or matcher.ratio() < 0.5:
            swaps += 1
            continue
        for kind, a0, a1, b0, b1 in matcher.get_opcodes():
            if kind == "replace":
                substitutions += list(zip(clean[a0:a1], dirty[b0:b1], strict=False))
                # A replacement of another length also lost or gained characters.
                insertions += list(dirty[b0 + a1 - a0 : b1])
                deletions += max(0, (a1 - a0) - (b1 - b0))
            elif kind == "insert":
                insertions += list(dirty[b0:b1])
            elif kind == "delete":
                deletions += a1 - a0
    return ErrorChannel(tuple(substitutions), tuple(insertions), deletions, swaps)


def corrupt(value: str, column: Sequence[str], channel: ErrorChannel, rng: np.random.Generator) -> str | None:
    """Make one plausible error.

    Args:
        value: The clean value.
        column: Other values of its column, for swaps.
        channel: Observed noise; where it is silent, uniform typing errors are made.
        rng: Source of randomness.

    Returns:
        A value that differs from the clean one, or None if none could be made.
    """
    observed = len(channel.substitutions) + len(channel.insertions) + channel.deletions + channel.swaps
    kinds = ["substitute", "insert", "delete", "swap"]
    seen = np.array(
        [len(channel.substitutions), len(channel.insertions), channel.deletions, channel.swaps], dtype=float
    )
    prior = np.array([1.0, 1.0, 1.0, 1.0])
    weights = seen + prior * (0.5 if observed else 1.0)
    for kind in rng.choice(kinds, size=6, p=weights / weights.sum()):
        dirty = _apply(str(kind), value, column, channel, rng)
        if dirty is not None and dirty != value:
            return dirty
    return None


def _apply(kind: str, value: str, column: Sequence[str], channel: ErrorChannel, rng: np.random.Generator) -> str | None:
    if kind == "swap":
        return str(column[int(rng.integers(len(column)))]) if column else None
    if not value:
        return None
    at = int(rng.integers(len(value)))
    if kind == "delete":
        return value[:at] + value[at + 1 :] if len(value) > 1 else None
    if kind == "insert":
        letter = _draw(channel.insertions, rng)
        return value[:at] + letter + value[at:]
    known = [dirty for clean, dirty in channel.substitutions]
    places = [i for i, c in enumerate(value) if any(c == clean for clean, _ in channel.substitutions)] or [at]
    at = places[int(rng.integers(len(places)))]
    here = [dirty for clean, dirty in channel.substitutions if clean == value[at]]
    return value[:at] + _draw(here or known, rng) + value[at + 1 :]


def _draw(letters: Sequence[str], rng: np.random.Generator) -> str:
    pool = letters or string.ascii_lowercase
    return str(pool[int(rng.integers(len(pool)))])
