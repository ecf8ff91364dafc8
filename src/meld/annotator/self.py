"""``annotator=self``: pseudo-labels from the trained encoder and transforms of labelled samples (method section 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from meld.annotator.base import Annotated, Surroundings, take
from meld.annotator.pairs import label_pairs
from meld.annotator.values import label_repairs, label_values
from meld.seeds import generator
from meld.types import Sample, UnitData


class SelfAnnotator:
    """Pseudo-labels (a) and transforms (b).

    Args:
        precision: Precision that a margin threshold must reach on the few-shot labels.
        max_pseudo: Pseudo-labelled samples per unit at most.
        max_transformed: Transformed samples per unit at most.
        mismatches_per_match: Ratio of pseudo-labelled mismatches to matches.
    """

    def __init__(
        self,
        precision: float = 0.9,
        max_pseudo: int = 1000,
        max_transformed: int = 400,
        mismatches_per_match: float = 2.0,
    ) -> None:
        self.precision = precision
        self.max_pseudo = max_pseudo
        self.max_transformed = max_transformed
        self.mismatches_per_match = mismatches_per_match

    def annotate(self, data: UnitData, around: Surroundings, donated: Sequence[Sample], seed: int) -> Annotated:
        """Few-shot training samples, pseudo-labels of the pool, and samples that transforms donated."""
        rng = generator(seed, "pseudo", data.unit)
        pseudo: list[Sample] = []
        report: Mapping[str, Any] = {"reason": f"{data.task} has no pseudo-labels"}
        if data.task == "em" and around.partners is not None:
            pseudo, report = label_pairs(
                data, around.partners, self.precision, self.max_pseudo, self.mismatches_per_match, rng
            )
        elif data.task in {"di", "cta", "re", "ave"}:
            pseudo, report = label_values(data, around, self.precision, self.max_pseudo, rng)
        elif data.task == "dc" and around.cells is not None:
            pseudo, report = label_repairs(data, around.cells, self.precision, self.max_pseudo, rng)
        transformed = take(donated, self.max_transformed, generator(seed, "transformed", data.unit))
        samples = tuple({s.id: s for s in (*transformed, *pseudo, *data.train)}.values())
        order = {"labelled": 0, "pseudo": 1}
        samples = tuple(sorted(samples, key=lambda s: (order.get(s.provenance, 2), s.provenance, s.id)))
        counts = Counter(s.provenance for s in samples)
        return Annotated(
            samples, {"counts": dict(sorted(counts.items())), "pseudo": {"precision_wanted": self.precision, **report}}
        )
