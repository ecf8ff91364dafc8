"""Meta-paths in a run directory and in its report: which were tried, which was taken, what each step changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld.report.results import PATHS, read_json, write_json

_EXAMPLES = 3
_DOING = {"fill": "filled", "add": "added", "revise": "revised", "attach": "attached"}


@dataclass(frozen=True)
class Change:
    """One example of what a step did.

    Attributes:
        attribute: The attribute, or the fact's name.
        before: Its value before; empty where there was none.
        after: Its value after.
        confidence: Score of the expert's answer.
    """

    attribute: str
    before: str
    after: str
    confidence: float


@dataclass(frozen=True)
class StepLine:
    """What a step of the path did to a unit's samples.

    Attributes:
        step: The expert.
        changed: Samples it changed.
        did: In words, e.g. ``filled 12``.
        asked: Questions its expert was asked, over search and application.
        over: Questions that were not asked because of the limit.
        examples: A few changes.
    """

    step: str
    changed: int
    did: str
    asked: int
    over: int
    examples: tuple[Change, ...]


@dataclass(frozen=True)
class PathLine:
    """A unit's path.

    Attributes:
        unit: The unit.
        path: The steps in order.
        chase: How the steps' results come together.
        stopped: Why the search ended.
        samples: Samples of the unit.
        evaluations: Paths evaluated.
        queries: Queries asked by the search.
        seconds: What the search took; None where unknown.
        tried: Every path with its Eval, best first.
        steps: What each step did.
    """

    unit: str
    path: tuple[str, ...]
    chase: str
    stopped: str
    samples: int
    evaluations: int
    queries: int
    seconds: float | None
    tried: tuple[tuple[str, float], ...]
    steps: tuple[StepLine, ...]


def search_costs(made: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What each unit's search took, from its artifact; units that were not searched for are left out.

    Args:
        made: Artifact folders by ``<stage>:<unit>``.
    """
    costs = []
    for unit, folder in _searched(made).items():
        if not (folder / "search.json").is_file():
            continue  # withheld labels leave nothing to search on
        found = read_json(folder / "path.json")
        seconds = read_json(folder / "search.json")["seconds"]
        costs.append(
            {"unit": unit, "evaluations": found["evaluations"], "queries": _asked(found), "seconds": seconds["search"]}
        )
    return costs


def write_paths(run: Path, made: Mapping[str, Path]) -> None:
    """Write ``paths.json``: each unit's path with every path tried and what each step changed. No timings.

    Args:
        run: The run directory.
        made: Artifact folders by ``<stage>:<unit>``.
    """
    units = {unit: read_json(folder / "path.json") for unit, folder in _searched(made).items()}
    if units:
        write_json(run / PATHS, {"units": units})


def path_lines(run: Path, seconds: Mapping[str, float]) -> list[PathLine]:
    """What the report shows of ``paths.json``; nothing where it is missing.

    Args:
        run: The run directory.
        seconds: Unit to the seconds its search took.
    """
    if not (run / PATHS).is_file():
        return []
    units = read_json(run / PATHS).get("units", {})
    return [_line(unit, content, seconds.get(unit)) for unit, content in sorted(units.items())]


def _searched(made: Mapping[str, Path]) -> dict[str, Path]:
    return {id_.partition(":")[2]: folder for id_, folder in made.items() if id_.startswith("metapath:")}


def _asked(found: Mapping[str, Any]) -> int:
    return sum(int(count) for count in found["queries"].values())


def _line(unit: str, content: Mapping[str, Any], seconds: float | None) -> PathLine:
    tried = sorted(((str(p), float(v)) for p, v in content["tried"].items()), key=lambda pair: (-pair[1], pair[0]))
    return PathLine(
        unit,
        tuple(content["path"]),
        content["chase"],
        content["stopped"],
        content["samples"],
        content["evaluations"],
        _asked(content),
        seconds,
        tuple(tried),
        tuple(_step(content, step) for step in content["path"]),
    )


def _step(content: Mapping[str, Any], step: str) -> StepLine:
    told = content["steps"][step]
    examples = [e for e in content["examples"] if e["step"] == step][:_EXAMPLES]
    return StepLine(
        step,
        content["changed_samples"][step],
        ", ".join(f"{_DOING[kind]} {count:,}" for kind, count in told["edits"].items()) or "changed nothing",
        told["asked"],
        told["over"],
        tuple(Change(e["attribute"], e["before"], e["after"], float(e["confidence"])) for e in examples),
    )
