"""What every policy of ``metapath`` offers, and the pieces that policies share: rules, seeds and bounded search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meld.metapath.edits import CHASES

Path = tuple[str, ...]
"""Steps in order, by their units' names."""

Evaluate = Callable[[Path], float]
"""Eval(e_i, X_i after the path) on dev: higher is better."""

KINDS = ("blk", "ed", "el", "di", "ave", "dc")
"""Tasks whose experts can be steps."""

LONGEST = 3
"""Steps before the unit's own expert, at most: errors accumulate (journal version, section IV-B)."""


@dataclass(frozen=True)
class StepRules:
    """Which experts may be steps of a path, and how steps act.

    Attributes:
        kinds: Tasks whose experts may be steps.
        chase: ``sequential`` | ``frozen``, see :mod:`meld.metapath.edits`.
        align: Cosine from which two attributes' names are taken for one attribute; None compares spellings only.
        max_queries: Distinct questions that one application of a step asks its expert at most.
        max_experts: Experts of other datasets that are steps at most, for each kind.
        max_added: Attributes that one expert adds to a tuple at most.
        min_confidence: Answers with a lower score change nothing.
    """

    kinds: tuple[str, ...] = ()
    chase: str = "sequential"
    align: float | None = None
    max_queries: int = 500
    max_experts: int = 4
    max_added: int = 3
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"no expert of {unknown[0]!r} can be a step; path_steps are some of {list(KINDS)}")
        if self.chase not in CHASES:
            raise ValueError(f"chase is {self.chase!r}, and must be one of {list(CHASES)}")
        if self.align is not None and not 0 < self.align <= 1:
            raise ValueError(f"align is {self.align}, and must be in (0, 1], or null for names alone")
        for name in ("max_queries", "max_experts", "max_added"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be at least 0")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}, and must be in [0, 1]")


@dataclass(frozen=True)
class Found:
    """A path and how it was found.

    Attributes:
        path: Its steps in order; empty for none.
        tried: Every path that was evaluated, with its Eval, in the order of evaluation.
        stopped: Why the search ended.
    """

    path: Path = ()
    tried: Mapping[Path, float] = field(default_factory=dict)
    stopped: str = ""


class MetaPathPolicy(Protocol):
    """A way to find a path.

    Attributes:
        max_path: Most steps before the unit's own expert; 0 for no paths at all.
        rules: Which steps there are, and how they act.
        seeds: The user's paths.
    """

    max_path: int
    rules: StepRules
    seeds: Seeds

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """Find a path.

        Args:
            unit: The unit whose path is wanted.
            available: Steps that change at least one of its samples.
            evaluate: Evaluates a path.
            seed: Seeds whatever is drawn.
        """
        ...


class Seeds:
    """Paths that the user gives, by task (``em: [blk]``) or by unit (``abt_buy.em: [abt_buy.blk, walmart.di]``).

    A step is a task, which stands for every available unit of that task, or a unit. Several paths are a list of lists.

    Args:
        given: Task or unit to a path, or to several.
        max_path: Longest path.

    Raises:
        ValueError: If a value is no list of names, or a unit's path is longer than paths may be.
    """

    def __init__(self, given: Mapping[str, Sequence[str] | Sequence[Sequence[str]]] | None, max_path: int) -> None:
        self.max_path = max_path
        self._given = {name: _paths(name, value) for name, value in (given or {}).items()}
        for name, paths in self._given.items():
            for path in paths if "." in name and max_path else ():
                if len(path) > max_path:
                    raise ValueError(f"the path {list(path)} of {name} is longer than max_path = {max_path}")

    @property
    def units(self) -> tuple[str, ...]:
        """Units that have paths of their own."""
        return tuple(name for name in self._given if "." in name)

    def named(self, unit: str) -> Path:
        """Units that a unit's own paths name as steps; they are steps whatever the rules allow."""
        if not self.max_path:
            return ()
        return tuple(dict.fromkeys(step for path in self._given.get(unit, ()) for step in path if "." in step))

    def paths(self, unit: str, available: Sequence[str]) -> list[Path]:
        """A unit's seeds in terms of the available steps, its own before its task's; steps that are not there go."""
        found: dict[Path, None] = {}
        for path in (*self._given.get(unit, ()), *self._given.get(unit.rpartition(".")[2], ())):
            steps: dict[str, None] = {}
            for step in path:
                steps |= {u: None for u in available if u == step or ("." not in step and u.endswith(f".{step}"))}
            kept = tuple(steps)[: self.max_path]
            if kept:
                found[kept] = None
        return list(found)


def _paths(name: str, value: Sequence[str] | Sequence[Sequence[str]]) -> tuple[Path, ...]:
    several = [value] if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value) else value
    paths: list[Path] = []
    for path in several:
        if isinstance(path, str) or not path or not all(isinstance(step, str) and step for step in path):
            raise ValueError(f"seeds.{name} is {value!r}, and must be a list of tasks or units such as [blk]")
        paths.append(tuple(path))
    return tuple(paths)


class Trials:
    """Evals of paths: each is computed once, and no more than a limit.

    Args:
        evaluate: Evaluates a path.
        limit: Evaluations at most.
    """

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self._evaluate = evaluate
        self._limit = limit
        self.tried: dict[Path, float] = {}

    @property
    def left(self) -> int:
        """Evaluations that may still be made."""
        return self._limit - len(self.tried)

    def score(self, path: Path) -> float:
        """A path's Eval."""
        if path not in self.tried:
            self.tried[path] = self._evaluate(path)
        return self.tried[path]

    def affordable(self, paths: Sequence[Path]) -> list[Path]:
        """The paths that are known or can still be evaluated, in order."""
        kept, left = [], self.left
        for path in dict.fromkeys(paths):
            if path in self.tried or left > 0:
                left -= path not in self.tried
                kept.append(path)
        return kept


def check_bound(max_evaluations: int) -> int:
    """Return a valid number of evaluations.

    Raises:
        ValueError: If it is below one.
    """
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations is {max_evaluations}, and must be at least 1")
    return max_evaluations


IMPROVED = "no further step improves Eval"
FULL = "the path is as long as allowed"
SPENT = "max_evaluations are spent"
EVERYTHING = "there is no further step"
FIXED = "the user's path, without a search"
"""Reasons for which a search ends."""
