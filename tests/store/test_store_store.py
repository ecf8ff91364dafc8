"""The store between real processes: whole artifacts or none, work done once, nothing lost or left over by a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meld.errors import UserError
from meld.stages.metapath import SEARCH
from meld.stages.select import STEPS
from meld.store.machine import PeakMemory
from meld.store.store import Draft, Store

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"

WORKER = """
import os, sys, time
from pathlib import Path
from meld.store.store import Store

root, key, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

def work(draft):
    with open(root / "log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    seen = draft.work / "checkpoint"
    (draft.out / "resumed").write_text(seen.read_text() if seen.exists() else "no")
    seen.write_text("yes")
    (root / "started").touch()
    time.sleep(seconds)
    (draft.out / "value").write_text("42")

outcome = Store(root, stale_after=2.0).compute("encode", key, {}, work)
print(outcome.reused, (outcome.path / "value").read_text())
"""


def worker(root: Path, seconds: float) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), KEY, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fill(draft: Draft) -> None:
    (draft.out / "value").write_text("42")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_artifact_with_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fields = {
        "unit": "abt_buy.em",
        "config": {"rank": 8},
        "inputs": {"data": f"data/{OTHER}"},
        "seeds": {"seed": 0},
        "code": "encode 1",
    }
    with store.writing("encode", KEY, fields) as draft:
        assert draft.out.parent == tmp_path / "encode"
        assert not names(draft.out)
        assert draft.work == tmp_path / ".work" / f"encode-{KEY}"
        fill(draft)
        (draft.work / "epoch.ckpt").touch()
        assert not store.has("encode", KEY)
        time.sleep(0.05)
        # A child's work counts, as of a training in a process of its own.
        busy = "import time\nwhile time.process_time() < 0.1: pass"
        subprocess.run([sys.executable, "-c", busy], check=True)
    assert store.has("encode", KEY)
    assert names(store.path("encode", KEY)) == ["manifest.json", "value"]
    manifest = store.manifest("encode", KEY)
    assert fields.items() <= manifest.items()
    assert manifest["stage"] == "encode"
    assert manifest["key"] == KEY
    assert 0.05 <= manifest["seconds"] < 5
    assert manifest["peak_memory_mb"] > 5
    assert 0.1 <= manifest["cpu_seconds"] < 5
    assert manifest["versions"]["python"].startswith("3.")
    assert "torch" in manifest["versions"]
    assert manifest["hardware"]["cores"] >= 1
    assert str(manifest["created"]).endswith("+00:00")
    assert names(tmp_path / ".work") == names(tmp_path / ".leases") == [], "something was left over"


def test_an_exception_leaves_no_artifact_but_the_checkpoints(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(draft: Draft) -> None:
        fill(draft)
        (draft.work / "epoch.ckpt").write_text("3")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.compute("encode", KEY, {}, fails)
    assert not store.has("encode", KEY)
    assert not names(tmp_path / "encode")
    with store.writing("encode", KEY) as draft:
        assert (draft.work / "epoch.ckpt").read_text() == "3"
    assert not draft.work.exists()


def test_the_slower_of_two_writers_drops_its_draft(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("encode", KEY) as slow:
        with store.writing("encode", KEY) as fast:
            (fast.out / "value").write_text("fast")
        assert slow.out.is_dir(), "a living writer's draft was swept away"
        (slow.out / "value").write_text("slow")
    assert (store.path("encode", KEY) / "value").read_text() == "fast"
    assert names(tmp_path / "encode") == [KEY]


def test_replace_and_broken_artifacts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in ("old", "new"):
        with store.writing("encode", KEY, replace=True) as draft:
            (draft.out / "value").write_text(text)
    assert (store.path("encode", KEY) / "value").read_text() == "new"
    (store.path("encode", KEY) / "manifest.json").unlink()  # somebody deleted by hand
    assert not store.has("encode", KEY)
    assert not store.compute("encode", KEY, {}, fill).reused
    assert (store.path("encode", KEY) / "value").read_text() == "42"
    assert names(tmp_path / "encode") == [KEY]
    (store.path("encode", KEY) / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=f"delete .*{KEY}"):
        store.manifest("encode", KEY)
    with pytest.raises(UserError, match="does not exist"):
        store.manifest("encode", OTHER)


def test_compute_reuses_and_force_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    calls: list[int] = []

    def work(draft: Draft) -> None:
        calls.append(1)
        fill(draft)

    assert [store.compute("infer", KEY, {}, work).reused for _ in range(3)] == [False, True, True]
    assert not store.compute("infer", KEY, {}, work, force=True).reused
    assert len(calls) == 2


def test_what_the_making_took_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    took = iter(range(10))

    def work(draft: Draft) -> None:
        (draft.out / "value").write_text("1")
        (draft.out / STEPS).write_text(str(next(took)))
        (draft.out / SEARCH).write_text(str(next(took)))

    for _ in range(2):
        store.compute("pick", KEY, {}, work, force=True)
    assert (store.path("pick", KEY) / STEPS).read_text() == "2"
    assert "remade" not in store.manifest("pick", KEY)


def test_what_was_made_from_a_remade_artifact_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    value = ["1"]
    inputs: dict[str, dict[str, object]] = {
        "infer": {},
        "evaluate": {"inputs": {"answers": f"infer/{KEY}"}},
        "report": {"inputs": {"scores": f"evaluate/{KEY}"}},
    }

    def work(draft: Draft) -> None:
        (draft.out / "value").write_text(value[0])

    def go(forced: str = "") -> list[bool]:
        """Which of the three, in their order, are made."""
        return [not store.compute(s, KEY, f, work, force=s == forced).reused for s, f in inputs.items()]

    assert go() == [True, True, True]
    assert go() == [False, False, False]
    # The same content again: nothing that was made from it is out of date.
    assert go("infer") == [True, False, False]
    value[0] = "2"
    # A kill after the forced artifact: the next command, without force, makes the rest.
    assert not store.compute("infer", KEY, {}, work, force=True).reused
    assert not store.current("evaluate", KEY, inputs["evaluate"]["inputs"])
    assert go() == [False, True, True]
    assert go() == [False, False, False]
    assert (store.path("report", KEY) / "value").read_text() == "2"
    value[0] = "3"
    assert go("evaluate") == [False, True, True]
    # A forced artifact whose content changed twice before anybody asked for what is made from it.
    for value[0] in ("4", "5"):
        store.compute("infer", KEY, {}, work, force=True)
    assert go() == [False, True, True]
    assert go() == [False, False, False]


@pytest.mark.parametrize(
    ("stage", "key"), [("../x", KEY), ("encode", "short"), ("Encode", KEY), ("encode", "../../../../etc")]
)
def test_names_cannot_leave_the_store(tmp_path: Path, stage: str, key: str) -> None:
    with pytest.raises(ValueError, match="no artifact can be named"):
        Store(tmp_path).path(stage, key)


def test_a_bad_manifest_fails_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no field seed;"), Store(tmp_path).writing("encode", KEY, {"seed": 1}):
        pytest.fail("the work began")
    with (
        pytest.raises(TypeError, match="PosixPath"),
        Store(tmp_path).writing("encode", KEY, {"config": {"p": tmp_path}}),
    ):
        pytest.fail("the work began")


def test_entries(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert list(store.entries()) == []
    store.compute("infer", KEY, {"unit": "a.em"}, fill)
    store.compute("encode", OTHER, {}, fill)
    with store.writing("encode", KEY):
        found = list(store.entries())
    assert [(entry.stage, entry.key) for entry in found] == [("encode", OTHER), ("infer", KEY)]
    assert found[1].manifest["unit"] == "a.em"
    assert found[1].size_bytes == 2 + (found[1].path / "manifest.json").stat().st_size


def test_many_processes_one_worker(tmp_path: Path) -> None:
    workers = [worker(tmp_path / "store", 1.0) for _ in range(5)]
    answers = [process.communicate(timeout=60) for process in workers]
    assert all(process.returncode == 0 for process in workers), answers
    assert sorted(answer[0] for answer in answers) == ["False 42\n"] + ["True 42\n"] * 4
    assert len((tmp_path / "store" / "log").read_text().splitlines()) == 1


def test_after_a_kill_another_takes_over_resumes_and_cleans_up(tmp_path: Path) -> None:
    root = tmp_path / "store"
    victim = worker(root, 60.0)
    deadline = time.monotonic() + 30
    while not (root / "started").exists():
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.02)
    heirs = [worker(root, 0.1) for _ in range(2)]
    time.sleep(1.0)
    assert all(heir.poll() is None for heir in heirs), "they did not wait for the living one"
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not Store(root).has("encode", KEY), "a half-written artifact is visible"
    answers = [heir.communicate(timeout=60) for heir in heirs]
    assert sorted(answer[0] for answer in answers) == ["False 42\n", "True 42\n"], answers
    assert (root / "encode" / KEY / "resumed").read_text() == "yes"
    assert len((root / "log").read_text().splitlines()) == 2
    assert names(root / "encode") == [KEY], "the victim's draft was left behind"
    assert not names(root / ".work")
    assert not names(root / ".leases")


def test_another_machines_draft_is_swept_only_after_an_hour(tmp_path: Path) -> None:
    store, token = Store(tmp_path), "a" * 32
    left, lease = tmp_path / "encode" / f".{KEY}.{token}.tmp", tmp_path / ".leases" / f"draft-{token}"
    left.mkdir(parents=True)
    lease.parent.mkdir()
    lease.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=" + token + "\nduration=60.0\nstart=1\n")
    store.compute("encode", KEY, {}, fill)
    assert left.exists()
    assert lease.exists()
    old = time.time() - 3700
    os.utime(lease, (old, old))
    store.compute("encode", KEY, {}, fill, force=True)
    assert not left.exists()
    assert not lease.exists()


def test_peak_memory_belongs_to_the_block() -> None:
    with PeakMemory(interval=0.01) as large:
        block = bytearray(os.urandom(1) * 150_000_000)
        time.sleep(0.1)
        del block
    with PeakMemory(interval=0.01) as small:
        time.sleep(0.05)
    assert large.mb - small.mb > 100


def test_manifest_is_readable_json(tmp_path: Path) -> None:
    outcome = Store(tmp_path).compute("encode", KEY, {"unit": "café.em"}, fill)
    text = (outcome.path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text)["unit"] == "café.em"
    assert text.endswith("}\n")
