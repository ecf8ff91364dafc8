"""``refine=iterative``: sigma rounds, each with fresh material that is relevant but not redundant (MELD, Eq. 1)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from meld.refine.base import Material, Round, club, info_nce, relevant_not_redundant
from meld.seeds import generator


class IterativeRefinement:
    """Each round trains on the few-shot samples, a fresh share of X_aug and a Delta X from other units.

    Args:
        sigma: Rounds.
        share: Share of X_aug that a round sees, drawn without replacement within the round.
        delta: Size of Delta X, as a share of the round's own samples.
        mu: Weight of redundancy when Delta X is chosen.
        epochs: Passes over a round's samples.
        lr_factor: Learning rate relative to the expert's.
        mi_tau: Temperature of the mutual-information bounds in the report.
    """

    start = "init"

    def __init__(
        self,
        sigma: int,
        share: float = 0.5,
        delta: float = 0.25,
        mu: float = 1.0,
        epochs: int = 1,
        lr_factor: float = 0.5,
        mi_tau: float = 0.1,
    ) -> None:
        self.sigma = sigma
        self.share = share
        self.delta = delta
        self.mu = mu
        self.epochs = epochs
        self.lr_factor = lr_factor
        self.mi_tau = mi_tau

    def rounds(self, material: Material, seed: int) -> list[Round]:
        """``sigma`` rounds; a sample of another unit is used in one round only."""
        made = []
        free = np.arange(len(material.others))
        labelled = [i for i, s in enumerate(material.own) if s.provenance == "labelled"]
        rest = [i for i, s in enumerate(material.own) if s.provenance != "labelled"]
        for number in range(self.sigma):
            rng = generator(seed, "round", number)
            drawn = rng.permutation(len(rest))[: round(self.share * len(rest))]
            own = sorted([*labelled, *(rest[i] for i in drawn)])
            size = round(self.delta * len(own))
            picks = relevant_not_redundant(
                material.other_vectors[free], material.target, material.own_vectors[own], size, self.mu
            )
            added = free[picks]
            free = np.delete(free, picks)
            samples = (*(material.own[i] for i in own), *(material.others[i] for i in added))
            made.append(Round(samples, len(added), self._information(material, own, added)))
        return made

    def _information(self, material: Material, own: list[int], added: NDArray[np.intp]) -> dict[str, float]:
        """Bounds of the mutual information between Delta X and the samples of X nearest to it."""
        if not len(added) or not own:
            return {"added": 0}
        extra, base = material.other_vectors[added], material.own_vectors[own]
        partner = base[(extra @ base.T).argmax(axis=1)]
        return {
            "added": len(added),
            "mi_lower_infonce": round(info_nce(extra, partner, self.mi_tau), 4),
            "mi_upper_club": round(club(extra, partner, self.mi_tau), 4),
            "log_n": round(math.log(len(added)), 4),
        }
