"""A unit that fails does not take the others down: what the plan without it keeps, and what a run says."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.tiny import SIZES

from meld.config.compose import load_config, plain
from meld.dataset.io import load_unit
from meld.errors import ConfigError, DataError, UserError
from meld.pipeline.node import ORDER, Plan
from meld.pipeline.plan import make_plan
from meld.pipeline.run import execute
from meld.report.results import Failure
from meld.stages import serialize
from meld.stages.base import Context
from meld.store.store import Store

FAST = ("logger=none", "trainer=debug")
SMALL = (
    "suite=quickstart",
    *SIZES,
    "limits.alignments=10",
)
PEOPLE = "quickstart_people.di"


def tree_of(folder: Path, *overrides: str, small: bool = True) -> dict[str, Any]:
    config = load_config(
        [
            *FAST,
            *(SMALL if small else ()),
            f"paths.store={folder / 'store'}",
            f"paths.data={folder / 'data'}",
            *overrides,
        ]
    )
    return dict(plain(config))


def go(tree: dict[str, Any], folder: Path) -> tuple[tuple[Failure, ...], str, dict[str, Any]]:
    """Run in this process: the failures, what was printed, and the status."""
    out = StringIO()
    failures = execute(tree, tree, {}, folder / "run", "meld ...", Console(file=out, width=200))
    return failures, out.getvalue(), json.loads((folder / "run" / "status.json").read_text())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Store, Plan]:
    tree = tree_of(tmp_path_factory.mktemp("plan"), "method=meld_ds")
    store = Store(Path(tree["paths"]["store"]))
    return tree, store, make_plan(tree, store)


@pytest.mark.parametrize("stage", ORDER)
@pytest.mark.parametrize("unit", [PEOPLE, "quickstart_hospitals.ed", "quickstart_products.blk"])
def test_a_plan_without_a_unit_keeps_what_came_before(
    planned: tuple[dict[str, Any], Store, Plan], unit: str, stage: str
) -> None:
    _, _, whole = planned
    plan = whole.without(Failure.of(unit, stage, UserError("broken")))
    nodes = {node.id: node for node in plan.nodes}
    for node in plan.nodes:
        assert all(nodes[source.id] is source for source in node.inputs.values())
    own = {node.stage for node in plan.nodes if node.unit == unit}
    assert not {kind for kind in own if ORDER.index(kind) >= ORDER.index(stage)}
    before = {node.id: node.key for node in whole.nodes}
    for node in plan.nodes:
        if ORDER.index(node.stage) < ORDER.index(stage):
            assert node.key == before[node.id]
    others = set(whole.units) - {unit}
    if unit == "quickstart_hospitals.ed" and ORDER.index(stage) <= ORDER.index("infer"):
        others -= {"quickstart_hospitals.dc"}
    assert set(plan.scored) == others
    assert {f"evaluate:{other}" for other in others} <= nodes.keys()
    # A failure after everything that units share changes nothing for the others.
    if ORDER.index(stage) > ORDER.index("infer"):
        assert {id_: node.key for id_, node in nodes.items() if node.unit != unit} == {
            id_: key for id_, key in before.items() if not id_.endswith(f":{unit}")
        }


def test_a_worker_plans_what_its_run_planned(planned: tuple[dict[str, Any], Store, Plan]) -> None:
    tree, store, whole = planned
    failure = Failure.of(PEOPLE, "init", UserError("broken"))
    again = make_plan(tree, store, [failure])
    assert {n.id: n.key for n in again.nodes} == {n.id: n.key for n in whole.without(failure).nodes}


def test_fewer_experts_than_k_is_said(planned: tuple[dict[str, Any], Store, Plan]) -> None:
    _, _, whole = planned
    assert len(whole.experts) == 3
    plan = whole.without(Failure.of(PEOPLE, "refine", UserError("broken")))
    assert any("k = 3 is lowered to the 2 experts left" in note for note in plan.notes)
    assert not any("experts left" in note for note in whole.notes)


def test_cleaning_of_flagged_cells_fails_with_detection(planned: tuple[dict[str, Any], Store, Plan]) -> None:
    """Without flags it would silently ask about every cell, and its score would mean something else."""
    _, _, whole = planned
    plan = whole.without(Failure.of("quickstart_hospitals.ed", "annotate", UserError("broken")))
    told = {failure.unit: failure for failure in plan.failures}
    assert told["quickstart_hospitals.dc"].stage == "infer"
    assert "quickstart_hospitals.ed failed" in told["quickstart_hospitals.dc"].what
    assert "tasks.dc.cells=all" in told["quickstart_hospitals.dc"].fix


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "+dataset@datasets.abt_buy=abt_buy", "until=serialize")
    failures, said, status = go(tree, tmp_path)
    assert [f.unit for f in failures] == ["abt_buy.em", "abt_buy.blk"]
    assert "abt_buy.em, abt_buy.blk failed" in said
    assert "paths.data=FOLDER" in said
    assert status["state"] == "failed"
    assert "abt_buy.em, abt_buy.blk" in status["error"]
    assert len(list((tmp_path / "store" / "serialize").iterdir())) == 5


def test_no_dataset_at_all_stops_at_once(tmp_path: Path) -> None:
    alone = tree_of(tmp_path, "suite=none", "k=1", "+dataset@datasets.abt_buy=abt_buy", small=False)
    with pytest.raises(DataError, match="folder of dataset 'abt_buy' does not exist"):
        go(alone, tmp_path)
    assert not (tmp_path / "store").exists()
    several = tree_of(tmp_path, "suite=real_small", small=False)
    with pytest.raises(DataError, match=r"None of the 3 datasets can be loaded:\n  abt_buy: .*\n  restaurant: "):
        go(several, tmp_path)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def _failing(units: Callable[[str], bool], error: Exception) -> Callable[..., None]:
    right = serialize.run

    def run(context: Context, *rest: Any) -> None:
        if units(load_unit(context.inputs["data"]).unit):
            raise error
        right(context, *rest)

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [(DataError("cell 7 is odd", where="t.csv", fix="mend cell 7"), "mend cell 7"), (KeyError("x"), "KeyError: 'x'")],
)
def test_a_stage_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    """The others are computed, a traceback is kept, and the same command does the rest."""
    tree = tree_of(tmp_path, "until=serialize")
    with monkeypatch.context() as patch:
        patch.setattr(serialize, "run", _failing(lambda unit: unit == PEOPLE, error))
        failures, printed, status = go(tree, tmp_path)
    assert [(f.unit, f.stage) for f in failures] == [(PEOPLE, "serialize")]
    assert said in printed
    assert said in status["error"]
    assert "Traceback" in (tmp_path / "run" / "meld.log").read_text()
    made = sorted((tmp_path / "store" / "serialize").iterdir())
    assert len(made) == 4
    again, _, status = go(tree, tmp_path)
    assert not again
    assert status["state"] == "done"
    assert status["error"] is None
    assert set(made) < set((tmp_path / "store" / "serialize").iterdir())


def test_what_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option, and a fault of every unit, are one error as before."""
    tree = tree_of(tmp_path, "until=serialize")
    monkeypatch.setattr(serialize, "run", _failing(lambda unit: unit == PEOPLE, ConfigError("no such option")))
    with pytest.raises(ConfigError, match="no such option"):
        go(tree, tmp_path)
    monkeypatch.setattr(serialize, "run", _failing(lambda unit: True, DataError("all is odd")))
    with pytest.raises(DataError, match="all is odd"):
        go({**tree, "force": "serialize"}, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_table_of_which_nothing_is_held_out_is_answered_and_not_scored(tmp_path: Path) -> None:
    """One known and one empty cell: no query for the router, no answer to score; predictions all the same."""
    (tmp_path / "t.csv").write_text("name,zip,city\nAnn,02108,Boston\nBob,10001,\n")
    overrides = ["suite=none", "k=1", "+dataset@datasets.tiny=csv_cells", "datasets.tiny.name=tiny"]
    overrides += [f"datasets.tiny.table={tmp_path / 't.csv'}", "datasets.tiny.targets=[city]", "encoder=none"]
    failures, said, status = go(tree_of(tmp_path, *overrides, small=False), tmp_path)
    assert not failures
    assert status["state"] == "done"
    assert "tiny.di: no question has a known answer" in said
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == []
    assert (tmp_path / "run" / "predictions" / "tiny.di.parquet").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
