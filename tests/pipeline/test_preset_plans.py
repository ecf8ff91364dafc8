"""Presets at the laptop's scale plan over the published files: what there is loads, and every stage gets a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld.config.compose import load_config, plain
from meld.errors import DataError
from meld.pipeline.plan import make_plan
from meld.store.store import Store


@pytest.mark.data
@pytest.mark.parametrize("name", ["tab7_ablation", "tab2_selection", "tab6_transfer", "tab1_main"])
def test_a_preset_plans_over_the_published_files(name: str, data_root: Path, tmp_path: Path) -> None:
    tree = plain(load_config([f"experiment={name}", f"paths.data={data_root}", f"paths.store={tmp_path}"]))
    try:
        plan = make_plan(tree, Store(tmp_path))
    except DataError as error:
        pytest.skip(error.what)
    if plan.failures:
        pytest.skip(f"not there: {', '.join(failure.unit for failure in plan.failures)}")
    assert {unit.partition(".")[0] for unit in plan.units} == set(tree["datasets"])
    assert len(plan.experts) >= tree["k"]
    for unit in plan.experts:
        data = plan.load_data(unit)
        asked = {query.rows for query in data.test} if unit.endswith(".dc") else data.test
        assert len(asked) <= 500
        assert len(data.pool) <= 1500
