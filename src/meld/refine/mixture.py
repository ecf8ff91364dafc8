"""``refine=mixture``: one training on the selected samples and an auxiliary set of other tasks (MELD-DS)."""

from __future__ import annotations

import numpy as np

from meld.refine.base import Material, Round
from meld.seeds import derive
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.dsir import dsir_scores, resample
from meld.selector.objective import Objective
from meld.selector.optimizer.incremental import Incremental
from meld.types import Sample


class MixtureRefinement:
    """X_train plus an auxiliary set: other tasks' pools, filtered by DSIR toward the few-shot samples, chosen by F_div.

    Args:
        auxiliary: Size of the auxiliary set, as a share of the selected samples.
        keep: How many times that size DSIR keeps first.
        epochs: Passes over the mixture.
        lr_factor: Learning rate relative to the expert's.
        start: ``init`` continues the initial expert, ``fresh`` starts anew.
        lambda1: Weight of coverage in F_div.
        lambda2: Weight of redundancy in F_div.
    """

    def __init__(
        self,
        lambda1: float,
        lambda2: float,
        auxiliary: float = 0.5,
        keep: float = 2.0,
        epochs: int = 1,
        lr_factor: float = 0.5,
        start: str = "init",
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
        size = min(len(material.others), round(self.auxiliary * len(material.own)))
        chosen: list[int] = []
        if size:
            target = [text_of(s) for s in material.own if s.provenance == "labelled"]
            scores = dsir_scores([text_of(s) for s in material.others], target or [text_of(s) for s in material.own])
            kept = resample(scores, min(len(material.others), round(self.keep * size)), derive(seed, "dsir"))
            cut = GraphCut(self.lambda1, self.lambda2).start(material.other_vectors[kept])
            picks = Incremental().maximize(
                Objective({"diversity": cut}, {"diversity": 1.0}), size, derive(seed, "auxiliary")
            )
            chosen = [int(i) for i in np.asarray(kept)[picks]]
        samples = (*material.own, *(material.others[i] for i in chosen))
        return [Round(samples, len(chosen), {"selected": len(material.own), "auxiliary": len(chosen)})]


def text_of(sample: Sample) -> str:
    """The words of a sample, for n-gram statistics."""
    values = [value for entity in sample.query.entities for value in entity.values() if value]
    return " ".join([*values, sample.query.target or "", sample.label])
