"""``serializer=sentences``: ``name: sony tv, price: 399``, the form with the fewest tokens."""

from __future__ import annotations

from typing import Literal

from meld.serializer.base import TemplateStyle, values
from meld.types import Entity


class Sentences:
    """Entities as ``attribute: value`` phrases.

    Args:
        template: ``full`` prompts or ``brief`` ones.
        encoder_text: ``same`` embeds this form, ``values`` the plain values.
    """

    def __init__(self, template: TemplateStyle = "full", encoder_text: Literal["same", "values"] = "values") -> None:
        self.template = template
        self.encoder_text = encoder_text

    def entity(self, entity: Entity) -> str:
        """Phrases joined by commas."""
        return ", ".join(f"{name}: {value}" for name, value in entity.items() if value)

    def text(self, entity: Entity) -> str:
        """Text for the encoder."""
        return values(entity) if self.encoder_text == "values" else self.entity(entity)
