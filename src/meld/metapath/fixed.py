"""``metapath=fixed``: the user's paths, without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld.metapath.base import FIXED, Evaluate, Found, Seeds, StepRules


class FixedMetaPath:
    """The first of the user's paths as it is; no path where there is none.

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
    ) -> None:
        self.max_path = max_path
        self.rules = StepRules(tuple(steps), chase, align, max_queries, max_experts, max_added, min_confidence)
        self.seeds = Seeds(seeds, max_path)

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """The first seed; nothing is evaluated."""
        return Found(next(iter(self.seeds.paths(unit, available)), ()), stopped=FIXED)
