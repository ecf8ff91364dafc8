"""Text helpers shared by tasks, annotators and metrics: normalisation, similarity, codes, edit distance."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+", re.UNICODE)
_CODE = re.compile(r"[a-z0-9][a-z0-9/_.-]*[a-z0-9]", re.IGNORECASE)


def normalise(value: str) -> str:
    """Strip, lower-case and collapse white space: the equality of imputation and repair scores."""
    return _SPACE.sub(" ", value).strip().lower()


def fold(value: str) -> str:
    """Reduce to what a lossy, uncased tokenizer keeps: lower case, no accents, no spaces or punctuation."""
    decomposed = unicodedata.normalize("NFKD", value.lower())
    return "".join(character for character in decomposed if character.isalnum())


def words(value: str) -> list[str]:
    """Lower-cased word tokens."""
    return _WORD.findall(value.lower())


def codes(value: str) -> set[str]:
    """Tokens that look like model numbers or codes: a digit, three or more alphanumerics, punctuation removed."""
    found = set()
    for token in _CODE.findall(value):
        folded = fold(token)
        if len(folded) >= 3 and any(character.isdigit() for character in folded):
            found.add(folded)
    return found


def overlap(left: str, right: str) -> float:
    """Jaccard similarity of the word sets; 0 when both are empty."""
    a, b = set(words(left)), set(words(right))
    union = a | b
    return len(a & b) / len(union) if union else 0.0


def pattern(value: str) -> str:
    """The shape of a value: letters become ``a``, digits ``9``, runs collapse (``AB-123`` gives ``a-9``)."""
    shaped = "".join("a" if c.isalpha() else "9" if c.isdigit() else " " if c.isspace() else c for c in value)
    return re.sub(r"(.)\1+", r"\1", shaped)
