"""Bundles of tiny runs, each made once: their questions, and what the runs' evaluation answered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from filelock import FileLock
from tests.tiny import SIZES

from meld.dataset.io import load_predictions, load_unit
from meld.types import Prediction

if TYPE_CHECKING:
    from meld.bundle.model import Model

SMALL = (
    "logger=none",
    "backbone=minilm_2layer",
    "backbone@proxy=minilm_2layer",
    "encoder=none",
    "sigma=1",
    "expert.epochs=1",
    "router.epochs=1",
    "limits.alignments=10",
    "limits.transformed=8",
    "limits.samples=8",
    "limits.warm_up=8",
    "limits.router_queries=2",
    "backbone.max_prompt_tokens=96",
    "proxy.max_prompt_tokens=96",
    *SIZES,
)
POOL = ("datasets.quickstart_products.n_rows=40", "datasets.quickstart_products.n_train=90")
FIVE = ("suite=quickstart", *SMALL, *POOL, "metapath=fixed")
"""Matching, blocking, imputation, detection and cleaning; blocking before matching, detection before cleaning.

The pool of matching is large enough for its balance to be estimated.
"""

TEN = (
    "suite=quickstart10",
    *SMALL,
    "datasets.quickstart_schemas.n_train=24",
    "datasets.quickstart_schemas.n_test=10",
    "datasets.quickstart_schemas.n_few_shot=16",
    "datasets.quickstart_atlas.n_tables=24",
    "datasets.quickstart_atlas.n_cells=40",
    "datasets.quickstart_listings.n_train=12",
    "datasets.quickstart_listings.n_test=4",
    "metapath=fixed",
    "metapath.chase=frozen",
    "path_steps=[blk,ed,el,di,ave,dc]",
    "++metapath.seeds={quickstart_products.em:[quickstart_products.blk,quickstart_listings.ave],dc:[ed],cta:[el],"
    "re:[el],quickstart_people.di:[quickstart_hospitals.dc]}",
)
"""All ten tasks, with paths whose steps ask other datasets' experts."""


@dataclass(frozen=True)
class Made:
    """A run and its bundle."""

    run: Path
    bundle: Path

    @property
    def units(self) -> list[str]:
        """Units that the run answered."""
        return sorted(path.name.partition(".")[2] for path in (self.run / "artifacts").glob("infer.*"))

    def rows(self, unit: str) -> pd.DataFrame:
        """The unit's test questions as a user's rows, indexed by query id."""
        rows = []
        queries = load_unit(self.run / "artifacts" / f"data.{unit}").test
        for query in queries:
            pair = len(query.entities) == 2
            row: dict[str, object] = {
                (f"{side}_{name}" if pair else name): value
                for side, entity in zip(("left", "right"), query.entities, strict=False)
                for name, value in entity.items()
            }
            row |= {"target": query.target} if query.target else {}
            row |= {"options": list(query.options)} if query.options else {}
            rows.append({"title": query.title, **row})
        return pd.DataFrame(rows, index=[query.id for query in queries], dtype=object)

    def evaluated(self, unit: str) -> dict[str, Prediction]:
        """What the run's evaluation scored."""
        found = load_predictions(self.run / "artifacts" / f"infer.{unit}" / "predictions.parquet")
        return {prediction.query_id: prediction for prediction in found}

    def check(self, found: pd.DataFrame, unit: str) -> None:
        """Every row has the answer that was scored; scores may differ by what batching rounds."""
        assert set(found.index) == set(self.evaluated(unit))
        self.check_some(found, unit)

    def check_some(self, found: pd.DataFrame, unit: str) -> None:
        """The same for some of the unit's rows."""
        expected = self.evaluated(unit)
        for id_, line in found.iterrows():
            said = expected[str(id_)]
            assert (line["prediction"], line["status"]) == (said.output, said.status)
            assert (tuple(line["experts"]), tuple(line["weights"])) == (said.experts, said.weights)
            assert line["score"] == pytest.approx(said.score, abs=1e-4)

    def again(self, *overrides: str) -> Path:
        """Another run over the same store."""
        folder = self.run.parents[2]
        runs = Path(next(word for word in overrides if word.startswith("paths.runs=")).partition("=")[2])
        done = run_meld(*overrides, folder=folder)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return next(path.parent for path in runs.glob("*/results.json"))

    def meld(self, *words: str, folder: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """The command as a user runs it."""
        return run_meld(*words, folder=folder, stdin=stdin)


def run_meld(*words: str, folder: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command as a user runs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    command = [sys.executable, "-m", "meld", *words]
    return subprocess.run(command, cwd=folder, env=environment, input=stdin, capture_output=True, check=False)


def make(factory: pytest.TempPathFactory, name: str, overrides: Sequence[str]) -> Made:
    """Run and export, once for all processes of a test run. ``MELD_RUN_<NAME>`` names a run that was made before."""
    from meld.bundle.export import export_run

    own = factory.getbasetemp()
    folder = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / f"bundle_{name}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        before = os.environ.get(f"MELD_RUN_{name.upper()}")
        if before is None and not (folder / "outputs").is_dir():
            done = run_meld(*overrides, folder=folder)
            assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        run = next((folder / "outputs" / "runs").iterdir()) if before is None else Path(before)
        bundle = folder / "my_bundle"
        return Made(run, bundle if bundle.is_dir() else export_run(run, bundle))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny run over five tasks, exported."""
    return make(tmp_path_factory, "five", FIVE)


@pytest.fixture(scope="session")
def five() -> tuple[str, ...]:
    """The overrides of that run."""
    return FIVE


@pytest.fixture(scope="session")
def made_ten(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny run over ten tasks, exported."""
    return make(tmp_path_factory, "ten", TEN)


@pytest.fixture(scope="session")
def model(made: Made) -> Model:
    """The bundle of five tasks, opened."""
    from meld.bundle.model import load

    return load(made.bundle)


@pytest.fixture(scope="session")
def model_ten(made_ten: Made) -> Model:
    """The bundle of ten tasks, opened."""
    from meld.bundle.model import load

    return load(made_ten.bundle)
