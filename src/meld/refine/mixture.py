"""``refine=mixture``: one training on the selected samples and an auxiliary set of other tasks (MELD-DS)."""

from __future__ import annotations

import numpy as np

from meld.refine.base import Material, Round
from meld.seeds import derive
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.dsir import dsir_scores, resample
from meld.selector.objective import Modular, Objective, Term
from meld.selector.optimizer.lazy import Lazy
from meld.types import Query, Sample


class MixtureRefinement:
    """X_train plus an auxiliary set of other units' pools, mixed and trained on once (section V-D).

    The auxiliary set is filtered by DSIR toward the few-shot samples and chosen by Eq. 7: F_div + F_qual over the
    embeddings and losses that selection has measured for those pools anyway. Where the selector measured none, F_div
    over query vectors chooses alone.

    Args:
        auxiliary: Size of the auxiliary set, as a share of the selected samples.
        keep: How many times that size DSIR keeps first.
        epochs: Passes over the mixture.
        lr_factor: Learning rate relative to the expert's.
        start: ``fresh`` trains the base model, as section V-A has it; ``init`` continues the initial expert, which has
            read all of X_i, whatever was selected.
        lambda1: Weight of coverage in F_div.
        lambda2: Weight of redundancy in F_div.
    """

    def __init__(
        self,
        lambda1: float,
        lambda2: float,
        auxiliary: float = 0.5,
        keep: float = 2.0,
        epochs: int = 3,
        lr_factor: float = 1.0,
        start: str = "fresh",
    ) -> None:
        self.auxiliary = auxiliary
        self.keep = keep
        self.epochs = epochs
        self.lr_factor = lr_factor
        self.start = start
        self.lambda1 = lambda1
        self.lambda2 = lambda2

    def rounds(self, material: Material, seed: int) -> list[Round]:
        """One round."""
        chosen = self._auxiliary(material, seed)
        samples = (*material.own, *(material.others[i] for i in chosen))
        by_eq_7 = material.measured is not None
        report = {"selected": len(material.own), "auxiliary": len(chosen), "auxiliary_by_eq_7": by_eq_7}
        return [Round(samples, len(chosen), report)]

    def _auxiliary(self, material: Material, seed: int) -> list[int]:
        """Positions in ``others`` of the auxiliary set. Others' few-shot samples are theirs, not their pool's."""
        measured = material.measured
        if measured is None:
            places = np.array([i for i, s in enumerate(material.others) if s.provenance != "labelled"], dtype=np.int64)
            vectors = material.other_vectors[places]
        else:
            places, vectors = measured.places, measured.embeddings
        size = min(len(places), round(self.auxiliary * len(material.own)))
        if not size:
            return []
        target = [text_of(s) for s in material.own if s.provenance == "labelled"]
        scores = dsir_scores(
            [text_of(material.others[i]) for i in places], target or [text_of(s) for s in material.own]
        )
        kept = resample(scores, min(len(places), round(self.keep * size)), derive(seed, "dsir"))
        terms: dict[str, Term] = {"diversity": GraphCut(self.lambda1, self.lambda2).start(vectors[kept])}
        if measured is not None:
            terms["quality"] = Modular(measured.quality[kept], "quality")
        objective = Objective(terms, dict.fromkeys(terms, 1.0))
        picks = Lazy().maximize(objective, size, derive(seed, "auxiliary"))
        return [int(i) for i in places[kept[picks]]]


def text_of(sample: Sample) -> str:
    """The words of a sample, for n-gram statistics."""
    return f"{query_text(sample.query)} {sample.label}"


def query_text(query: Query) -> str:
    """The words of a query, for n-gram statistics."""
    return " ".join([*(v for entity in query.entities for v in entity.values() if v), query.target or ""])
