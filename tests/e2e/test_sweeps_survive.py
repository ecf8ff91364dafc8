"""Sweeps that are killed, that hold a job which fails, and that share a store with another sweep."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import TINY, run_meld

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

FAST = ("trainer=debug",)
JOBS = ("k=99,1,2", "mixer.gate_levels=10,20", "seed=0,1")
"""Twelve jobs. There are no 99 experts, so that four of them fail."""
KILLS = 4


def results(folder: Path) -> dict[str, bytes]:
    """Finished jobs' results by the jobs' names."""
    return {file.parent.name: file.read_bytes() for file in folder.glob("outputs/sweeps/*/*/results.json")}


def artifacts(folder: Path) -> dict[str, int]:
    """Finished artifacts, and when their manifests were written."""
    found = folder.glob("outputs/store/[a-z]*/*/manifest.json")
    return {"/".join(file.parts[-3:-1]): file.stat().st_mtime_ns for file in found}


def sweep_folder(folder: Path) -> Path:
    (only,) = (folder / "outputs" / "sweeps").iterdir()
    return only


def kill_after(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Kill a command, and every process it has started, once the store holds so many artifacts."""
    deadline = time.monotonic() + 1200
    while len(artifacts(folder)) < count:
        assert process.poll() is None, f"ended early:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sweep leaves when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("calm")
    undisturbed = run_meld("-m", *JOBS, *FAST, *TINY, folder=folder)
    assert undisturbed.returncode == 1, undisturbed.stdout + undisturbed.stderr
    assert len(results(folder)) == 8
    return folder


@pytest.mark.parametrize("launcher", [(), ("sweep=joblib", "hydra.launcher.n_jobs=2")], ids=["basic", "joblib"])
def test_a_killed_sweep_ends_like_an_undisturbed_one(
    meld: Run, start_meld: Start, calm: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    command = ("-m", *JOBS, *FAST, *TINY, *launcher)
    chance = random.Random(0)
    most = len(artifacts(calm)) // (KILLS + 1)
    for _ in range(KILLS):
        before = artifacts(tmp_path)
        kill_after(start_meld(*command, start_new_session=True), tmp_path, len(before) + chance.randint(2, most))
        assert before.items() <= artifacts(tmp_path).items()  # nothing that was finished is computed again
    status = json.loads(meld("status", str(sweep_folder(tmp_path)), "--json").stdout)
    assert len(status["jobs"]) == 12
    assert status["counts"]["killed"] >= 1
    assert status["counts"]["running"] == 0
    assert len(status["continue_with"]) == 1

    before = artifacts(tmp_path)
    resumed = meld(*command)
    assert resumed.returncode == 1, resumed.stdout + resumed.stderr
    assert results(tmp_path) == results(calm)
    after = artifacts(tmp_path)
    assert set(after) == set(artifacts(calm))
    assert before.items() <= after.items()
    status = json.loads(meld("status", str(sweep_folder(tmp_path)), "--json").stdout)
    assert status["counts"] == {"done": 8, "running": 0, "waiting": 0, "failed": 4, "killed": 0}
    for failed in (job for job in status["jobs"] if job["state"] == "failed"):
        assert "k = 99" in failed["error"]
        assert "Traceback" in (sweep_folder(tmp_path) / failed["name"] / "meld.log").read_text()

    assert meld(*command).returncode == 1
    assert artifacts(tmp_path) == after
    assert "nothing to remove" in meld("store", "gc").stdout


def test_two_sweeps_at_once_share_a_store(meld: Run, start_meld: Start, tiny: tuple[str, ...], tmp_path: Path) -> None:
    commands = [("-m", values, *FAST, *tiny) for values in ("k=1,2", "k=2,3")]
    together, apart = tmp_path / "together", tmp_path / "apart"
    together.mkdir()
    apart.mkdir()
    processes = [start_meld(*command, folder=together) for command in commands]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for command in commands:
        done = meld(*command, folder=apart)
        assert done.returncode == 0, done.stdout + done.stderr
    assert results(together) == results(apart)
    assert set(artifacts(together)) == set(artifacts(apart))
    # Nothing was computed by both.
    made = Counter(
        cost["key"]
        for file in together.glob("outputs/sweeps/*/*/costs.json")
        for cost in json.loads(file.read_text())["stages"]
        if not cost["reused"]
    )
    assert set(made.values()) == {1}
    assert len(made) == len(artifacts(together))
