"""Routing as it is logged and written for a whole run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meld.pipeline.routing import write_routing
from meld.report.html import _routing
from meld.router.load import usage
from meld.stages.base import write_json


@dataclass
class Sink:
    """Keeps what it is given."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        raise AssertionError("not step by step")

    def summary(self, metrics: Mapping[str, float]) -> None:
        self.metrics.update(metrics)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        self.tables[name] = frame

    def finish(self) -> None: ...


def run(tmp_path: Path, lines: Mapping[str, dict[str, Any]]) -> Sink:
    made = {}
    for unit, line in lines.items():
        made[f"infer:{unit}"] = tmp_path / unit
        made[f"infer:{unit}"].mkdir(parents=True)
        write_json(made[f"infer:{unit}"] / "routing.json", line)
    sink = Sink()
    write_routing(SimpleNamespace(experts=tuple(lines)), made, tmp_path, sink)  # type: ignore[arg-type]
    return sink


def test_matrix_entropy_and_load_are_logged(tmp_path: Path) -> None:
    experts = ("b.di", "a.em")  # the router's order, not the suite's
    weights = {"a.em": np.array([[0.25, 0.75]] * 3), "b.di": np.array([[1.0, 0.0]])}
    sink = run(tmp_path, {unit: usage(experts, w, w, []) for unit, w in weights.items()})
    assert sink.tables["routing"].to_dict("list") == {
        "unit": ["a.em", "b.di"],
        "b.di": [0.25, 1.0],
        "a.em": [0.75, 0.0],
    }
    assert sink.metrics["routing/b.di/entropy"] == 0.0
    assert sink.metrics["routing/load/b.di"] == pytest.approx(1.75 / 4, abs=1e-5)
    assert 0 < sink.metrics["routing/load_normalised_entropy"] < 1
    content = json.loads((tmp_path / "routing.json").read_text())
    assert content["experts"] == list(experts)
    shown = _routing(content)
    assert shown is not None
    assert [line["weights"] for line in shown["lines"]] == [[0.25, 0.75], [1.0, 0.0]]
    assert shown["load"] == content["load"]


def test_without_weights_per_query_nothing_is_logged_and_the_report_says_so(tmp_path: Path) -> None:
    sink = run(tmp_path, {"a.em": {"experts": ["a.em"], "queries": 2, "path": []}})
    assert (sink.metrics, sink.tables) == ({}, {})
    shown = _routing(json.loads((tmp_path / "routing.json").read_text()))
    assert shown is not None
    assert shown["per_query"] is False
