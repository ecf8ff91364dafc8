"""``metapath=greedy``: append the step that raises Eval most (journal version, section IV-B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld.metapath.base import EVERYTHING, FULL, IMPROVED, SPENT, Evaluate, Found, Seeds, StepRules, Trials, check_bound


class GreedyMetaPath:
    """Start from the best of no path and the user's seeds, append the step that raises Eval most, stop when none does.

    Args:
        max_path: Most steps before the unit's own expert.
        steps: Tasks whose experts may be steps, some of ``blk``, ``ed``, ``el``, ``di``, ``ave`` and ``dc``.
        seeds: The user's paths, see :class:`meld.metapath.base.Seeds`.
        chase: ``sequential`` | ``frozen``, see :mod:`meld.metapath.edits`.
        align: Cosine from which two attributes' names are taken for one attribute; None compares spellings only.
        max_queries: Distinct questions that one application of a step asks its expert at most.
        max_experts: Experts of other datasets that are steps at most, for each kind.
        max_added: Attributes that one expert adds to a tuple at most.
        min_confidence: Answers with a lower score change nothing.
        min_gain: Smallest gain of Eval that counts.
        max_evaluations: Paths evaluated per unit at most.
    """

    def __init__(
        self,
        max_path: int,
        steps: Sequence[str],
        seeds: Mapping[str, Sequence[str] | Sequence[Sequence[str]]] | None = None,
        chase: str = "sequential",
        align: float | None = None,
        max_queries: int = 500,
        max_experts: int = 4,
        max_added: int = 3,
        min_confidence: float = 0.0,
        min_gain: float = 0.0,
        max_evaluations: int = 24,
    ) -> None:
        self.max_path = max_path
        self.rules = StepRules(tuple(steps), chase, align, max_queries, max_experts, max_added, min_confidence)
        self.seeds = Seeds(seeds, max_path)
        self.min_gain = min_gain
        self.max_evaluations = check_bound(max_evaluations)

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """Greedy search; a step is used at most once. Nothing is drawn."""
        trials = Trials(evaluate, self.max_evaluations)
        # On a tie a seed wins against no path: the user knows something.
        best = max(trials.affordable([*self.seeds.paths(unit, available)[: trials.left - 1], ()]), key=trials.score)
        while True:
            longer = [(*best, step) for step in available if step not in best]
            if len(best) >= self.max_path or not longer:
                return Found(best, trials.tried, FULL if longer else EVERYTHING)
            affordable = trials.affordable(longer)
            candidate = max(affordable, key=trials.score, default=best)
            if trials.score(candidate) <= trials.score(best) + self.min_gain:
                return Found(best, trials.tried, IMPROVED if len(affordable) == len(longer) else SPENT)
            best = candidate
