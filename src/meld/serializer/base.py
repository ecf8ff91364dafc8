"""What every serializer offers."""

from __future__ import annotations

from typing import Literal, Protocol

from meld.types import Entity

TemplateStyle = Literal["full", "brief"]


class Serializer(Protocol):
    """Writes entities."""

    template: TemplateStyle

    def entity(self, entity: Entity) -> str:
        """Text of an entity inside a prompt. Missing values are left out."""
        ...

    def text(self, entity: Entity) -> str:
        """Text of an entity for the encoder."""
        ...


def values(entity: Entity) -> str:
    """The plain values in column order: what untouched sentence encoders compare best."""
    return " ".join(value for value in entity.values() if value)
