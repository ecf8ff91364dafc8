"""Who is trained and who answers: keys of joint experts, registered and excluded adapters, token-wise routing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from meld.config.compose import load_config, plain
from meld.errors import UserError
from meld.pipeline.node import Plan
from meld.pipeline.plan import make_plan
from meld.store.store import Store

UNITS = ("quickstart_products.em", "quickstart_people.di", "quickstart_hospitals.dc")

MakePlan = Callable[..., Plan]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> MakePlan:
    """Plans on one store."""
    store = tmp_path_factory.mktemp("store")

    def make(*overrides: str) -> Plan:
        return make_plan(plain(load_config([f"paths.store={store}", *overrides])), Store(store))

    return make


def keys(plan: Plan) -> dict[str, str]:
    return {node.id: node.key for node in plan.nodes}


def stages(ids: set[str]) -> set[str]:
    return {id_.partition(":")[0] for id_ in ids}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {id_ for id_ in before.keys() | after.keys() if before.get(id_) != after.get(id_)}


@pytest.fixture(scope="module")
def base(planned: MakePlan) -> dict[str, str]:
    return keys(planned())


def adapter(folder: Path, base: str = "embedded:minilm", rank: int = 8, **config: object) -> Path:
    """A LoRA adapter of one layer in PEFT's layout."""
    folder.mkdir(parents=True)
    settings = {"base_model_name_or_path": base, "r": rank, "lora_alpha": 2 * rank, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stem = "base_model.model.bert.encoder.layer.0.attention.self.query"
    save_file(
        {f"{stem}.lora_A.weight": torch.ones(rank, 384), f"{stem}.lora_B.weight": torch.ones(384, rank)},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.mark.parametrize("method", ["meld", "meld_ds"])
def test_a_joint_expert_is_one_and_everything_before_it_is_shared(planned: MakePlan, method: str) -> None:
    single = keys(planned(f"method={method}"))
    plan = planned("expert=joint", f"method={method}")
    found = keys(plan)
    assert {id_ for id_ in found if id_.startswith(("init:", "refine:"))} == {"init:joint", "refine:joint"}
    shared = {"data", "gold", "serialize", "encode", "index", "annotate", "baseline"}
    assert {id_ for id_ in found if id_.partition(":")[0] in shared and found[id_] != single[id_]} == set()
    assert {i.id for i in plan.node("route:suite").inputs.values() if i.stage == "refine"} == {"refine:joint"}
    for unit in UNITS:
        behind = {i.id for i in plan.node(f"infer:{unit}").inputs.values()}
        assert "refine:joint" in behind
        assert not any(id_.startswith(("refine:quick", "init:quick")) for id_ in behind)
    read = plan.node("refine:joint").inputs
    assert {f"metapath:{u}" for u in UNITS} <= read.keys()
    assert ({f"pick:{u}" for u in UNITS} <= read.keys()) == (method == "meld_ds")
    assert any("router and k play no part" in note for note in plan.notes)


def test_a_joint_expert_has_nothing_to_route(planned: MakePlan) -> None:
    assert keys(planned("expert=joint")) == keys(planned("expert=joint", "router=classifier"))


def test_arrows_numbers_enter_at_inference(planned: MakePlan) -> None:
    arrow = keys(planned("router=arrow", "engine=hf"))
    for override in ("k=2", "router.temperature=0.5"):
        found = changed(arrow, keys(planned("router=arrow", "engine=hf", override)))
        assert stages(found) == {"infer", "evaluate"}


def test_another_router_changes_routing_and_what_follows(planned: MakePlan, base: dict[str, str]) -> None:
    for option in ("classifier", "own", "uniform"):
        assert stages(changed(base, keys(planned(f"router={option}")))) == {"route", "infer", "evaluate"}


def test_registering_changes_no_earlier_key(planned: MakePlan, base: dict[str, str], tmp_path: Path) -> None:
    first = f"+adapters.legal.path={adapter(tmp_path / 'a')}"
    one = keys(planned(first))
    assert one.keys() - base.keys() == {"register:legal"}
    assert stages(changed(base, one)) == {"register", "infer", "evaluate"}
    two = keys(planned(first, f"+adapters.finance.path={adapter(tmp_path / 'b', lora_alpha=3)}"))
    assert two["register:legal"] == one["register:legal"]
    assert two["register:finance"] != one["register:legal"]
    assert stages(changed(one, two)) == {"register", "infer", "evaluate"}
    # What counts is the adapter, not where it lies.
    moved = keys(planned(f"+adapters.legal.path={adapter(tmp_path / 'elsewhere')}"))
    assert moved == one
    (tmp_path / "a" / "adapter_config.json").write_text(
        (tmp_path / "b" / "adapter_config.json").read_text(), encoding="utf-8"
    )
    assert keys(planned(first))["register:legal"] != one["register:legal"]


def test_a_registered_adapter_takes_part_in_every_answer(planned: MakePlan, tmp_path: Path) -> None:
    plan = planned(f"+adapters.legal.path={adapter(tmp_path / 'a')}", "until=route")
    for unit in UNITS:
        assert "register:legal" in plan.node(f"infer:{unit}").inputs
    order = [node.id for node in plan.nodes]
    assert order.index("route:suite") < order.index("register:legal") < order.index(f"infer:{UNITS[0]}")
    assert "register:legal" in {node.id for node in plan.wanted("route")}


def test_excluding_changes_answers_alone(planned: MakePlan, base: dict[str, str]) -> None:
    plan = planned("exclude=[quickstart_people.di]", "k=2")
    found = changed(keys(planned("k=2")), keys(plan))
    assert stages(found) == {"infer", "evaluate"}
    # A unit that no expert answers is not touched.
    assert "infer:quickstart_hospitals.ed" not in found
    assert keys(planned("exclude=[]")) == base
    assert not any("lowered" in note for note in plan.notes)
    assert any("k = 3 is lowered to the 2 experts left" in n for n in planned("exclude=[quickstart_people.di]").notes)


@pytest.mark.parametrize(
    ("options", "entry", "words", "fix"),
    [
        ({"base": "org/other-7b"}, "", "trained on org/other-7b", "+adapters.legal.base=org/other-7b"),
        ({"rank": 4}, "", "has rank 4, and the experts have rank 8", "expert.rank=4"),
        ({"use_dora": True}, "", "rsLoRA or DoRA", "plain LoRA"),
        ({"rank_pattern": {"query": 2}}, "", "rank_pattern", "plain LoRA"),
        (None, "", "holds no adapter", "PEFT layout"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_any_work(
    planned: MakePlan, tmp_path: Path, options: dict[str, object] | None, entry: str, words: str, fix: str
) -> None:
    folder = tmp_path / "a"
    if options is not None:
        adapter(folder, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words) as caught:
        planned(f"+adapters.legal.path={folder}")
    assert fix in str(caught.value)


def test_another_name_of_the_same_base_can_be_given(planned: MakePlan, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base="/models/minilm")
    assert planned(f"+adapters.legal={{path: {folder}, base: /models/minilm}}").node("register:legal")
