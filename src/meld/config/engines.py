"""What an engine and the rest of a configuration ask of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld.config.roster import declared
from meld.errors import ConfigError


def engine_errors(tree: Mapping[str, Any], allow: Sequence[str]) -> list[ConfigError]:
    """Backbones that an engine cannot run (its ``REFUSES``), and what makes no sense without experts.

    An engine whose ``adapters`` are ``none`` answers without experts; what it then cannot do it names in
    ``REFUSES_ALONE``.
    """
    engine, backbone = tree.get("engine"), tree.get("backbone")
    if not isinstance(engine, Mapping) or not isinstance(backbone, Mapping):
        return []
    without = declared(engine, "REFUSES_ALONE", allow)
    alone = without is not None and engine.get("adapters", "none") == "none"
    rules: dict[str, str] = {}
    for refused in (declared(engine, "REFUSES", allow), without if alone else None):
        rules |= refused if isinstance(refused, Mapping) else {}
    errors = [
        ConfigError(
            f"the engine cannot work with backbone.{argument}={backbone[argument]}: {reason}",
            where=f"backbone.{argument}",
            fix=f"backbone.{argument}={'false' if backbone[argument] is True else 'null'} if the model allows it, "
            "or engine=stacked",
        )
        for argument, reason in rules.items()
        if backbone.get(argument)
    ]
    if alone and tree.get("adapters"):
        errors.append(
            ConfigError(
                "a model that answers without experts would never ask the registered adapters",
                where="adapters",
                fix="engine.adapters=served or loaded, another engine, or no adapters",
            )
        )
    return errors
