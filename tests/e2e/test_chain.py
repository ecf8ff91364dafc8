"""The whole chain through the command line: what it writes, what it computes again, and what a kill leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import meld as meld_package

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

TRAINED = ("encode", "init", "influence", "refine", "route")
UNITS = 5


def artifacts(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished artifacts as ``<stage>/<key>`` with their manifests."""
    found = {}
    for manifest in sorted((folder / "outputs" / "store").glob("[a-z]*/*/manifest.json")):
        found["/".join(manifest.parts[-3:-1])] = json.loads(manifest.read_text())
    return found


def stages(keys: set[str]) -> Counter[str]:
    return Counter(key.partition("/")[0] for key in keys)


def run_folder(folder: Path) -> Path:
    (only,) = (folder / "outputs" / "runs").iterdir()
    return only


@pytest.mark.timeout(900)
def test_a_run_its_repetition_and_a_sweep_over_k(meld: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """What a run writes; that its repetition computes nothing; that k costs inference and evaluation alone."""
    fast = ("trainer=debug", *tiny)
    first = meld("method=meld_ds", *fast)
    assert first.returncode == 0, first.stdout + first.stderr
    made = artifacts(tmp_path)
    counts = stages(set(made))
    assert counts == {
        **dict.fromkeys(("data", "gold", "serialize", "index", "annotate", "infer", "evaluate"), UNITS),
        **dict.fromkeys(("init", "metapath", "features", "influence", "pick", "refine"), 3),
        "baseline": UNITS,
        "balance": 1,
        "encode": 1,
        "route": 1,
    }
    for manifest in made.values():
        assert {"config", "inputs", "seeds", "versions", "seconds", "peak_memory_mb"} <= manifest.keys()
    run = run_folder(tmp_path)
    names = {path.name for path in run.iterdir()}
    assert {"results.json", "costs.json", "report.html", "config.yaml", "status.json", "predictions"} <= names
    paths = json.loads((run / "paths.json").read_text())["units"]
    assert {len(path["tried"]) for path in paths.values()} == {path["evaluations"] for path in paths.values()}
    assert {s["unit"] for s in json.loads((run / "costs.json").read_text())["searches"]} == set(paths)
    results = json.loads((run / "results.json").read_text())
    assert "seconds" not in json.dumps(results)
    metrics = {(row["task"], row["metric"]) for row in results["rows"] if row["system"] == "meld_ds"}
    assert {("em", "f1"), ("blk", "recall@1"), ("di", "accuracy"), ("ed", "f1"), ("dc", "f1")} <= metrics
    assert {row["system"] for row in results["rows"] if row["task"] == "em"} >= {"majority", "mutual_nn"}
    for row in results["rows"]:
        assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        assert row["n"] > 0
    annotation = json.loads((run / "annotation.json").read_text())["units"]
    assert {unit for unit, report in annotation.items() if report["quality"]} >= {"quickstart_products.em"}
    assert "Annotated training data" in (run / "report.html").read_text()
    for unit in ("quickstart_products.em", "quickstart_people.di", "quickstart_hospitals.dc"):
        # What decides about an expert is nothing that it was trained on.
        ids = {
            name: set(pq.read_table(run / "artifacts" / f"metapath.{unit}" / f"{name}.parquet")["id"].to_pylist())
            for name in ("samples", "dev")
        }
        held = set(json.loads((run / "artifacts" / f"init.{unit}" / "held_out.json").read_text()))
        assert held <= ids["dev"]
        assert not ids["dev"] & ids["samples"]
    table = pq.read_table(run / "predictions" / "quickstart_people.di.parquet")
    assert {"query_id", "output", "gold", "score", "experts", "weights", "status"} <= set(table.column_names)
    some = table.column("query_id")[0].as_py()
    explained = meld("explain", str(run), some, "--json")
    assert explained.returncode == 0, explained.stderr
    told = json.loads(explained.stdout)
    assert told["query_id"] == some
    assert told["experts"]
    assert told["prompt"]
    assert sum(choice["probability"] for choice in told["choices"]) == pytest.approx(1, abs=1e-4)
    frame = meld_package.load_results(str(run))
    assert len(frame) == len(results["rows"])
    assert "report.html" in first.stdout

    before = (run / "results.json").read_bytes()
    again = meld("method=meld_ds", *fast)
    assert again.returncode == 0, again.stdout + again.stderr
    assert artifacts(tmp_path) == made
    assert (run / "results.json").read_bytes() == before

    swept = meld("-m", "k=1,2,3", "method=meld_ds", *fast)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    new = stages(set(artifacts(tmp_path)) - set(made))
    # k=3 is the first run's; k=1 and k=2 are two more inferences of the units that ask experts.
    assert new == {"infer": 2 * 3, "evaluate": 2 * 3}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_kill_in_every_training_changes_nothing(
    meld: Run, start_meld: Start, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """SIGKILL inside an epoch of each training stage, the same command again: equal results, artifacts untouched."""
    command = ("method=meld_ds", *tiny)
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    calm = meld(*command, folder=tmp_path / "calm")
    assert calm.returncode == 0, calm.stdout + calm.stderr

    killed = tmp_path / "killed"
    seen: dict[str, tuple[float, dict[str, Any]]] = {}
    for stage in TRAINED:
        process = start_meld(*command, folder=killed)
        _kill_in(process, killed, stage)
        finished = artifacts(killed)
        for key, (changed_at, manifest) in seen.items():
            assert finished[key] == manifest
            assert _newest(killed, key) == changed_at
        seen = {key: (_newest(killed, key), manifest) for key, manifest in finished.items()}
        assert not {key for key in seen if key.startswith(f"{stage}/")} or stage != "encode"
    resumed = meld(*command, folder=killed)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for key, (changed_at, manifest) in seen.items():
        assert artifacts(killed)[key] == manifest
        assert _newest(killed, key) == changed_at
    assert set(artifacts(killed)) == set(artifacts(tmp_path / "calm"))
    results = [(run_folder(folder) / "results.json").read_bytes() for folder in (tmp_path / "calm", killed)]
    assert results[0] == results[1]


def _newest(folder: Path, key: str) -> float:
    """When a file of a finished artifact was last changed."""
    place = folder / "outputs" / "store" / key
    return max(path.stat().st_mtime for path in place.rglob("*") if path.is_file())


def _kill_in(process: subprocess.Popen[str], folder: Path, stage: str) -> None:
    """Kill the command once a training of a stage has begun to write checkpoints or metrics, or has run for a while."""
    deadline = time.monotonic() + 900
    begun: float | None = None
    while True:
        assert process.poll() is None, f"ended before {stage}:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, f"{stage} was not reached"
        status = next((folder / "outputs" / "runs").glob("*/status.json"), None)
        try:
            now = json.loads(status.read_text())["stage"] if status else ""
        except ValueError:  # caught while it was being replaced
            now = ""
        if str(now).startswith(f"{stage} "):
            begun = begun or time.monotonic()
            if time.monotonic() - begun > 1.0:
                break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_made_again_is_byte_for_byte_the_same(meld: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """So that ``force`` makes nothing else again where nothing has changed; what the making took may differ."""
    words = ("method=meld_ds", "trainer=debug", *tiny)
    assert meld(*words).returncode == 0
    first = artifacts(tmp_path)
    every = "data,serialize,encode,annotate,init,metapath,select,refine,route,infer,evaluate"
    assert meld(*words, f"force=[{every}]").returncode == 0
    second = artifacts(tmp_path)
    assert second.keys() == first.keys()
    costs = json.loads((run_folder(tmp_path) / "costs.json").read_text())["stages"]
    assert not any(cost["reused"] for cost in costs)
    assert {key: manifest["remade"] for key, manifest in second.items() if "remade" in manifest} == {}
