"""The noise model of the quickstart sets: how a clean text gets abbreviated, shortened, misspelt and reformatted.

Every function takes its own source of chance, and changes nothing but its argument's text.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from meld.text import normalise

_NEAR = {
    "a": "s",
    "e": "r",
    "i": "o",
    "o": "p",
    "u": "y",
    "n": "m",
    "m": "n",
    "s": "d",
    "t": "r",
    "r": "t",
    "l": "k",
    "c": "v",
}
MISSING_MARKERS = ("", "n/a", "-", "unknown")


def pick(items: Sequence[str], rng: random.Random) -> str:
    """One item, uniformly; only ``rng.random`` is used, whose sequence is the same in every Python."""
    return items[int(rng.random() * len(items))]


def abbreviate(words: Sequence[str], table: Mapping[str, str], chance: float, rng: random.Random) -> list[str]:
    """Replace each word that has an abbreviation by it, with the given chance."""
    return [table[word] if word in table and rng.random() < chance else word for word in words]


def drop_words(words: Sequence[str], chance: float, rng: random.Random) -> list[str]:
    """Leave out each word with the given chance, but never all of them."""
    kept = [word for word in words if rng.random() >= chance]
    return kept or list(words[:1])


def rotate(words: Sequence[str], rng: random.Random) -> list[str]:
    """Move a random number of words from the front to the end."""
    cut = int(rng.random() * len(words))
    return [*words[cut:], *words[:cut]]


def typo(text: str, rng: random.Random) -> str:
    """One slip of the fingers: a letter replaced by its neighbour, left out, doubled, or exchanged with the next one.

    The result always differs from a non-empty text, even after normalisation: a slip that only doubles a space is none.
    """
    if not text:
        return text
    for _ in range(20):
        place = int(rng.random() * len(text))
        kind = int(rng.random() * 4)
        head, letter, tail = text[:place], text[place], text[place + 1 :]
        if kind == 0:
            changed = head + _NEAR.get(letter.lower(), "x") + tail
        elif kind == 1:
            changed = head + tail
        elif kind == 2:
            changed = head + letter + letter + tail
        else:
            changed = head + tail[:1] + letter + tail[1:]
        if normalise(changed) != normalise(text):
            return changed
    return text + text[-1]


def recode(code: str, rng: random.Random) -> str:
    """Write a model number such as ``NX-4210B`` another way: without the hyphen, with a space, or in lower case."""
    return pick((code.replace("-", ""), code.replace("-", " "), code.lower(), code.replace("-", "").lower()), rng)


def reprice(price: str, rng: random.Random) -> str:
    """Write a price such as ``129.00`` another way."""
    whole, cents = price.split(".")
    return pick((f"${price}", f"{whole},{cents}", f"{whole}", f"USD {price}"), rng)


def reformat(value: str, rng: random.Random) -> str:
    """Break the format of a value: hyphens, spaces and digits written otherwise. The result always differs."""
    options = [value.replace("-", ""), value.replace("-", " "), value.replace(" ", "-"), f"({value})"]
    if value.isdigit():
        options.append(f"{value}.0")
    return pick([option for option in options if normalise(option) != normalise(value)], rng)
