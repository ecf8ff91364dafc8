"""No influence term: no proxy is warmed up, and selection uses diversity and quality alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.selector.base import FloatArray, IntArray
from meld.selector.costs import Meter


class NoInfluence:
    """Every item has influence 0."""

    needs_model: ClassVar[bool] = False

    def scores(
        self,
        lm: LanguageModel,
        pool: Sequence[Encoded],
        validation: Sequence[Encoded],
        initial: IntArray,
        embeddings: NDArray[np.float32],
        dev: Sequence[Encoded] = (),
        meter: Meter | None = None,
    ) -> FloatArray:
        """Zeros, shape (n,)."""
        del lm, validation, initial, embeddings, dev, meter
        return np.zeros(len(pool))
