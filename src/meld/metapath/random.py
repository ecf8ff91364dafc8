"""``metapath=random``: paths drawn at random, to compare a search with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld.metapath.base import Evaluate, Found, Path, Seeds, StepRules, Trials, check_bound
from meld.seeds import generator

_PATIENCE = 20
"""Draws for each path wanted; where there are few steps, most draws repeat one another."""


class RandomMetaPath:
    """The best by Eval of ``max_evaluations`` different random paths; with 1, whatever is drawn.

    A path has one to ``max_path`` different steps, every length as likely as another. The user's paths play no part in
    the search; experts are still trained to read what their encoder-only steps attach.

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
        max_evaluations: Paths drawn and evaluated per unit.
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
        max_evaluations: int = 1,
    ) -> None:
        self.max_path = max_path
        self.rules = StepRules(tuple(steps), chase, align, max_queries, max_experts, max_added, min_confidence)
        self.seeds = Seeds(seeds, max_path)
        self.max_evaluations = check_bound(max_evaluations)

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """Draw, evaluate, take the best."""
        longest = min(self.max_path, len(available))
        if not longest:
            return Found(stopped="there is no step")
        rng = generator(seed, "paths")
        drawn: dict[Path, None] = {}
        for _ in range(_PATIENCE * self.max_evaluations):
            length = int(rng.integers(1, longest + 1))
            drawn[tuple(available[i] for i in rng.permutation(len(available))[:length])] = None
            if len(drawn) == self.max_evaluations:
                break
        trials = Trials(evaluate, self.max_evaluations)
        best = max(drawn, key=trials.score)
        return Found(best, trials.tried, f"{len(drawn)} drawn")
