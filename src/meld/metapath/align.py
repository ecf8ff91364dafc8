"""Which attribute of an expert a query's attribute is: by spelling, or by the encoder where spellings differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meld.text import fold

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Unit vectors of texts, shape (n, d)."""

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_APART = re.compile(r"[\W_]+")


class Aligner:
    """Aligns attributes by name.

    Equal folded names are aligned. Of the others, two are aligned if each is the other's nearest by the cosine of
    their embedded names and it reaches the threshold: ``town`` becomes ``city`` only where no ``city`` and nothing
    nearer is around, so that neighbours such as ``city`` and ``state`` are not mixed up.

    Args:
        embed: Embeds names with the trained encoder.
        threshold: Smallest cosine; None compares spellings only and never embeds.
    """

    def __init__(self, embed: Embed | None = None, threshold: float | None = None) -> None:
        self._embed = embed
        self._threshold = threshold
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, str]] = {}

    def match(self, theirs: Sequence[str], own: Sequence[str]) -> dict[str, str]:
        """Attributes of a query to the attributes of an expert that they are.

        Args:
            theirs: The query's attributes.
            own: The expert's attributes; each is matched once.
        """
        key = (tuple(theirs), tuple(own))
        if key not in self._known:
            self._known[key] = self._match(*key)
        return self._known[key]

    def _match(self, theirs: tuple[str, ...], own: tuple[str, ...]) -> dict[str, str]:
        by_name: dict[str, str] = {}
        for name in own:
            by_name.setdefault(fold(name) or name, name)
        found: dict[str, str] = {}
        for name in theirs:
            spelt = by_name.get(fold(name) or name)
            if spelt is not None and spelt not in found.values():
                found[name] = spelt
        left = [name for name in theirs if name not in found]
        right = [name for name in own if name not in found.values()]
        if self._embed is None or self._threshold is None or not left or not right:
            return found
        vectors = self._embed([_words(name) for name in (*left, *right)])
        cosine = vectors[: len(left)] @ vectors[len(left) :].T
        nearest, nearest_back = cosine.argmax(axis=1), cosine.argmax(axis=0)
        for i, name in enumerate(left):
            j = int(nearest[i])
            if int(nearest_back[j]) == i and cosine[i, j] >= self._threshold:
                found[name] = right[j]
        return found


def _words(name: str) -> str:
    """An attribute's name as words: ``birthDate`` and ``birth_date`` become ``birth date``."""
    return _APART.sub(" ", _CAMEL.sub(" ", name)).strip().lower() or name
