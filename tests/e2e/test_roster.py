"""Registered and excluded adapters, Arrow, the joint expert and masked settings through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

EM, DI, DC = "quickstart_products.em", "quickstart_people.di", "quickstart_hospitals.dc"

OTHER = (
    "+dataset@datasets.other=quickstart_products",
    *(f"datasets.other.{size}" for size in ("name=other", "n_rows=24", "n_train=40", "n_test=12", "n_few_shot=20")),
    "datasets.other.data_seed=1",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def artifacts(folder: Path) -> set[str]:
    """Finished artifacts as ``<stage>/<key>``."""
    found = (folder / "outputs" / "store").glob("[a-z]*/*/manifest.json")
    return {"/".join(manifest.parts[-3:-1]) for manifest in found}


def new_stages(before: set[str], after: set[str]) -> Counter[str]:
    assert before <= after
    return Counter(key.partition("/")[0] for key in after - before)


class Folder:
    """Runs commands in one folder and returns the run directory each has made."""

    def __init__(self, meld: Run, tiny: tuple[str, ...], path: Path) -> None:
        self.meld, self.tiny, self.path = meld, tiny, path

    def run(self, *overrides: str) -> Path:
        runs = self.path / "outputs" / "runs"
        before = set(runs.iterdir()) if runs.is_dir() else set()
        done = self.meld("trainer=debug", *self.tiny, *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = set(runs.iterdir()) - before
        return made


@pytest.fixture
def here(meld: Run, tiny: tuple[str, ...], tmp_path: Path) -> Folder:
    return Folder(meld, tiny, tmp_path)


def routing(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "routing.json").read_text())
    return content


def answered_by(run: Path, unit: str) -> set[str]:
    column = pq.read_table(run / "predictions" / f"{unit}.parquet").column("experts").to_pylist()
    return {expert for experts in column for expert in experts}


def test_registering_excluding_and_arrow_train_nothing_again(here: Folder) -> None:
    first = here.run()
    made = artifacts(here.path)
    load = routing(first)
    assert sorted(load["experts"]) == sorted([EM, DI, DC])
    # The columns of the heat map are the experts they are labelled with.
    unit = pq.read_table(first / "predictions" / f"{EM}.parquet").to_pylist()
    mean = dict.fromkeys(load["experts"], 0.0)
    for row in unit:
        for expert, weight in zip(row["experts"], row["weights"], strict=True):
            mean[expert] += weight / len(unit)
    gates = dict(zip(load["experts"], load["units"][EM]["mean_gates"], strict=True))
    assert gates == pytest.approx(mean, abs=1e-4)
    assert sum(load["load"]) == pytest.approx(1, abs=1e-4)

    trained = next((here.path / "outputs" / "store" / "refine").glob("*/adapter"))
    shutil.copytree(trained, here.path / "foreign")
    registered = here.run(f"+adapters.foreign.path={here.path / 'foreign'}")
    after = artifacts(here.path)
    assert new_stages(made, after) == {"register": 1, "infer": 3, "evaluate": 3}
    assert routing(registered)["experts"][-1] == "foreign"
    assert "foreign" in (registered / "report.html").read_text()

    excluded = here.run(f"exclude=[{DI}]")
    assert new_stages(after, artifacts(here.path)) == {"infer": 3, "evaluate": 3}
    assert all(DI not in answered_by(excluded, unit) for unit in (EM, DI, DC))

    after = artifacts(here.path)
    arrow = here.run("router=arrow", "engine=hf", "k=2")
    assert new_stages(after, artifacts(here.path)) == {"route": 1, "infer": 3, "evaluate": 3}
    assert routing(arrow)["per_query"] is False
    assert answered_by(arrow, EM) == set()
    assert "no weights per query" in (arrow / "report.html").read_text()


@pytest.mark.parametrize("method", ["meld", "meld_ds"])
def test_one_joint_expert_answers_everything(here: Folder, method: str) -> None:
    run = here.run("expert=joint", f"method={method}")
    counts = Counter(key.partition("/")[0] for key in artifacts(here.path))
    assert (counts["init"], counts["refine"], counts["metapath"], counts["infer"]) == (1, 1, 3, 5)
    assert all(answered_by(run, unit) == {"joint"} for unit in (EM, DI, DC))
    rounds = json.loads((run / "artifacts" / "refine.joint" / "rounds.json").read_text())
    assert rounds["samples_by_unit"].keys() == {EM, DI, DC}
    assert all(count > 0 for count in rounds["samples_by_unit"].values())


@pytest.mark.parametrize(
    ("target", "overrides"),
    [
        (EM, ("transfer=cross_dataset", *OTHER)),
        (DC, ("transfer=cross_task", "method=meld_ds")),
        (DI, ("transfer=cross_task",)),
    ],
)
def test_a_masked_target_is_answered_by_the_others(here: Folder, target: str, overrides: tuple[str, ...]) -> None:
    run = here.run(*overrides, f"transfer.targets=[{target}]")
    results = json.loads((run / "results.json").read_text())["rows"]
    assert {f"{row['dataset']}.{row['task']}" for row in results} == {target}
    assert answered_by(run, target) <= {EM, DI, DC, "other.em"} - {target}
    assert {path.stem for path in (run / "predictions").iterdir()} == {target}
    assert not list((run / "artifacts").glob(f"refine.{target}*"))
    annotated = run / "artifacts" / f"annotate.{target}"
    assert len(pq.read_table(annotated / "samples.parquet")) == 0
    lent = overrides[0] == "transfer=cross_dataset"
    assert json.loads((annotated / "report.json").read_text())["lenders"] == (["other.em"] if lent else [])
    asked = pq.read_table(run / "artifacts" / f"infer.{target}" / "asked.parquet").to_pylist()
    assert (json.loads((annotated / "report.json").read_text())["corpus"] > 0) == lent
    if target == EM:
        assert len({row["evidence"][0] for row in asked}) > 1, "the evidence tells no question from another"
