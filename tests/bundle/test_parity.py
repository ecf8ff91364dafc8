"""A bundle gives the answers that evaluation scored: from Python and from the shell, for every task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from meld.bundle.job import COLUMNS
from meld.bundle.model import Model, load
from meld.cli.main import main
from meld.dataset.io import load_predictions
from meld.engine.stacked import StackedModel
from meld.stages.balance import Odds
from meld.task.em import MATCH
from meld.types import Prediction

FIVE = (
    "quickstart_products.em",
    "quickstart_products.blk",
    "quickstart_people.di",
    "quickstart_hospitals.ed",
    "quickstart_hospitals.dc",
)
TEN = (
    *FIVE,
    "quickstart_schemas.sm",
    "quickstart_atlas.cta",
    "quickstart_atlas.re",
    "quickstart_atlas.el",
    "quickstart_listings.ave",
)


@pytest.mark.parametrize("unit", FIVE)
def test_predictions_are_those_of_the_evaluation(made: Any, model: Model, unit: str) -> None:
    assert made.units == sorted(FIVE)
    rows = made.rows(unit)
    found = model.predict(rows, unit=unit, progress=False)
    assert list(found.index) == list(rows.index)
    assert tuple(found.columns) == COLUMNS
    made.check(found, unit)


def test_matching_shifts_its_odds_as_evaluation_did(made: Any, model: Model) -> None:
    """The estimate is the run's: a bundle has no pool to make one from."""
    run = json.loads((made.run / "artifacts" / "balance.quickstart_products.em" / "balance.json").read_text())
    assert run["linked"]["pool"] >= 50
    assert abs(run["linked"]["shift"]) > 0.05
    opened = model.opened
    assert opened._odds(opened.unit("quickstart_products.em")) == Odds(run["linked"]["shift"], run["bare"]["shift"])
    assert opened._odds(opened.unit("quickstart_people.di")) is None


def test_the_shift_is_in_what_evaluation_scores(made: Any, five: tuple[str, ...], tmp_path: Path) -> None:
    """Without it the same experts say the same but for one number on the log-odds; nothing is trained again."""
    unit = "quickstart_products.em"
    without = made.again(*five, "tasks.em.match_share=labelled", f"paths.runs={tmp_path}")
    computed = {
        cost["stage"] for cost in json.loads((without / "costs.json").read_text())["stages"] if not cost["reused"]
    }
    assert computed == {"infer", "evaluate"}
    balance = json.loads((made.run / "artifacts" / f"balance.{unit}" / "balance.json").read_text())
    plain = load_predictions(without / "artifacts" / f"infer.{unit}" / "predictions.parquet")
    shifted = made.evaluated(unit)
    moved = [_odds(shifted[p.query_id]) - _odds(p) for p in plain if 0.001 < p.score < 0.999]
    assert moved
    # Blocking is the step of the path, so that it is the view with links that counts.
    assert moved == pytest.approx([balance["linked"]["shift"]] * len(moved), abs=5e-3)


def _odds(said: Prediction) -> float:
    """Log-odds of *match*."""
    odds = math.log(said.score) - math.log1p(-said.score)
    return odds if said.output == MATCH else -odds


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("unit", TEN)
def test_all_ten_tasks_after_paths_through_other_datasets(made_ten: Any, model_ten: Model, unit: str) -> None:
    assert made_ten.units == sorted(TEN)
    made_ten.check(model_ten.predict(made_ten.rows(unit), unit=unit, chunk=7, progress=False), unit)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_paths_of_the_ten_ask_other_datasets(made_ten: Any, model_ten: Model) -> None:
    paths = model_ten.opened.paths
    assert paths["quickstart_products.em"] == ("quickstart_products.blk", "quickstart_listings.ave")
    assert paths["quickstart_people.di"] == ("quickstart_hospitals.dc",)
    assert paths["quickstart_atlas.cta"] == ("quickstart_atlas.el",)
    assert model_ten.opened.rules.chase == "frozen"
    changed = {unit: model_ten.explain(made_ten.rows(unit).iloc[[0]], unit=unit).asked.edits for unit in TEN}
    assert {edit.step for edit in changed["quickstart_products.em"]} == set(paths["quickstart_products.em"])
    assert {edit.step for edit in changed["quickstart_atlas.cta"]} == {"quickstart_atlas.el"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("unit", TEN)
def test_the_shell_says_the_same(made_ten: Any, unit: str, tmp_path: Path) -> None:
    rows, task = made_ten.rows(unit), unit.partition(".")[2]
    rows.insert(0, "id", list(rows.index))
    rows.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    words = ["predict", str(made_ten.bundle), str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.parquet")]
    expected = made_ten.evaluated(unit)
    invalid = any(prediction.status == "invalid" for prediction in expected.values())
    assert main([*words, "--task", task, "--unit", unit, "--quiet"]) == int(invalid)
    found = pq.read_table(tmp_path / "out.parquet").to_pandas().set_index("id")
    made_ten.check(found, unit)
    for name in rows.columns.drop("id"):
        value = found[name].iloc[0]
        assert (json.loads(value) if name == "options" else value) == rows[name].iloc[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_experts_that_steps_ask_are_opened_once(made_ten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are off the base model when the bundle is closed."""
    opened: list[tuple[str, ...]] = []
    begin = StackedModel.__init__

    def counted(self: StackedModel, lm: Any, adapters: Any) -> None:
        opened.append(tuple(adapters))
        begin(self, lm, adapters)

    monkeypatch.setattr(StackedModel, "__init__", counted)
    model = load(made_ten.bundle)
    unit = "quickstart_products.em"
    rows = made_ten.rows(unit).head(3)
    made_ten.check_some(model.predict(rows, unit=unit, chunk=1, progress=False), unit)
    experts = (*model.opened.manifest["experts"], *model.opened.manifest["registered"])
    assert sorted(opened) == sorted([("quickstart_listings.ave",), experts])
    model.opened.close()
    assert not any(module._forward_hooks for module in model.opened.lm.model.modules())
