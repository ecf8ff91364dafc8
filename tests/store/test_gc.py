"""What is removed and what never is: claims of runs, live leases, dead drafts, removals that were cut short."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meld.store.gc import Waste, find_waste, remove
from meld.store.store import Draft, Store
from meld.store.uses import all_linked, find_uses, link_artifacts, linked, note_run, read_links

HOLDER = """
import sys, time
from meld.store.store import Store
store = Store(sys.argv[1])
if sys.argv[2] == "lease":
    lease = store.lease("infer", sys.argv[3])
    lease.acquire()
    print("held", flush=True)
    time.sleep(120)
else:
    with store.writing("infer", sys.argv[3]) as draft:
        (draft.out / "half").write_text("x" * 100)
        (draft.work / "epoch.ckpt").write_text("y" * 50)
        print("held", flush=True)
        time.sleep(120)
"""


def key(number: int) -> str:
    return f"{number:016x}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """data/1 → init/2 → infer/3, and data/4 that nothing reads."""
    store = Store(tmp_path / "store")

    def fill(draft: Draft) -> None:
        (draft.out / "value").write_text("42")

    store.compute("data", key(1), {"unit": "a.em"}, fill)
    store.compute("init", key(2), {"unit": "a.em", "inputs": {"data": f"data/{key(1)}"}}, fill)
    store.compute("infer", key(3), {"unit": "a.em", "inputs": {"init": f"init/{key(2)}"}}, fill)
    store.compute("data", key(4), {"unit": "b.em"}, fill)
    return store


def names(waste: list[Waste]) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for item in waste]


def there(store: Store) -> set[str]:
    return {f"{entry.stage}/{entry.key}" for entry in store.entries()}


def holder(store: Store, how: str, number: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root), how, key(number)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_runs_claim_what_they_link_and_what_that_was_made_from(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    link_artifacts(run, {"infer.a.em": store.path("infer", key(3)), "evaluate.a.em": store.path("evaluate", key(9))})
    assert [(link.stage, link.key, link.unit) for link in read_links(run)] == [
        ("evaluate", key(9), "a.em"),
        ("infer", key(3), "a.em"),
    ]
    uses = find_uses(store, [tmp_path / "runs"])
    assert uses == {("infer", key(3)): [str(run.resolve())], ("evaluate", key(9)): [str(run.resolve())]}
    waste = find_waste(store, uses)
    assert names(waste) == [("artifact", f"data/{key(4)}")]
    assert waste[0].size_bytes == sum(f.stat().st_size for f in store.path("data", key(4)).iterdir())
    assert remove(store, waste, lambda: find_uses(store, [tmp_path / "runs"])) == waste
    assert there(store) == {f"data/{key(1)}", f"init/{key(2)}", f"infer/{key(3)}"}
    assert list((store.root / ".trash").iterdir()) == []
    assert find_waste(store, uses) == []


def test_links_are_replaced_and_files_stand_in_for_them(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "one"
    link_artifacts(run, {"data.a.em": store.path("data", key(1)), "init.a.em": store.path("init", key(2))})
    before = os.lstat(run / "artifacts" / "init.a.em").st_ino
    link_artifacts(run, {"data.a.em": store.path("data", key(4)), "init.a.em": store.path("init", key(2))})
    assert [link.key for link in read_links(run)] == [key(4), key(2)]
    assert os.lstat(run / "artifacts" / "init.a.em").st_ino == before
    (run / "artifacts" / "init.a.em").unlink()
    relative = os.path.relpath(store.path("init", key(2)), run / "artifacts")
    (run / "artifacts" / "init.a.em.path.txt").write_text(relative + "\n")
    assert [(link.name, link.key) for link in read_links(run)] == [("data.a.em", key(4)), ("init.a.em", key(2))]


def test_without_symbolic_links_files_name_the_places(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names with dots keep all their parts, and one that begins like another is not taken for it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("this file system has no symbolic links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = tmp_path / "one"
    made = {
        "data.abt_buy.em": store.path("data", key(1)),
        "data.abt_buy.v2.em": store.path("data", key(4)),
        "init.abt_buy": store.path("init", key(2)),
        "init.abt_buy.em": store.path("init", key(9)),
    }
    link_artifacts(run, made)
    files = {path.name: path.stat().st_mtime_ns for path in (run / "artifacts").iterdir()}
    assert set(files) == {f"{name}.path.txt" for name in made}
    assert all_linked(run) == made
    assert [link.unit for link in read_links(run)] == ["abt_buy.em", "abt_buy.v2.em", "abt_buy", "abt_buy.em"]
    assert linked(run, "init.abt_buy") == store.path("init", key(2))
    assert linked(run, "init.abt_buy.em") is None  # claimed, and not made yet
    assert linked(run, "init") is None
    assert set(find_uses(store, [tmp_path])) == {(path.parent.name, path.name) for path in made.values()}

    changed = {**made, "init.abt_buy": store.path("init", key(3))}
    del changed["data.abt_buy.v2.em"]
    link_artifacts(run, changed)
    assert all_linked(run) == changed
    kept = run / "artifacts" / "data.abt_buy.em.path.txt"
    assert kept.stat().st_mtime_ns == files[kept.name]

    monkeypatch.undo()
    link_artifacts(run, made)
    assert all_linked(run) == made


def test_a_run_elsewhere_is_remembered_until_it_is_deleted(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "far" / "away"
    link_artifacts(run, {"data.b.em": store.path("data", key(4))})
    assert find_uses(store, [tmp_path / "runs"]) == {}
    note_run(store, run)
    assert find_uses(store, []) == {("data", key(4)): [str(run.resolve())]}
    shutil.rmtree(run)
    assert find_uses(store, []) == {}


def test_links_into_another_store_claim_nothing_here(store: Store, tmp_path: Path) -> None:
    link_artifacts(tmp_path / "one", {"data.b.em": Store(tmp_path / "other").path("data", key(4))})
    assert find_uses(store, [tmp_path / "one"]) == {}


def test_young_artifacts_stay_if_asked(store: Store) -> None:
    assert len(find_waste(store, set())) == 4
    assert find_waste(store, set(), keep_days=1) == []
    old = time.time() - 2 * 86400
    os.utime(store.path("data", key(4)), (old, old))
    os.utime(store.path("data", key(1)), (old, old))  # old too, but infer/3 was made from it
    assert names(find_waste(store, set(), keep_days=1)) == [("artifact", f"data/{key(4)}")]


def test_nothing_under_a_live_lease_goes(store: Store) -> None:
    process = holder(store, "lease", 3)
    try:
        waste = find_waste(store, set())
        assert ("artifact", f"infer/{key(3)}") not in names(waste)
        # Found before the lease was taken: still spared.
        early = [Waste("artifact", f"infer/{key(3)}", store.path("infer", key(3)), 1)]
        assert remove(store, early, set) == []
        assert store.has("infer", key(3))
    finally:
        process.kill()
        process.wait()
    assert ("artifact", f"infer/{key(3)}") in names(find_waste(store, set()))


def test_drafts_and_checkpoints_of_the_living_stay_those_of_the_dead_go(store: Store) -> None:
    everything = {("data", key(1)), ("init", key(2)), ("infer", key(3)), ("data", key(4))}
    process = holder(store, "draft", 7)
    try:
        assert [kind for kind, _ in names(find_waste(store, everything))] == ["checkpoints"]  # no lease on the key
        lease = store.lease("infer", key(7))
        with lease:
            assert find_waste(store, everything) == []
    finally:
        process.kill()
        process.wait()
    waste = find_waste(store, everything)
    assert names(waste) == [("draft", f"infer/{key(7)}"), ("checkpoints", f"infer/{key(7)}")]
    assert [item.size_bytes for item in waste] == [100, 50]
    # A killed run that is kept continues from its checkpoints.
    assert names(find_waste(store, {*everything, ("infer", key(7))})) == [("draft", f"infer/{key(7)}")]
    assert remove(store, waste, lambda: everything) == waste
    assert find_waste(store, everything) == []


def test_what_is_claimed_meanwhile_comes_back(store: Store) -> None:
    waste = find_waste(store, set())
    removed = remove(store, waste, lambda: {("data", key(4))})
    assert there(store) == {f"data/{key(4)}"}
    assert len(removed) == 3
    assert json.loads((store.path("data", key(4)) / "manifest.json").read_text())["unit"] == "b.em"


def test_a_removal_that_was_cut_short_is_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("meld.store.gc.shutil.rmtree", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            remove(store, find_waste(store, set()), set)
    assert there(store) == set()
    waste = find_waste(store, set())
    assert [kind for kind, _ in names(waste)] == ["trash"] * 4
    assert len(remove(store, waste, set)) == 4
    assert find_waste(store, set()) == []
