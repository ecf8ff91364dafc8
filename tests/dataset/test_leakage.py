"""No hidden label reaches a prompt, a retrieval result or a prediction: the whole chain over files of every layout."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meld.config.compose import load_config, plain
from meld.dataset.base import Dataset
from meld.dataset.few_shot import few_shot_ids
from meld.dataset.own_pairs import CsvPairs
from meld.pipeline.node import Plan
from meld.pipeline.plan import make_plan
from meld.pipeline.run import execute
from meld.serializer.prompt import PromptWriter
from meld.store.store import Store

from .conftest import write_csv
from .test_layouts import mini_dc, mini_di, mini_em
from .test_more_layouts_a import (
    ditto_folder,
    extract_folder,
    machamp_folder,
    mini_ditto,
    mini_extract,
    mini_machamp,
    mini_smat,
    smat_folder,
)
from .test_more_layouts_b import KINDS, build, poison_of

Write = Callable[[Path, bool, set[str]], Dataset]
"""Write the files of a layout below a folder, poisoned or not, and return the component that reads them.

Poisoned files differ in every label but those of the ids in the set.
"""

TINY = (
    "suite=quickstart",
    "trainer=debug",
    "logger=none",
    "k=1",
    # What costs time and reads nothing that the stages below do not read as well.
    "refine=none",
    "router=own",
    "limits.alignments=6",
    "limits.transformed=4",
    "limits.samples=6",
    "limits.router_queries=2",
)


def ids_of(component: Dataset) -> list[str]:
    """The ids that freeze the few-shot sample of a dataset."""
    samples = [s for data in component.load().units.values() for s in (*data.train, *data.dev) if data.task != "blk"]
    return few_shot_ids(samples)


def changed(component: Dataset, **changes: Any) -> Dataset:
    """The same dataset with other arguments. Its name is part of every draw, so that it has to be the final one."""
    node = node_of(component, **changes)
    kind: Callable[..., Dataset] = type(component)
    return kind(**{name: value for name, value in node.items() if name != "_target_"})


def node_of(component: Dataset, **changes: Any) -> dict[str, Any]:
    """The configuration that builds a dataset."""
    kind = type(component)
    values = {name: getattr(component, name) for name in inspect.signature(kind).parameters}
    plain_values = {n: sorted(v) if isinstance(v, frozenset) else v for n, v in {**values, **changes}.items()}
    plain_values = {n: list(v) if isinstance(v, tuple) else v for n, v in plain_values.items()}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **plain_values}


def csv_pairs(base: Path, poisoned: bool, kept: set[str]) -> CsvPairs:
    """A user's own pairs, every third a match."""
    rows = []
    for row in range(40):
        match = (row % 3 == 0) != (poisoned and f"{row}-{row}" not in kept)
        rows.append(
            (f"thing {row}", f"{row}", f"thing {row if row % 3 == 0 else row + 1}", f"{row}.0", str(int(match)))
        )
    path = write_csv(base / "own.csv", ("left_name", "left_size", "right_name", "right_size", "label"), rows)
    return CsvPairs("mini", pairs=str(path), tasks=["em"], n_few_shot=12)


@pytest.fixture
def layouts(
    magellan_folder: Callable[..., Path],
    dirty_clean_folder: Callable[..., Path],
    imputation_folder: Callable[..., Path],
) -> dict[str, Write]:
    """Every layout by name."""

    def magellan(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        return mini_em(
            magellan_folder(lambda a, b: poisoned and f"{a}-{b}" not in kept, root=f"{base.parent.name}/{base.name}")
        )

    def dirty_clean(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        return mini_dc(
            dirty_clean_folder(
                lambda row, _, v: "poison" if poisoned and str(row) not in kept else v,
                root=f"{base.parent.name}/{base.name}",
            )
        )

    def imputation(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        # Only cells whose value is hidden may be poisoned: other cells of a record are shown.
        hidden = {tuple(id_.split("/")[1:]) for id_ in mini_di(imputation_folder()).load().gold["mini.di"]}

        def truth(row: int, column: str, value: str) -> str:
            return "poison" if poisoned and (f"r{row}", column) in hidden and f"r{row}" not in kept else value

        return mini_di(imputation_folder(truth, root=f"{base.parent.name}/{base.name}"))

    def ditto(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        clean = changed(mini_ditto(ditto_folder(base / "clean")), name="ditto").load().units["ditto.em"]
        named = {tuple(s.query.entities[n]["title"].split()[1] for n in (0, 1)) for s in (*clean.train, *clean.dev)}
        return mini_ditto(ditto_folder(base, lambda a, b: poisoned and (str(a), str(b)) not in named))

    def machamp(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        return mini_machamp(machamp_folder(base, lambda a, b: poisoned and f"{a}-{b}" not in kept))

    def smat(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        def flip(left: int, right: int) -> bool:
            return poisoned and f"person%2Dfield_{left}-claims-col-{right}" not in kept

        return mini_smat(smat_folder(base, flip), stratify=False)

    def extract(base: Path, poisoned: bool, kept: set[str]) -> Dataset:
        return mini_extract(
            extract_folder(base, lambda row, _, v: f"poison{row}" if poisoned and not 2 <= row < 12 else v)
        )

    def other(kind: str) -> Write:
        return lambda base, poisoned, kept: (
            build(kind, base / kind, poison_of(kind, kept)) if poisoned else build(kind, base / kind)
        )

    made: dict[str, Write] = {
        "magellan": magellan, "dirty_clean": dirty_clean, "imputation": imputation, "ditto": ditto, "machamp": machamp,
        "smat": smat, "extract": extract, "own": csv_pairs,
    }  # fmt: skip
    return made | {kind: other(kind) for kind in KINDS}


def nodes_of(layouts: dict[str, Write], tmp_path: Path, where: str, kept: dict[str, list[str]]) -> dict[str, Any]:
    """Configurations of all layouts' datasets below ``where``, with their frozen few-shot samples."""
    found = {}
    for name, write in layouts.items():
        component = write(tmp_path / where / name, where == "poisoned", set(kept[name]))
        frozen = tmp_path / f"{name}.json"
        frozen.write_text(json.dumps(kept[name]))
        limits = {"max_train": 6, "max_test": 4}
        found[name] = node_of(component, name=name, few_shot="ids", few_shot_ids=str(frozen), **limits)
    return found


def run_on(tmp_path: Path, where: str, datasets: dict[str, Any]) -> dict[str, Any]:
    """Run up to the answers in a store of its own and return the configuration."""
    config = load_config([*TINY, f"paths.store={tmp_path / f'store_{where}'}", "until=infer"])
    tree = {**plain(config), "datasets": datasets}
    failures = execute(tree, tree, {}, tmp_path / f"run_{where}", "meld ...", Console(file=StringIO()))
    assert not failures, failures
    return tree


def both_nodes(layouts: dict[str, Write], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The datasets of all layouts, from clean files and from poisoned ones, with the same few-shot samples."""
    kept = {
        name: ids_of(changed(write(tmp_path / "drawn" / name, False, set()), name=name))
        for name, write in layouts.items()
    }
    return {where: nodes_of(layouts, tmp_path, where, kept) for where in ("clean", "poisoned")}


def check_keys(plans: dict[str, Plan]) -> None:
    """Only hidden labels' own artifacts and the scores have other keys, and every unit was poisoned."""
    keys = {where: {node.id: node.key for node in plan.nodes} for where, plan in plans.items()}
    differing = {id_ for id_ in keys["clean"] if keys["clean"][id_] != keys["poisoned"][id_]}
    assert {id_.partition(":")[0] for id_ in differing} == {"gold", "evaluate"}
    assert {id_ for id_ in keys["clean"] if id_.startswith("gold:")} <= differing
    tasks = {unit.rpartition(".")[2] for unit in plans["clean"].units}
    assert tasks == {"em", "blk", "di", "ed", "dc", "cta", "re", "el", "sm", "ave"}


def test_poisoned_labels_move_no_key_of_any_layout(layouts: dict[str, Write], tmp_path: Path) -> None:
    plans = {}
    for where, nodes in both_nodes(layouts, tmp_path).items():
        config = load_config([*TINY, "method=meld_ds", "refine=mixture", f"paths.store={tmp_path / f'store_{where}'}"])
        plans[where] = make_plan({**plain(config), "datasets": nodes}, Store(tmp_path / f"store_{where}"))
        assert not plans[where].failures
    check_keys(plans)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_poisoned_labels_reach_no_prompt_no_retrieval_and_no_answer(
    layouts: dict[str, Write], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs in two stores, so that the second finds nothing of the first: every artifact before evaluation is equal.

    The prompts are compared as they are written, in the order in which they are.
    """
    datasets = both_nodes(layouts, tmp_path)
    prompts: dict[str, list[str]] = {"clean": [], "poisoned": []}
    right = PromptWriter.write
    plans = {}
    for where, nodes in datasets.items():

        def record(self: PromptWriter, *given: Any, where: str = where, **named: Any) -> Any:
            prompt = right(self, *given, **named)
            prompts[where].append(prompt.text)
            return prompt

        monkeypatch.setattr(PromptWriter, "write", record)
        tree = run_on(tmp_path, where, nodes)
        plans[where] = make_plan(tree, Store(Path(tree["paths"]["store"])))
    check_keys(plans)
    assert prompts["clean"] == prompts["poisoned"] != []
    compared = 0
    for node in plans["clean"].wanted("infer"):
        if node.stage == "gold":
            continue
        places = [tmp_path / f"store_{where}" / node.stage / node.key for where in plans]
        files = sorted(
            p.relative_to(places[0]) for p in places[0].rglob("*") if p.is_file() and p.name != "manifest.json"
        )
        assert files
        for file in files:
            assert (places[0] / file).read_bytes() == (places[1] / file).read_bytes(), f"{node.id}: {file}"
            compared += 1
    assert compared > len(plans["clean"].wanted("infer"))
