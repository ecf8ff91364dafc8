"""Masked settings: what is withheld is in no stage, and what it holds changes no key before evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meld.config.compose import load_config, plain
from meld.dataset.base import Dataset, Source
from meld.dataset.io import digest_unit
from meld.dataset.withheld import withhold
from meld.pipeline import draft
from meld.pipeline.node import Node, Plan
from meld.pipeline.plan import make_plan
from meld.store.store import Store
from meld.types import UnitData

EM, DI, DC = "quickstart_products.em", "quickstart_people.di", "quickstart_hospitals.dc"
TARGETS = (EM, DI, DC)
Change = Callable[[UnitData], UnitData]


class Changed:
    """A dataset whose units somebody has changed."""

    def __init__(self, dataset: Dataset, change: Change) -> None:
        self.dataset = dataset
        self.change = change
        self.synthetic = dataset.synthetic

    def files(self) -> tuple[Path, ...]:
        return self.dataset.files()

    def load(self) -> Source:
        source = self.dataset.load()
        return replace(source, units={name: self.change(data) for name, data in source.units.items()})


def planned(folder: Path, *overrides: str, change: Change | None = None) -> Plan:
    """A plan on a store of its own; every dataset's units go through ``change``."""
    original = draft.build

    def build(node: Any, **options: Any) -> Any:
        made = original(node, **options)
        return Changed(made, change) if change is not None and str(options["place"]).startswith("datasets.") else made

    draft.build = build
    try:
        tree = plain(load_config([f"paths.store={folder}", *overrides]))
        return make_plan(tree, Store(folder))
    finally:
        draft.build = original


def ancestors(node: Node) -> Iterator[Node]:
    for source in node.inputs.values():
        yield source
        yield from ancestors(source)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def normal(store: Path) -> dict[str, str]:
    """Keys without masking."""
    return {node.id: node.key for node in planned(store).nodes}


@pytest.mark.parametrize("setting", ["cross_dataset", "cross_task"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_withheld_expert_appears_nowhere(store: Path, normal: dict[str, str], setting: str, target: str) -> None:
    plan = planned(store, f"transfer={setting}", f"transfer.targets=[{target}]", "method=meld_ds")
    dataset = target.partition(".")[0]
    assert plan.units == plan.experts == (target,)
    trained = {n.unit for n in plan.nodes if n.stage in {"init", "features", "influence", "pick", "refine"}}
    assert trained == set(TARGETS) - {target}
    # Of the withheld dataset there is what answers the target, and blocking, which attaches neighbours.
    left = {n.unit for n in plan.nodes if n.unit.startswith(f"{dataset}.")}
    assert left == ({EM, "quickstart_products.blk"} if target == EM else {target})
    answering = plan.node(f"infer:{target}")
    assert {i.unit for i in answering.inputs.values() if i.stage == "refine"} == trained
    for node in (answering, *ancestors(answering)):
        assert node.stage not in {"gold", "evaluate"}
        if node.stage in {"encode", "route", "init", "refine"}:
            assert not any(a.unit.startswith(f"{dataset}.") for a in ancestors(node)), node.id
    shown = {node.id: node.key for node in plan.nodes if node.stage == "data"}
    assert {id_ for id_ in shown if shown[id_] != normal[id_]} == {f"data:{unit}" for unit in left}
    assert any(target in note and "withheld" in note for note in plan.notes)


def poison_labels(data: UnitData) -> UnitData:
    """Every label of the units that will be withheld is another one."""
    if not data.unit.startswith("quickstart_products."):
        return data
    options = ("match", "mismatch")
    train, dev = (
        tuple(replace(s, label=options[s.label == "match"] if data.task == "em" else "A:0") for s in part)
        for part in (data.train, data.dev)
    )
    return replace(data, train=train, dev=dev)


def poison_pool(data: UnitData) -> UnitData:
    """Half of the pool of the units that will be withheld is gone."""
    return replace(data, pool=data.pool[::2]) if data.unit.startswith("quickstart_products.") else data


@pytest.mark.parametrize(
    ("setting", "poison"),
    [("cross_dataset", poison_labels), ("cross_task", poison_labels), ("cross_dataset", poison_pool)],
)
def test_poisoned_labels_and_pool_change_no_key(
    store: Path, normal: dict[str, str], tmp_path: Path, setting: str, poison: Change
) -> None:
    masked = (f"transfer={setting}", f"transfer.targets=[{EM}]")
    clean = {n.id: n.key for n in planned(store, *masked).nodes}
    poisoned = {n.id: n.key for n in planned(tmp_path / "poisoned", *masked, change=poison).nodes}
    assert poisoned == clean
    # The poison is one: without masking it changes whatever reads it.
    reached = {n.id: n.key for n in planned(tmp_path / "open", change=poison).nodes}
    assert {id_ for id_ in normal if normal[id_] != reached[id_]} >= {f"data:{EM}", f"annotate:{EM}", f"infer:{DI}"}


def test_the_content_of_the_masked_artifact_is_what_withhold_gives(store: Path) -> None:
    plan = planned(store, "transfer=cross_dataset")
    assert plan.node(f"data:{EM}").config["content"] == digest_unit(withhold(plan.load_data(EM)))


def test_targets_can_be_withheld_together(store: Path) -> None:
    plan = planned(store, "transfer=cross_dataset", f"transfer.targets=[{EM},{DI}]")
    assert plan.units == (EM, DI)
    assert {n.unit for n in plan.nodes if n.stage == "refine"} == {DC}


def test_a_pinned_encoder_is_shared_with_the_open_run(store: Path) -> None:
    """Where the encoder never read the target, everything about the others up to refinement is found in the store."""
    pinned = "+encoder.train_on=[quickstart_people,quickstart_hospitals]"
    open_ = {n.id: n.key for n in planned(store, pinned).nodes}
    masked = {n.id: n.key for n in planned(store, pinned, "transfer=cross_dataset").nodes}
    shared = {id_ for id_ in masked if masked[id_] == open_.get(id_)}
    # Imputation takes transformed matching pairs where it may: its annotation has to be made again.
    assert {"encode:suite", f"index:{DI}", f"index:{DC}", f"annotate:{DC}", f"init:{DC}"} <= shared
    assert f"annotate:{DI}" not in shared


def test_a_path_needs_no_labels_of_the_target(store: Path) -> None:
    plan = planned(store, "transfer=cross_dataset")
    assert plan.node(f"metapath:{EM}").config["path"] == ["quickstart_products.blk"]
    # Error detection would have learnt from the target's own table.
    plan = planned(store, "transfer=cross_dataset", f"transfer.targets=[{DC}]")
    assert plan.node(f"metapath:{DC}").config["path"] == []
    assert "flags" not in plan.node(f"infer:{DC}").inputs


def test_other_datasets_of_the_task_lend_their_labels_across_datasets_only(store: Path) -> None:
    twin = (
        "+dataset@datasets.other=quickstart_products",
        "datasets.other.name=other",
    )
    crossed = planned(store, *twin, "transfer=cross_dataset", f"transfer.targets=[{EM}]")
    assert {i.id for i in crossed.node(f"infer:{EM}").inputs.values()} >= {"annotate:other.em", "data:other.em"}
    stricter = planned(store, *twin, "transfer=cross_task", f"transfer.targets=[{EM}]")
    assert not any(node.unit.startswith("other.") for node in stricter.nodes)


def test_other_datasets_of_the_task_lend_their_labels(store: Path) -> None:
    """Across datasets; across tasks there is nobody left who could."""
    other = "+dataset@datasets.other=quickstart_products"
    plan = planned(store, other, "datasets.other.name=other", "transfer=cross_dataset", f"transfer.targets=[{EM}]")
    assert "annotate:other.em" in plan.node(f"annotate:{EM}").inputs
    assert tuple(plan.workshop.lenders(EM)) == ("other.em",)
    assert tuple(plan.workshop.lenders("other.em")) == ()
    assert f"{EM} is lent labels by other.em" in plan.notes
    plan = planned(store, other, "datasets.other.name=other", "transfer=cross_task", f"transfer.targets=[{EM}]")
    assert tuple(plan.workshop.lenders(EM)) == ()
    assert f"{EM} is lent labels by nobody" in plan.notes
