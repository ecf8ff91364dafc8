"""``serializer=json_dict``: an entity is a JSON dict of its non-empty attributes (the papers' form)."""

from __future__ import annotations

import json
from typing import Literal

from meld.serializer.base import TemplateStyle, values
from meld.types import Entity


class JsonDict:
    """Entities as JSON.

    Args:
        template: ``full`` prompts (role, instruction, JSON answer) or ``brief`` ones.
        encoder_text: ``same`` embeds the JSON, ``values`` the plain values.
    """

    def __init__(self, template: TemplateStyle = "full", encoder_text: Literal["same", "values"] = "values") -> None:
        self.template = template
        self.encoder_text = encoder_text

    def entity(self, entity: Entity) -> str:
        """``{"name": "sony tv", "price": "399"}``."""
        return json.dumps({name: value for name, value in entity.items() if value}, ensure_ascii=False)

    def text(self, entity: Entity) -> str:
        """Text for the encoder."""
        return values(entity) if self.encoder_text == "values" else self.entity(entity)
