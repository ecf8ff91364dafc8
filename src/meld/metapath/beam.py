"""``metapath=beam``: extend the best few paths instead of the best one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld.metapath.base import IMPROVED, SPENT, Evaluate, Found, Path, Seeds, StepRules, Trials, check_bound


class BeamMetaPath:
    """Keep the best ``width`` paths, extend each by every step, stop when no extension gets among them.

    With ``width`` 1 it is greedy search. A wider beam finds steps that help only together.

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
        min_gain: Smallest gain of Eval that counts; a longer path has to gain it over the path it extends.
        max_evaluations: Paths evaluated per unit at most.
        width: Paths kept.
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
        max_evaluations: int = 48,
        width: int = 3,
    ) -> None:
        self.max_path = max_path
        self.rules = StepRules(tuple(steps), chase, align, max_queries, max_experts, max_added, min_confidence)
        self.seeds = Seeds(seeds, max_path)
        self.min_gain = min_gain
        self.max_evaluations = check_bound(max_evaluations)
        if width < 1:
            raise ValueError(f"width is {width}, and must be at least 1")
        self.width = width

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """Beam search; a step is used at most once in a path. Nothing is drawn."""
        trials = Trials(evaluate, self.max_evaluations)
        first = trials.affordable([*self.seeds.paths(unit, available)[: trials.left - 1], ()])
        # Sorting is stable: on a tie the path that was there first stays ahead.
        beam = sorted(first, key=lambda path: -trials.score(path))[: self.width]
        extended: set[Path] = set()
        while True:
            parents = [path for path in beam if path not in extended and len(path) < self.max_path]
            longer = [((*path, step), path) for path in parents for step in available if step not in path]
            affordable = trials.affordable([path for path, _ in longer])
            better = [
                path
                for path, parent in longer
                if path in affordable and trials.score(path) > trials.score(parent) + self.min_gain
            ]
            spent = len(affordable) < len({path for path, _ in longer})
            extended.update(parents)
            beam = sorted(dict.fromkeys([*beam, *better]), key=lambda path: -trials.score(path))[: self.width]
            if spent or all(path in extended or len(path) >= self.max_path for path in beam):
                return Found(beam[0], trials.tried, SPENT if spent else IMPROVED)
