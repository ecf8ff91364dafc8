"""Keys: what changes when something changes, and what does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from meld.config.compose import load_config, plain
from meld.errors import UserError
from meld.pipeline.node import Plan
from meld.pipeline.plan import make_plan
from meld.store.store import Store


def _plan(tmp_path: Path, *overrides: str) -> Plan:
    config = load_config([f"paths.store={tmp_path / 'store'}", *overrides])
    return make_plan(plain(config), Store(tmp_path / "store"))


def _keys(plan: Plan) -> dict[str, str]:
    return {node.id: node.key for node in plan.nodes}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {id_.partition(":")[0] for id_ in before.keys() | after.keys() if before.get(id_) != after.get(id_)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, str]]:
    folder = tmp_path_factory.mktemp("plan")
    return folder, _keys(_plan(folder)), _keys(_plan(folder, "method=meld_ds"))


def test_k_changes_inference_and_evaluation_only(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    assert _changed(base[1], _keys(_plan(base[0], "k=1"))) == {"infer", "evaluate"}


def test_c_changes_the_pick_and_what_follows_only(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    after = _keys(_plan(base[0], "method=meld_ds", "c=0.1"))
    assert _changed(base[2], after) == {"pick", "refine", "route", "infer", "evaluate"}


def test_methods_share_everything_up_to_the_meta_path(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    differing = _changed(base[1], base[2])
    assert differing == {"features", "influence", "pick", "refine", "route", "infer", "evaluate"}


def test_how_paths_are_searched_changes_no_expert_before_refinement(
    base: tuple[Path, dict[str, str], dict[str, str]],
) -> None:
    after = {"metapath", "refine", "route", "infer", "evaluate"}
    for change in ("metapath=beam", "metapath.chase=frozen"):
        assert _changed(base[1], _keys(_plan(base[0], change))) == after, change


def test_paths_given_for_a_unit_declare_their_steps(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    unit, step = "quickstart_products.em", "quickstart_hospitals.dc"
    given = f"++metapath.seeds={{{unit}:[quickstart_products.blk,{step}]}}"
    node = _plan(base[0], given).node(f"metapath:{unit}")
    assert f"init:{step}" in node.inputs
    assert f"init:{step}" not in _plan(base[0]).node(f"metapath:{unit}").inputs
    with pytest.raises(UserError, match=r"did you mean quickstart_products\.em"):
        _plan(base[0], "++metapath.seeds={quickstart_product.em:[quickstart_products.blk]}")


def test_where_things_lie_and_who_logs_changes_nothing(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    assert not _changed(
        base[1], _keys(_plan(base[0], "logger=none", "paths.runs=/elsewhere", "backbone.batch_tokens=99"))
    )


def test_a_seed_changes_trained_things_but_not_the_data(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    changed = _changed(base[1], _keys(_plan(base[0], "seed=1")))
    assert not changed & {"data", "gold", "baseline"}
    assert {"encode", "init", "route", "infer"} <= changed


def test_inputs_come_before_the_nodes_that_read_them(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    seen: set[str] = set()
    for node in _plan(base[0], "method=meld_ds").nodes:
        assert {i.id for i in node.inputs.values()} <= seen
        seen.add(node.id)


@pytest.mark.parametrize("solver", ["encoder", "llm"])
def test_cleaning_reads_what_detection_flags_whoever_detects(tmp_path: Path, solver: str) -> None:
    """Planned before detection, it would silently ask about every cell."""
    plan = _plan(tmp_path, f"tasks.ed.solver={solver}")
    flags = plan.node("infer:quickstart_hospitals.dc").inputs["flags"]
    order = [node.id for node in plan.nodes]
    assert flags.id == "infer:quickstart_hospitals.ed"
    assert order.index("infer:quickstart_hospitals.ed") < order.index("infer:quickstart_hospitals.dc")


def test_only_evaluation_reads_hidden_labels(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    for node in _plan(base[0], "method=meld_ds").nodes:
        if node.stage != "evaluate":
            assert all(i.stage not in {"gold", "evaluate"} for i in node.inputs.values())


GOLDEN = Path(__file__).with_name("golden_keys.json")


def test_keys_of_the_shipped_suite_stay_what_they_were(base: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    """A changed key means that users compute the stage again: mean it, then bless it with MELD_BLESS=1."""
    found = {method: dict(sorted(keys.items())) for method, keys in zip(("meld", "meld_ds"), base[1:], strict=True)}
    if os.environ.get("MELD_BLESS"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    differing = sorted(
        {id_ for method in found for id_ in found[method] if found[method][id_] != expected[method].get(id_)}
    )
    assert found == expected, f"keys changed: {differing}; if that is meant, run with MELD_BLESS=1 and commit"
