"""What a logger gets of a run, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.logger.base import MetricSink
from meld.pipeline.node import Node
from meld.pipeline.tracking import LOGGED, Tracking, sampled
from meld.report.results import Cost


@dataclass
class Memory:
    """A logger that remembers what it was given."""

    table_rows: int = 2
    opened: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    closed: int = 0

    def open(self, run_dir: Path, config: Mapping[str, Any], name: str, group: str | None, run_id: str) -> MetricSink:
        self.opened.append(run_id)
        return cast(MetricSink, self)

    def log(self, metrics: Mapping[str, float], step: int | None, prefix: str) -> None:
        raise AssertionError

    def summary(self, metrics: Mapping[str, float]) -> None:
        self.numbers.update(metrics)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        self.tables[name] = frame

    def artifacts(self, folders: Mapping[str, Path]) -> None:
        raise AssertionError

    def finish(self) -> None:
        self.closed += 1


TREE = {"seed": 0, "k": 3, "force": None, "logger": {"project": "meld"}}
NODES = [cast(Node, SimpleNamespace(id="data:a", key="k1")), cast(Node, SimpleNamespace(id="infer:a", key="k2"))]


def _track(logger: Memory, folder: Path, tree: Mapping[str, Any] = TREE, nodes: list[Node] = NODES) -> Tracking:
    return Tracking(logger, tree, tree, folder, None, nodes)


def test_a_finished_run_is_logged_once(tmp_path: Path) -> None:
    logger = Memory()
    _track(logger, tmp_path).finish(complete=True)
    again = _track(logger, tmp_path)
    assert again.known
    again.costs([Cost("data", "a", "k1", 1.0, 10.0, True)])
    again.finish(complete=True)
    assert (len(logger.opened), logger.numbers, logger.closed) == (1, {}, 1)


@pytest.mark.parametrize("change", ["key", "config", "logger", "force"])
def test_what_is_new_is_logged_under_the_same_id_if_it_is_the_same_run(tmp_path: Path, change: str) -> None:
    logger = Memory()
    _track(logger, tmp_path).finish(complete=True)
    nodes, tree = list(NODES), dict(TREE)
    if change == "key":
        nodes[1] = cast(Node, SimpleNamespace(id="infer:a", key="other"))
    tree |= {"config": {"k": 4}, "logger": {"logger": {"project": "x"}}, "force": {"force": "infer"}}.get(change, {})
    _track(logger, tmp_path, tree, nodes).finish(complete=True)
    first, second = logger.opened
    assert (first == second) is (change != "config")


def test_an_interrupted_run_goes_on_under_its_id(tmp_path: Path) -> None:
    logger = Memory()
    _track(logger, tmp_path / "a").finish(complete=False)
    assert not (tmp_path / "a" / LOGGED).exists()
    (tmp_path / "a").mkdir()
    _track(logger, tmp_path / "a").finish(complete=True)
    _track(logger, tmp_path / "b").finish(complete=False)
    assert logger.opened[0] == logger.opened[1] != logger.opened[2]


def test_costs_are_summed_by_stage_and_memory_is_the_highest(tmp_path: Path) -> None:
    logger = Memory()
    _track(logger, tmp_path).costs(
        [
            Cost("init", "a", "1", 2.0, 10.0, True),
            Cost("init", "b", "2", 3.0, 30.0, False),
            Cost("route", "", "3", 1.0, 5, False),
        ]
    )
    assert logger.numbers == {
        "cost/init/seconds": 5.0,
        "cost/init/peak_memory_mb": 30.0,
        "cost/init/reused": 1.0,
        "cost/route/seconds": 1.0,
        "cost/route/peak_memory_mb": 5.0,
        "cost/route/reused": 0.0,
        "cost/seconds": 6.0,
    }


def test_samples_are_few_and_selections_come_in_their_order(tmp_path: Path) -> None:
    for name in ("predictions", "selection"):
        (tmp_path / name).mkdir()
    ids = [f"q{i}" for i in range(9)]
    pd.DataFrame({"query_id": ids, "output": ids, "raw": ids}).to_parquet(tmp_path / "predictions" / "a.em.parquet")
    pd.DataFrame({"id": ids, "rank": [None, 3, 1, None, 2, *[None] * 4]}).to_parquet(
        tmp_path / "selection" / "a.em.parquet"
    )
    logger = Memory()
    _track(logger, tmp_path).samples(tmp_path / "predictions", tmp_path / "selection")
    assert list(logger.tables["predictions/a.em"].columns) == ["query_id", "output"]
    assert len(logger.tables["predictions/a.em"]) == 2
    assert list(logger.tables["selection/a.em"]["id"]) == ["q2", "q4"]
    silent = Memory(table_rows=0)
    _track(silent, tmp_path).samples(tmp_path / "predictions", tmp_path / "absent")
    assert silent.tables == {}


@given(st.lists(st.text(max_size=4), unique=True, max_size=20), st.integers(0, 25))
def test_a_sample_keeps_order_and_does_not_depend_on_other_columns(keys: list[str], rows: int) -> None:
    frame = pd.DataFrame({"key": pd.Series(keys, dtype=object), "value": range(len(keys))})
    found = list(sampled(frame, "key", rows)["key"])
    assert found == [key for key in keys if key in set(found)]
    assert len(found) == min(rows, len(keys))
    assert found == list(sampled(frame.assign(value=0), "key", rows)["key"])
