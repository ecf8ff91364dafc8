"""A bundle of a tiny run, made once: its questions, and what the run's evaluation answered."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from meld.dataset.io import load_predictions, load_unit
from meld.types import Prediction

if TYPE_CHECKING:
    from meld.bundle.model import Model

TINY = (
    "suite=quickstart",
    "logger=none",
    "datasets.quickstart_products.n_rows=24",
    "datasets.quickstart_products.n_train=40",
    "datasets.quickstart_products.n_test=12",
    "datasets.quickstart_products.n_few_shot=20",
    "datasets.quickstart_people.n_rows=30",
    "datasets.quickstart_people.n_test=8",
    "datasets.quickstart_people.n_few_shot=12",
    "datasets.quickstart_hospitals.n_rows=24",
    "datasets.quickstart_hospitals.n_few_shot=8",
    "limits.alignments=10",
    "limits.transformed=16",
    "limits.samples=32",
    "limits.warm_up=8",
    "limits.router_queries=6",
    "backbone.max_prompt_tokens=128",
    "proxy.max_prompt_tokens=128",
)


@dataclass(frozen=True)
class Made:
    """A run and its bundle."""

    run: Path
    bundle: Path

    def rows(self, unit: str) -> pd.DataFrame:
        """The unit's test questions as a user's rows, indexed by query id."""
        rows = []
        queries = load_unit(self.run / "artifacts" / f"data.{unit}").test
        for query in queries:
            pair = len(query.entities) == 2
            row = {
                (f"{side}_{name}" if pair else name): value
                for side, entity in zip(("left", "right"), query.entities, strict=False)
                for name, value in entity.items()
            }
            rows.append({**row, **({"target": query.target} if query.target else {})})
        return pd.DataFrame(rows, index=[query.id for query in queries], dtype=object)

    def evaluated(self, unit: str) -> dict[str, Prediction]:
        """What the run's evaluation scored."""
        found = load_predictions(self.run / "artifacts" / f"infer.{unit}" / "predictions.parquet")
        return {prediction.query_id: prediction for prediction in found}

    def meld(self, *words: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
        """The command as a user runs it."""
        return _meld(*words, folder=folder)


def _meld(*words: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """The command as a user runs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "meld", *words], cwd=folder, env=environment, capture_output=True, check=False
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny run over five tasks, exported. ``MELD_TINY_RUN`` names a run made before with the same overrides."""
    from meld.bundle.export import export_run

    before = os.environ.get("MELD_TINY_RUN")
    folder = tmp_path_factory.mktemp("bundle")
    if before is not None:
        run = Path(before)
    else:
        done = _meld(*TINY, folder=folder)
        assert done.returncode == 0, done.stderr.decode()
        run = next((folder / "outputs" / "runs").iterdir())
    return Made(run, export_run(run, folder / "my_bundle"))


@pytest.fixture(scope="session")
def model(made: Made) -> Model:
    """The bundle, opened."""
    from meld.bundle.model import load

    return load(made.bundle)
