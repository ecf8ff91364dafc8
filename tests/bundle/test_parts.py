"""Kept chunks are those of this very job, whole, and of one process at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meld.bundle.parts import Parts
from meld.errors import UserError
from meld.types import Prediction

JOB = {"bundle": "b", "unit": "u", "target": "city", "rows": 3, "content": "c"}


def told(*names: str) -> list[Prediction]:
    return [Prediction(name, f"{name}!", 0.5, experts=("e",), weights=(1.0,)) for name in names]


def kept(out: Path, job: Any = JOB, restart: bool = False) -> list[str]:
    with Parts(out, job, restart) as parts:
        return [prediction.query_id for prediction in parts.finished()]


def leave(out: Path, job: Any = JOB, chunks: Sequence[Sequence[str]] = (("a", "b"), ("c",))) -> Path:
    """What an interrupted job leaves."""
    with Parts(out, job) as parts:
        row = 0
        for names in chunks:
            parts.write(row, told(*names))
            row += len(names)
    return parts.folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "out.csv"


def test_the_same_job_finds_its_chunks_in_order(out: Path) -> None:
    folder = leave(out)
    (folder / ".3.77.partial").write_bytes(b"half a file")
    assert kept(out) == ["a", "b", "c"]
    with Parts(out, JOB) as parts:
        assert [one.experts for one in parts.finished()] == [("e",)] * 3


def test_nothing_behind_a_gap_counts(out: Path) -> None:
    folder = leave(out, chunks=(("a",), ("b",), ("c",)))
    next(folder.glob("00000001-*")).unlink()
    assert kept(out) == ["a"]


@pytest.mark.parametrize("note", [None, b"", b'{"bundle": "b"', b"[]", b"\xff\xfe"])
def test_chunks_without_a_note_that_can_be_read_are_nobodys(out: Path, note: bytes | None) -> None:
    """They were taken for those of the next job, whatever it asked."""
    folder = leave(out)
    (folder / "00000000.parquet").write_bytes(next(folder.glob("00000000-*")).read_bytes())
    (folder / "job.json").unlink()
    if note is not None:
        (folder / "job.json").write_bytes(note)
    assert kept(out) == []
    assert [path.name for path in folder.iterdir()] == ["job.json"]


def test_a_chunk_of_another_job_is_not_this_ones_even_under_its_note(out: Path, tmp_path: Path) -> None:
    other = leave(tmp_path / "other.csv", {**JOB, "target": "state"})
    mine = leave(out, chunks=())
    for path in other.glob("*.parquet"):
        path.rename(mine / path.name)
    assert kept(out) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bundle": "b2"}, "bundle"),
        ({"content": "c2"}, "rows"),
        ({"bundle": "b2", "content": "c2"}, "bundle and the rows"),
        ({"target": "state", "content": "c2"}, "asked column"),
        ({"rows": 4, "content": "c2"}, "number of rows"),
        ({"more": 1}, "more"),
    ],
)
def test_another_job_is_refused_by_what_differs(out: Path, changes: dict[str, Any], named: str) -> None:
    leave(out)
    with pytest.raises(UserError, match=rf"Another job .* differs in the {named}\.") as found:
        kept(out, {**JOB, **changes})
    assert "restart=True" in found.value.fix
    assert kept(out) == ["a", "b", "c"]
    assert kept(out, {**JOB, **changes}, restart=True) == []


@pytest.mark.parametrize("removed", [1, 2])
def test_a_restart_that_is_killed_leaves_nothing_to_go_on_with(
    out: Path, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(out)
    real, done = Path.unlink, 0

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal done
        if path.name != "lock":
            if done == removed:
                raise KeyboardInterrupt
            done += 1
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            kept(out, restart=True)
    assert list(out.with_name("out.csv.parts").glob("*.parquet"))
    assert kept(out) == []


def test_what_others_put_into_the_folder_stays(out: Path) -> None:
    folder = out.with_name("out.csv.parts")
    folder.mkdir(parents=True)
    (folder / "mine.parquet").write_bytes(b"x")
    with Parts(out, JOB, restart=True) as parts:
        parts.write(0, told("a"))
        parts.discard()
    assert [path.name for path in folder.iterdir()] == ["mine.parquet"]


def test_nothing_remains_of_a_job_that_is_done(out: Path) -> None:
    with Parts(out, JOB) as parts:
        parts.write(0, told("a"))
        parts.discard()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_process_is_refused_and_a_dead_one_is_no_hindrance(out: Path, restart: bool) -> None:
    script = (
        "import sys, time; from pathlib import Path;"
        "from meld.bundle.parts import Parts; from meld.types import Prediction;"
        f"parts = Parts(Path(sys.argv[1]), {JOB!r}).__enter__();"
        "parts.write(0, [Prediction('a', 'x', 0.5)]); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"Another process is writing out\.csv"):
            kept(out, restart=restart)
        assert [path.name[:8] for path in out.with_name("out.csv.parts").glob("*.parquet")] == ["00000000"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert (out.with_name("out.csv.parts") / "lock").exists()
    assert kept(out, restart=restart) == ([] if restart else ["a"])


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "out.csv.parts").write_text("a file")
    with pytest.raises(UserError, match=r"out\.csv\.parts cannot be written"):
        kept(tmp_path / "out.csv")
