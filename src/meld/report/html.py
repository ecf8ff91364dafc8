"""The HTML report of one run: a single file without scripts, fonts or anything else from outside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from meld.report.annotation import ANNOTATION, annotation_lines
from meld.report.console import duration, reasons
from meld.report.explain import as_line, explained
from meld.report.paths import path_lines
from meld.report.results import (
    ENVIRONMENT,
    ROUTING,
    STATUS,
    Cost,
    Costs,
    Results,
    Row,
    read_costs,
    read_json,
    read_results,
    stage_order,
    write_text,
)
from meld.report.selection import unit_selections

REPORT = "report.html"
SAMPLES = 6
_LONGEST = 400
_MOST_GOLD = 20
_FIRST = ("method", "suite", "k", "B", "c", "seed", "data_seed", "backbone", "encoder")

TASK_NAMES: Mapping[str, str] = {
    "em": "entity matching",
    "blk": "blocking",
    "ed": "error detection",
    "dc": "data cleaning",
    "cta": "column type annotation",
    "re": "relation extraction",
    "el": "entity linking",
    "sm": "schema matching",
    "di": "data imputation",
    "ave": "attribute value extraction",
}


@dataclass(frozen=True)
class Bar:
    """One line of a chart of scores.

    Attributes:
        label: What was measured.
        value: In [0, 1].
        low: Lower end of the interval.
        high: Upper end.
        n: Queries behind it.
        own: Whether the run itself produced it, not a baseline.
    """

    label: str
    value: float
    low: float
    high: float
    n: int
    own: bool


@dataclass(frozen=True)
class Group:
    """The lines of a chart that belong to one unit.

    Attributes:
        dataset: The dataset.
        task: The task's short name.
        metric: What the bars show.
        synthetic: Whether the dataset is made up.
        bars: The lines.
    """

    dataset: str
    task: str
    metric: str
    synthetic: bool
    bars: tuple[Bar, ...]

    @property
    def task_name(self) -> str:
        """The task's name in words."""
        return TASK_NAMES.get(self.task, self.task)


@dataclass(frozen=True)
class StageTime:
    """One stage's line in the chart of times.

    Attributes:
        stage: The stage.
        here: Seconds spent by this run.
        reused: Seconds spent by earlier runs on what this run reused.
        here_share: ``here`` in per cent of the longest line.
        reused_share: ``reused`` in per cent of the longest line.
        artifacts: Number of artifacts.
        peak_memory_mb: Highest memory use.
    """

    stage: str
    here: float
    reused: float
    here_share: float
    reused_share: float
    artifacts: int
    peak_memory_mb: float


@dataclass(frozen=True)
class Answer:
    """One prediction shown in the report, every value already cut to a readable length."""

    query: str
    output: str
    gold: str
    score: str
    experts: str
    status: str


@dataclass(frozen=True)
class Answers:
    """A unit's sample of predictions.

    Attributes:
        unit: The unit.
        total: Predictions of the unit.
        right: How many are right.
        wrong_samples: Wrong ones, most confident first.
        right_samples: Right ones, rare answers first.
    """

    unit: str
    total: int
    right: int
    wrong_samples: tuple[Answer, ...]
    right_samples: tuple[Answer, ...]


def write_report(run: Path) -> Path:
    """Build ``report.html`` from the files of a run directory; sections whose files are missing are left out.

    Raises:
        DataError: If results.json is missing or one of the files is damaged.
    """
    return write_text(run / REPORT, render_run(run))


def render_run(run: Path) -> str:
    """The report of a run as HTML text.

    Raises:
        DataError: As :func:`write_report`.
    """
    results = read_results(run)
    costs = read_costs(run)
    config_file = run / "config.yaml"
    return (
        environment()
        .get_template("run.html.j2")
        .render(
            name=run.resolve().name,
            results=results,
            failures=reasons(results.failures),
            facts=facts(results.config),
            groups=score_groups(results),
            units=_units(results),
            routing=_routing(_optional(run / ROUTING)),
            costs=costs,
            stages=stage_times(costs) if costs else [],
            artifacts=sorted(costs.stages, key=lambda cost: stage_order(cost.stage)) if costs else [],
            answers=[_answers(path) for path in sorted((run / "predictions").glob("*.parquet"))],
            explained=explained(run),
            paths=path_lines(run, {s["unit"]: float(s["seconds"]) for s in costs.searches} if costs else {}),
            selections=unit_selections(run),
            annotation=annotation_lines(_optional(run / ANNOTATION)),
            surroundings=_optional(run / ENVIRONMENT),
            status=_optional(run / STATUS),
            config_text=config_file.read_text(encoding="utf-8", errors="replace") if config_file.is_file() else "",
        )
    )


def environment() -> jinja2.Environment:
    """The templates, with escaping always on: cell values of a table may contain anything."""
    folder = Path(__file__).parent / "templates"
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["duration"] = duration
    found.filters["shorten"] = lambda value: shorten(str(value))
    found.filters["line"] = as_line
    found.filters["percent"] = lambda value: f"{min(100.0, max(0.0, 100 * value)):.2f}%"
    found.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    found.globals["task_names"] = TASK_NAMES
    return found


def facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What identifies a run, most important first, for display; synthetic datasets are named elsewhere."""
    order = {key: place for place, key in enumerate(_FIRST)}
    keys = sorted((key for key in config if key != "synthetic"), key=lambda key: (order.get(key, len(order)), key))
    return [(key, show(config[key])) for key in keys]


def score_groups(results: Results) -> list[Group]:
    """The headline metric of every unit, the run's own system first, then the baselines from best to worst."""
    groups = []
    for unit in dict.fromkeys(row.unit for row in results.rows):
        rows = [row for row in results.rows if row.unit == unit and row.main]
        for metric in dict.fromkeys(row.metric for row in rows):
            of_metric = sorted((r for r in rows if r.metric == metric), key=lambda r: (not r.own, -r.value, r.system))
            first = of_metric[0]
            bars = tuple(Bar(r.system, r.value, r.ci_low, r.ci_high, r.n, r.own) for r in of_metric)
            groups.append(Group(first.dataset, first.task, metric, first.dataset in results.synthetic, bars))
    return groups


def stage_times(costs: Costs) -> list[StageTime]:
    """Seconds per stage in the chain's order, what was reused apart from what this run spent."""
    by_stage: dict[str, list[Cost]] = {}
    for cost in costs.stages:
        by_stage.setdefault(cost.stage, []).append(cost)
    longest = max((sum(cost.seconds for cost in group) for group in by_stage.values()), default=0.0) or 1.0
    times = []
    for stage in sorted(by_stage, key=stage_order):
        group = by_stage[stage]
        here = sum(cost.seconds for cost in group if not cost.reused)
        reused = sum(cost.seconds for cost in group if cost.reused)
        times.append(
            StageTime(
                stage,
                here,
                reused,
                100 * here / longest,
                100 * reused / longest,
                len(group),
                max(cost.peak_memory_mb for cost in group),
            )
        )
    return times


def show(value: Any) -> str:
    """A config value for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item) for item in value)
    return shorten(str(value))


def shorten(text: str) -> str:
    """At most 400 characters, control characters made visible as spaces."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _units(results: Results) -> list[tuple[str, str, list[Row]]]:
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        rows.setdefault((row.dataset, row.task), []).append(row)
    return [(dataset, task, group) for (dataset, task), group in rows.items()]


def _routing(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not content or not content.get("units"):
        return None
    experts = [str(expert) for expert in content["experts"]]
    lines = []
    if not content.get("per_query", True):
        return {"experts": experts, "lines": [], "most": 0.0, "load": [], "balance": {}, "per_query": False}
    for unit, line in sorted(content["units"].items()):
        weights = [float(weight) for weight in line["mean_weights"]]
        if len(weights) == len(experts):
            lines.append({"unit": str(unit), "weights": weights, "entropy": float(line["entropy"])})
    return {
        "experts": experts,
        "lines": lines,
        "most": math.log(len(experts)) if len(experts) > 1 else 0.0,
        "load": [float(share) for share in content.get("load", ())],
        "balance": dict(content.get("balance", {})),
        "per_query": True,
    }


def _answers(path: Path) -> Answers:
    import pandas as pd

    frame = pd.read_parquet(path)
    records = [{str(key): value for key, value in record.items()} for record in frame.to_dict("records")]
    right = [record for record in records if bool(record["correct"])]
    wrong = [record for record in records if not bool(record["correct"])]
    often = Counter(str(record["output"]) for record in right)
    wrong.sort(key=lambda record: (-_number(record["score"]), str(record["query_id"])))
    right.sort(key=lambda r: (often[str(r["output"])], -_number(r["score"]), str(r["query_id"])))
    return Answers(
        unit=path.stem,
        total=len(records),
        right=len(right),
        wrong_samples=tuple(_answer(record, path.stem) for record in wrong[:SAMPLES]),
        right_samples=tuple(_answer(record, path.stem) for record in right[:SAMPLES]),
    )


def _answer(record: Mapping[str, Any], unit: str) -> Answer:
    shown = record.get("query") or str(record["query_id"]).removeprefix(f"{unit}/")
    weights = _values(record.get("weights"))
    experts = [
        f"{expert} {float(weight):.2f}" for expert, weight in zip(_values(record.get("experts")), weights, strict=False)
    ]
    output = record["output"]
    return Answer(
        query=shorten(str(shown)),
        output="(no answer)" if output is None or output != output else shorten(str(output)) or "(empty)",
        gold=shorten(" | ".join(str(value) for value in _values(record["gold"])[:_MOST_GOLD])) or "(empty)",
        score=f"{_number(record['score']):.2f}",
        experts=", ".join(experts),
        status=str(record.get("status", "ok")),
    )


def _values(value: Any) -> Sequence[Any]:
    """A list cell of a Parquet file: an array, a list, or nothing."""
    return [] if value is None or isinstance(value, float) else list(value)


def _number(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(float(value)) else 0.0
