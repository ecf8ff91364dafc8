"""Selection through the pipeline on one tiny unit: every influence, and pools and proxies as users meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.config.compose import load_config, plain
from meld.errors import DataError, UserError
from meld.pipeline.run import execute
from meld.selector.influence.base import complexity
from meld.selector.influence.direction import CANDIDATES
from meld.store.uses import linked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

UNIT = "quickstart_people.di"
TINY = (
    "suite=none",
    "+dataset@datasets.quickstart_people=quickstart_people",
    "datasets.quickstart_people.n_rows=60",
    "datasets.quickstart_people.n_test=8",
    "datasets.quickstart_people.n_few_shot=20",
    "method=meld_ds",
    "k=1",
    "until=select",
    "logger=none",
    "trainer=debug",
    "limits.alignments=10",
    "limits.warm_up=6",
)
Select = Callable[..., tuple[Path, str]]


@pytest.fixture(scope="module")
def select(tmp_path_factory: pytest.TempPathFactory) -> Select:
    """A function that runs up to a stage on the module's store, and gives the run and what was printed."""
    place = tmp_path_factory.mktemp("selection")
    count = iter(range(1000))

    def run(*overrides: str) -> tuple[Path, str]:
        folder, out = place / f"run{next(count)}", StringIO()
        annotator = () if "annotator=none" in overrides else ("annotator.precision=0.5",)
        config = load_config([*TINY, *annotator, f"paths.store={place / 'store'}", *overrides])
        tree: dict[str, Any] = plain(config)
        failures = execute(tree, tree, {}, folder, "meld ...", Console(file=out, width=200))
        assert not failures
        return folder, out.getvalue()

    return run


def artifact(run: Path, stage: str) -> Path:
    folder = linked(run, f"{stage}.{UNIT}")
    assert folder is not None
    return folder


def scores(run: Path) -> np.ndarray:
    return load_file(artifact(run, "influence") / "influence.safetensors")["influence"]


def picked(run: Path) -> dict[str, Any]:
    return json.loads((artifact(run, "pick") / "selected.json").read_text())


def measured(run: Path) -> dict[str, Any]:
    return json.loads((artifact(run, "influence") / "steps.json").read_text())


def test_every_influence_on_one_pool(select: Select) -> None:
    """The exact ones agree, the batch's is the mean of its members, and what was measured is on the record."""
    exact, _ = select("selector/influence=dot")
    each, _ = select("selector/influence=per_sample")
    moved, _ = select("selector/influence=fd")
    batch, _ = select("selector/influence=batch", "B=4")
    single, _ = select("selector/influence=batch", "B=1")
    pool = picked(exact)["pool"]
    assert pool >= 12
    assert scores(exact).shape == (pool,)
    size = float(np.abs(scores(exact)).max())
    assert size > 0
    np.testing.assert_allclose(scores(each), scores(exact), atol=1e-4 * size)
    np.testing.assert_allclose(scores(single), scores(exact), atol=1e-4 * size)
    np.testing.assert_allclose(scores(moved), scores(exact), atol=2e-2 * size)
    assert np.corrcoef(complexity(scores(moved)), complexity(scores(exact)))[0, 1] > 0.98
    values, inverse, counts = np.unique(scores(batch), return_inverse=True, return_counts=True)
    assert 1 < len(values) <= -(-pool // 4) + 1
    assert counts.max() <= 4
    for index, value in enumerate(values):
        assert scores(exact)[inverse == index].mean() == pytest.approx(value, abs=1e-4 * size)
    for run in (exact, each, moved, batch, single):
        found = picked(run)
        assert len(set(found["ids"])) == len(found["ids"]) == round(0.3 * pool)
        assert set(found["factors"]) == {"diversity", "quality", "complexity"}
        table = pq.read_table(artifact(run, "pick") / "items.parquet").to_pandas()
        assert len(table) == pool
        steps = {step["name"]: step for step in measured(run)["steps"]}
        read = steps["losses of the pool on both sides" if run == moved else "gradients of the pool"]
        assert (read["model"], read["passes"]) == ("proxy", 2.0)
        assert min(read["tokens"], read["parameters"], read["seconds"], read["peak_memory_mb"]) > 0


@pytest.mark.parametrize("influence", ["dot", "fd"])
def test_a_damping_that_dev_labels_choose(select: Select, influence: str) -> None:
    run, _ = select(f"selector/influence={influence}", "selector.influence.damping=auto")
    fixed, _ = select(f"selector/influence={influence}")
    assert np.isfinite(scores(run)).all()
    assert measured(run)["notes"]["damping"] in CANDIDATES
    assert measured(fixed)["notes"]["damping"] == 0.01
    names = [[step["name"] for step in measured(each)["steps"]] for each in (run, fixed)]
    assert set(names[0]) - set(names[1]) == {"choice of the damping"}


def test_a_pool_of_one_or_two_items(select: Select) -> None:
    for most in (1, 2):
        run, _ = select(f"annotator.max_pseudo={most}", "annotator.max_transformed=0", "c=0.1")
        found = picked(run)
        assert 1 <= found["pool"] <= most + 1
        assert len(found["ids"]) == 1
        assert np.isfinite(scores(run)).all()


@pytest.mark.parametrize("selector", ["meld_ds", "dsir"])
def test_annotation_that_yields_nothing_leaves_the_labels_and_is_said(select: Select, selector: str) -> None:
    run, said = select("annotator=none", f"selector={selector}", "until=refine")
    assert (picked(run)["pool"], picked(run)["ids"]) == (0, [])
    assert "nothing to select from" in said
    rounds = json.loads((artifact(run, "refine") / "rounds.json").read_text())["rounds"]
    assert rounds


def test_a_proxy_without_the_lora_targets_is_named(select: Select) -> None:
    with pytest.raises(UserError, match="no linear layers named nonsense") as caught:
        select("proxy.lora_targets=[nonsense]")
    assert caught.value.where == "proxy.lora_targets"
    assert "query" in caught.value.fix


def test_losses_that_are_no_numbers_stop_the_selection(select: Select, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything before it is in the store, so that the broken weights are read for the perplexities first."""
    select()
    right = HuggingFaceBackbone.load_model

    def broken(self: HuggingFaceBackbone) -> Any:
        model = right(self)
        model.get_output_embeddings().bias.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(HuggingFaceBackbone, "load_model", broken)
    with pytest.raises(DataError, match=r"loss of \d+ of \d+ items of the pool .*is not a number"):
        select("proxy.max_prompt_tokens=200")
