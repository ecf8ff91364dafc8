"""``serializer=col_val``: ``COL name VAL sony tv COL price VAL 399`` (Ditto, Li et al., PVLDB 14(1), 2020)."""

from __future__ import annotations

from typing import Literal

from meld.serializer.base import TemplateStyle, values
from meld.types import Entity


class ColVal:
    """Entities in Ditto's form.

    Args:
        template: ``full`` prompts or ``brief`` ones.
        encoder_text: ``same`` embeds this form, ``values`` the plain values.
    """

    def __init__(self, template: TemplateStyle = "full", encoder_text: Literal["same", "values"] = "values") -> None:
        self.template = template
        self.encoder_text = encoder_text

    def entity(self, entity: Entity) -> str:
        """Attributes marked COL, values marked VAL."""
        return " ".join(f"COL {name} VAL {value}" for name, value in entity.items() if value)

    def text(self, entity: Entity) -> str:
        """Text for the encoder."""
        return values(entity) if self.encoder_text == "values" else self.entity(entity)
