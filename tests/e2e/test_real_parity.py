"""On published data every way of asking gives the answers that were scored: Python, the shell, a server over HTTP."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from meld.bundle.job import COLUMNS
from meld.bundle.model import Model, load

_SPEC = importlib.util.spec_from_file_location(
    "meld_tests_bundle_made", Path(__file__).parents[1] / "bundle" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_bundles = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _bundles
_SPEC.loader.exec_module(_bundles)

DATA = Path(os.environ.get("MELD_DATA", "data"))
SETS = {"abt_buy": "em/Abt-Buy", "restaurant": "di/Restaurant", "hospital": "dc/hospital", "oa_mine": "ave/oa-mine"}
UNITS = ("abt_buy.em", "abt_buy.blk", "restaurant.di", "hospital.ed", "hospital.dc", "oa_mine.ave")
RUN = (
    "suite=real_small",
    "+dataset@datasets.oa_mine=oa_mine",
    *(f"datasets.{name}.{size}" for name in SETS for size in ("max_train=40", "max_test=24")),
    "datasets.abt_buy.n_few_shot=40",
    "datasets.hospital.n_few_shot=40",
    f"paths.data={DATA.resolve()}",
    "logger=none",
    "backbone=minilm_2layer",
    "backbone@proxy=minilm_2layer",
    "+encoder.train_on=[restaurant]",
    "metapath=fixed",
    "sigma=1",
    "expert.epochs=1",
    "router.epochs=1",
    "limits.samples=48",
    "limits.alignments=32",
    "limits.transformed=24",
    "limits.warm_up=16",
    "limits.router_queries=8",
)
"""Matching after blocking, imputation, cleaning after detection, extraction; under a trained encoder."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not all((DATA / folder).is_dir() for folder in SETS.values()),
        reason=f"{DATA} does not hold {', '.join(SETS.values())}; set MELD_DATA",
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small run over published data, exported. ``MELD_RUN_REAL`` names a run that was made before."""
    return _bundles.make(tmp_path_factory, "real", RUN)


@pytest.fixture(scope="module")
def model(made: Any) -> Model:
    """Its bundle, opened."""
    return load(made.bundle)


@pytest.fixture(scope="module")
def served(made: Any) -> Iterator[httpx.Client]:
    """Its bundle, served by a process of its own."""
    command = [sys.executable, "-m", "meld", "serve", str(made.bundle), "--port", "0", "--timeout", "1200"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"at (http://[\w.:]+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        with httpx.Client(base_url=found[1], timeout=1200) as client:
            yield client
        process.terminate()
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _framed(lines: Iterator[Mapping[str, Any]], index: Any) -> pd.DataFrame:
    return pd.DataFrame(list(lines), index=index, dtype=object)[list(COLUMNS)]


@pytest.mark.parametrize("unit", UNITS)
def test_python_the_shell_and_the_server_say_what_was_scored(
    made: Any, model: Model, served: httpx.Client, unit: str, tmp_path: Path
) -> None:
    assert made.units == sorted(UNITS)
    rows = made.rows(unit)
    assert len(rows) >= 15
    made.check(model.predict(rows, unit=unit, progress=False), unit)

    rows.rename_axis("row id").reset_index().to_csv(tmp_path / "in.csv", index=False)
    words = ("predict", str(made.bundle), "in.csv", "-o", "out.csv", "--unit", unit, "--chunk", "7")
    done = made.meld(*words, folder=tmp_path)
    assert done.returncode in (0, 1), done.stderr.decode()
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    # Hospital has a column `score` of its own.
    names = [*header[: -len(COLUMNS)], *COLUMNS]
    assert [name.removeprefix("meld_") for name in header[-len(COLUMNS) :]] == list(COLUMNS)
    written = [dict(zip(names, line, strict=True)) for line in lines]
    assert [line["row id"] for line in written] == list(rows.index)
    said = (
        {
            **line,
            "prediction": line["prediction"] if line["status"] != "invalid" else None,
            "score": float(line["score"]),
            "experts": json.loads(line["experts"]),
            "weights": json.loads(line["weights"]),
        }
        for line in written
    )
    made.check(_framed(said, rows.index), unit)

    answered: list[dict[str, Any]] = []
    for start in range(0, len(rows), 10):
        asked = [dict(row) for _, row in rows.iloc[start : start + 10].iterrows()]
        found = served.post("/v1/predict", json={"unit": unit, "rows": asked})
        assert found.status_code == 200, found.text
        answered += found.json()["predictions"]
    made.check(_framed(iter(answered), rows.index), unit)


def test_the_steps_of_paths_changed_the_questions(made: Any, model: Model) -> None:
    """Parity of a path that does nothing would prove little."""
    for unit, step in (("abt_buy.em", "abt_buy.blk"), ("hospital.dc", "hospital.ed")):
        assert model.opened.paths[unit] == (step,)
        rows = made.rows(unit)
        flagged = [id_ for id_, said in made.evaluated(unit).items() if said.status == "ok"]
        edits = model.explain(rows.loc[[flagged[0]]], unit=unit).asked.edits
        assert {edit.step for edit in edits} == {step}
