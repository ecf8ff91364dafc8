"""Jobs that a sweep has not begun, how long it may still take, and the command that continues it."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from meld.cli.main import main
from meld.report.record import SweepRecord, write_job, write_record
from meld.report.status import job_states, status_json

COMMAND = "meld -m k=1,2 seed=0,1"


def begin(sweep: Path, seconds: float, **content: Any) -> None:
    """A job's directory, begun so many seconds ago."""
    swept = content.pop("swept")
    folder = sweep / ",".join(f"{key}={value}" for key, value in swept.items())
    write_job(folder, swept)
    now = datetime.now(timezone.utc)
    base = {
        "state": "running", "stage": "refine", "done": 3, "total": 9, "command": COMMAND, "error": None,
        "started": (now - timedelta(seconds=seconds)).isoformat(), "updated": now.isoformat(),
        "pid": os.getpid(), "host": socket.gethostname(),
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps({**base, **content}), encoding="utf-8")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    write_record(tmp_path, SweepRecord(COMMAND, None, {"seed": ("0", "1"), "k": ("1", "2")}))
    return tmp_path


def test_jobs_that_have_not_begun_are_waiting(sweep: Path) -> None:
    assert [job.state for job in job_states(sweep)] == ["waiting"] * 4
    assert status_json(sweep)["continue_with"] == [COMMAND]
    assert status_json(sweep)["seconds_left"] is None
    begin(sweep, 60, state="done", swept={"seed": "0", "k": "1"})
    begin(sweep, 10, swept={"seed": "0", "k": "2"})
    states = {job.name: job.state for job in job_states(sweep)}
    assert states == {"seed=0,k=1": "done", "seed=0,k=2": "running", "seed=1,k=1": "waiting", "seed=1,k=2": "waiting"}


def test_how_long_it_may_take(sweep: Path) -> None:
    begin(sweep, 60, state="done", swept={"seed": "0", "k": "1"})
    begin(sweep, 10, swept={"seed": "0", "k": "2"})
    found = status_json(sweep)
    left = {job["name"]: job["left"] for job in found["jobs"]}
    assert left["seed=0,k=1"] is None
    assert left["seed=0,k=2"] == pytest.approx(50, abs=3)
    assert left["seed=1,k=1"] == pytest.approx(60, abs=1)
    assert found["seconds_left"] == pytest.approx(50 + 60 + 60, abs=5)
    begin(sweep, 20, swept={"seed": "1", "k": "1"})
    # Two at a time: 50 + 40 + 60 seconds of work.
    assert status_json(sweep)["seconds_left"] == pytest.approx(75, abs=5)
    # While it runs there is nothing to continue; once its process is gone there is.
    assert found["continue_with"] == []
    begin(sweep, 10, swept={"seed": "0", "k": "2"}, pid=None)
    begin(sweep, 20, swept={"seed": "1", "k": "1"}, state="failed", error="boom")
    found = status_json(sweep)
    assert found["counts"] == {"done": 1, "running": 0, "waiting": 1, "failed": 1, "killed": 1}
    assert found["continue_with"] == [COMMAND]


def test_a_lone_run_is_judged_by_its_own_pace(tmp_path: Path) -> None:
    begin(tmp_path, 30, swept={"k": "1"})
    (job,) = job_states(tmp_path)
    assert job.left == pytest.approx(60, abs=6)  # 3 of 9 in 30 seconds


def test_a_job_with_damaged_files_is_to_be_done_again(sweep: Path) -> None:
    for seed, name in (("0", "results.json"), ("1", "job.json")):
        begin(sweep, 60, state="done", swept={"seed": seed, "k": "1"})
        (sweep / f"seed={seed},k=1" / name).write_text("{", encoding="utf-8")
    jobs = job_states(sweep)
    assert [(job.name, job.state) for job in jobs if job.state != "waiting"] == [
        ("seed=0,k=1", "failed"),
        ("seed=1,k=1", "failed"),
    ]
    assert [job.error.partition(":")[0] for job in jobs[:2]] == ["results.json", "job.json"]
    assert len(jobs) == 4
    assert status_json(sweep)["continue_with"] == [COMMAND]


def test_what_is_done_is_done_in_whole(sweep: Path) -> None:
    begin(sweep, 60, state="done", swept={"seed": "0", "k": "1"}, done=8)
    assert next((job.done, job.total) for job in job_states(sweep) if job.state == "done") == (9, 9)


def test_words_of_the_verb(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    assert "--json" in capsys.readouterr().out
    assert main(["status", str(sweep), "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err
    assert main(["status", str(sweep / "sweep.json")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_verb(sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    begin(sweep, 60, state="done", swept={"seed": "0", "k": "1"})
    assert main(["status", str(sweep)]) == 0
    text = capsys.readouterr().out
    assert "1 done · 3 waiting · about 3 min" in text
    assert f"continue with: {COMMAND}" in text
    assert main(["status", str(sweep), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["waiting"] == 3
