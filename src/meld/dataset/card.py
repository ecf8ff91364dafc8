"""Cards: what is known about a published dataset beside its files. One YAML each below ``cards/``.

A card is no part of a dataset's configuration: it reaches neither a constructor nor a key nor a run's records, and a
corrected licence or number invalidates nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.abc import Traversable
from pathlib import Path

import yaml

from meld.errors import ConfigError

NOT_CONFIRMED = "not confirmed"
"""The licence of data whose publisher's terms could not be looked up."""


@dataclass(frozen=True)
class Published:
    """Scores that the papers print for a dataset in one table.

    Attributes:
        task: The task's short name.
        metric: As :mod:`meld.evaluate.metrics` names it.
        source: Paper and table.
        scores: System to score, 0 to 100: ``meld``, ``meld_ds``, ``mixtral``, ``llm`` and ``non_llm`` (the table's
            baselines).
    """

    task: str
    metric: str
    source: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Card:
    """What is known about a dataset.

    Attributes:
        publisher: Where its files can be had.
        licence: Under which terms, or :data:`NOT_CONFIRMED`.
        few_shot: Labelled instances the papers learn from; None for a set the papers do not have.
        instances: All instances by the papers' count.
        published: The papers' scores.
        sha256: Digest of each file, by its path below ``paths.data``; empty where no file was at hand.
    """

    publisher: str
    licence: str
    few_shot: int | None = None
    instances: int | None = None
    published: tuple[Published, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)

    def other_files(self, root: Path | str | None) -> tuple[str, ...]:
        """Files that are there and are not those of the card; a number of theirs need not compare with others'."""
        if root is None:
            return ()
        there = {name: Path(root) / name for name in self.sha256 if (Path(root) / name).is_file()}
        return tuple(name for name, path in there.items() if _sha256(path) != self.sha256[name])


def card_names() -> tuple[str, ...]:
    """The datasets that have a card."""
    return tuple(sorted(file.name[:-5] for file in _folder().iterdir() if file.name.endswith(".yaml")))


def load_card(name: str) -> Card | None:
    """The card of a dataset; None if it has none (made-up data, own tables).

    Raises:
        ConfigError: If a card does not have the keys of :class:`Card`.
    """
    file = _folder() / f"{name}.yaml"
    if not file.is_file():
        return None
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        published = tuple(Published(**entry) for entry in content.pop("published", ()))
        return Card(**content, published=published)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"the card of {name} cannot be read: {error}", where=str(file), fix="correct it") from None


def _folder() -> Traversable:
    return resources.files("meld.dataset") / "cards"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
