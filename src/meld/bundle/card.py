"""A unit's ``card.json``, read from a bundle that may come from anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meld.dataset.reading import reading


def _text(value: object) -> bool:
    return isinstance(value, str)


def _maybe_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _sides(value: object) -> bool:
    return isinstance(value, list) and len(value) in {1, 2} and all(side is None or _texts(side) for side in value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


_SAYS: Mapping[str, Callable[[object], bool]] = {
    "unit": _text,
    "task": _text,
    "title": _maybe_text,
    "sides": _sides,
    "targets": _texts,
    "own_options": _flag,
    "domain": _texts,
    "linked": _flag,
}
"""What questions need of a card, and what it looks like (:func:`meld.bundle.export.card_of`)."""


def read_card(path: Path, task: str) -> dict[str, Any]:
    """Read a card.

    Args:
        path: The file.
        task: The unit's task by the manifest.

    Raises:
        DataError: Naming the file, where it is not a card of such a unit.
    """
    with reading(path):
        card: object = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError("it is no object")
        wrong = next((name for name, fits in _SAYS.items() if name not in card or not fits(card[name])), None)
        if wrong is not None:
            raise ValueError(f"its {wrong!r} is missing or of another kind")
        if card["task"] != task:
            raise ValueError(f"it is about the task {card['task']!r}, and the unit about {task!r}")
        return card
