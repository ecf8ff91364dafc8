"""``metapath=greedy|fixed|none``: how the path of a unit is found (journal version, section IV-B)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Evaluate = Callable[[tuple[str, ...]], float]
"""Eval(e_i, X_i after the path) on dev: higher is better."""


@dataclass(frozen=True)
class Found:
    """A path and how it was found.

    Attributes:
        path: Step names in order; empty for none.
        tried: Every path that was evaluated, with its Eval.
    """

    path: tuple[str, ...] = ()
    tried: Mapping[str, float] = field(default_factory=dict)


class MetaPathPolicy(Protocol):
    """A way to find a path.

    Attributes:
        max_path: Most steps before the unit's own expert; 0 for no paths at all.
    """

    max_path: int

    def seeds(self, task: str, available: Sequence[str]) -> list[tuple[str, ...]]:
        """User-given paths for a task, in terms of the available steps."""
        ...

    def search(self, task: str, available: Sequence[str], evaluate: Evaluate) -> Found:
        """Find a path among the available steps."""
        ...


def seed_paths(
    seeds: Mapping[str, Sequence[str]], task: str, available: Sequence[str], max_path: int
) -> list[tuple[str, ...]]:
    """Turn a task-level seed such as ``em: [blk]`` into paths over units.

    Args:
        seeds: Task to the tasks before it.
        task: The task a path is wanted for.
        available: Units that apply to it.
        max_path: Longest path.
    """
    wanted = seeds.get(task, ())
    path: list[str] = []
    for step_task in wanted:
        path += [unit for unit in available if unit.rpartition(".")[2] == step_task and unit not in path]
    return [tuple(path[:max_path])] if path else []


class GreedyMetaPath:
    """Start from the best of no path and the user's seeds, append the step that raises Eval most, stop when none does.

    Args:
        max_path: Most steps before the unit's own expert.
        seeds: User-given paths by task, e.g. ``{em: [blk]}``.
        min_gain: Smallest gain of Eval that counts.
        max_evaluations: Paths evaluated per unit at most.
    """

    def __init__(
        self,
        max_path: int,
        seeds: Mapping[str, Sequence[str]] | None = None,
        min_gain: float = 0.0,
        max_evaluations: int = 24,
    ) -> None:
        self.max_path = max_path
        self._seeds = dict(seeds or {})
        self.min_gain = min_gain
        self.max_evaluations = max_evaluations

    def seeds(self, task: str, available: Sequence[str]) -> list[tuple[str, ...]]:
        """The user's paths that are possible here."""
        return seed_paths(self._seeds, task, available, self.max_path) if self.max_path else []

    def search(self, task: str, available: Sequence[str], evaluate: Evaluate) -> Found:
        """Greedy search; a step is used at most once."""
        tried: dict[tuple[str, ...], float] = {}

        def score(path: tuple[str, ...]) -> float:
            if path not in tried:
                tried[path] = evaluate(path)
            return tried[path]

        best = max([*self.seeds(task, available), ()], key=score)
        while len(best) < self.max_path and len(tried) < self.max_evaluations:
            longer = [(*best, step) for step in available if step not in best]
            longer = longer[: self.max_evaluations - len(tried)]
            if not longer:
                break
            candidate = max(longer, key=score)
            if score(candidate) <= score(best) + self.min_gain:
                break
            best = candidate
        return Found(best, {">".join(path) or "(none)": round(value, 6) for path, value in tried.items()})


class FixedMetaPath:
    """The user's paths as they are, without a search.

    Args:
        max_path: Most steps before the unit's own expert.
        seeds: Paths by task, e.g. ``{em: [blk]}``.
    """

    def __init__(self, max_path: int, seeds: Mapping[str, Sequence[str]] | None = None) -> None:
        self.max_path = max_path
        self._seeds = dict(seeds or {})

    def seeds(self, task: str, available: Sequence[str]) -> list[tuple[str, ...]]:
        """The user's paths that are possible here."""
        return seed_paths(self._seeds, task, available, self.max_path) if self.max_path else []

    def search(self, task: str, available: Sequence[str], evaluate: Evaluate) -> Found:
        """The first seed."""
        return Found(next(iter(self.seeds(task, available)), ()))


class NoMetaPath:
    """No path: the papers' "w/o meta-path"."""

    max_path = 0

    def seeds(self, task: str, available: Sequence[str]) -> list[tuple[str, ...]]:
        """None."""
        return []

    def search(self, task: str, available: Sequence[str], evaluate: Evaluate) -> Found:
        """The empty path."""
        return Found()
