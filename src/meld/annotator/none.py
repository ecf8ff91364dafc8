"""``annotator=none``: the few-shot samples as they are."""

from __future__ import annotations

from collections.abc import Sequence

from meld.annotator.base import Annotated, Surroundings
from meld.types import Sample, UnitData


class NoAnnotator:
    """Adds nothing."""

    def annotate(self, data: UnitData, around: Surroundings, donated: Sequence[Sample], seed: int) -> Annotated:
        """The few-shot training samples."""
        return Annotated(data.train, {"counts": {"labelled": len(data.train)}})
