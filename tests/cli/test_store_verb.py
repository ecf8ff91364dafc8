"""``meld store`` as a user calls it, over a made-up store and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meld.cli.main import main
from meld.cli.store import size
from meld.report.results import Cost, write_costs
from meld.store.store import Draft, Store
from meld.store.uses import link_artifacts, note_run

Say = Callable[..., tuple[int, str]]


def key(number: int) -> str:
    return f"{number:016x}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs that differ in the annotator's precision, and one artifact that no run uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    store = Store(Path("outputs/store"))

    def fill(draft: Draft) -> None:
        (draft.out / "value").write_bytes(b"x" * 2000)

    for number, precision in ((1, 0.9), (3, 0.8)):
        config = {"annotator": {"precision": precision}}
        made = {"annotate.a.em": ("annotate", key(number)), "infer.a.em": ("infer", key(number + 1))}
        store.compute("annotate", key(number), {"unit": "a.em", "config": config, "code": {"version": 2}}, fill)
        inputs = {"annotate": f"annotate/{key(number)}"}
        store.compute("infer", key(number + 1), {"unit": "a.em", "inputs": inputs, "code": {"version": 3}}, fill)
        run = Path("outputs/runs") / f"precision={precision}"
        link_artifacts(run, {name: store.path(*where) for name, where in made.items()})
        note_run(store, run)
        write_costs(run, [Cost(stage, "a.em", k, 1.0, 1.0, False) for stage, k in made.values()], 2.0)
    store.compute("init", key(9), {"unit": "a.em"}, fill)
    return tmp_path


@pytest.fixture
def say(place: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str) -> tuple[int, str]:
        code = main(["store", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_ls(say: Say) -> None:
    code, text = say("ls")
    assert code == 0
    assert key(9) in text
    assert "no run" in text
    assert "precision=0.9" in text
    found = json.loads(say("ls", "--json", "--sort", "size")[1])
    assert len(found["artifacts"]) == 5
    assert found["totals"]["all"]["unused"] == 1
    assert found["totals"]["annotate"]["artifacts"] == 2
    sizes = [row["size_bytes"] for row in found["artifacts"]]
    assert sizes == sorted(sizes, reverse=True)
    assert found["totals"]["all"]["size_bytes"] == sum(sizes)
    only = json.loads(say("ls", "--stage", "infer", "--json")[1])["artifacts"]
    assert {row["stage"] for row in only} == {"infer"}


def test_why(say: Say) -> None:
    code, text = say("why", key(4))
    assert code == 0
    assert "annotator.precision: 0.9 → 0.8" in text
    assert "annotate:a.em ← infer:a.em" in text
    code, text = say("why", "outputs/runs/precision=0.8")
    assert "annotator.precision: 0.9 → 0.8\n  annotate:a.em, infer:a.em" in text
    _, text = say("why", "outputs/runs/precision=0.8", "infer:a.em")
    assert "annotator.precision: 0.9 → 0.8" in text
    (found,) = json.loads(say("why", f"infer/{key(4)}", "--json")[1])
    assert found["causes"] == [
        {"path": ["infer:a.em", "annotate:a.em"], "name": "annotator.precision", "old": 0.9, "new": 0.8}
    ]
    assert "nothing else of this stage" in say("why", f"init/{key(9)}")[1]


def test_why_says_what_force_changed(say: Say, place: Path) -> None:
    def other(draft: Draft) -> None:
        (draft.out / "value").write_bytes(b"y")

    store = Store(place / "outputs" / "store")
    fields = {stage: dict(store.manifest(stage, k)) for stage, k in (("annotate", key(3)), ("infer", key(4)))}
    fields = {stage: {n: m[n] for n in ("unit", "config", "inputs", "code")} for stage, m in fields.items()}
    assert not store.compute("annotate", key(3), fields["annotate"], other, force=True).reused
    assert not store.compute("infer", key(4), fields["infer"], other).reused
    assert "made again by force, with another content" in say("why", key(3))[1]
    assert "force had changed its input: annotate" in say("why", key(4))[1]
    text = say("why", "outputs/runs/precision=0.8")[1]
    assert "made again by force, with another content\n  annotate:a.em" in text
    assert "force had changed its input: annotate\n  infer:a.em" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("why", "ffff"), "No artifact is named 'ffff'"),
        (("why", "0000"), "names 5 artifacts"),
        (("why", "outputs/runs/precision=0.8", "infer:b.em"), "The run has no 'infer:b.em'"),
        (("why", "outputs"), "links no artifacts"),
        (("ls", "--sort", "colour"), "invalid choice"),
        (("ls", "--store", "nowhere"), "There is no store"),
        (("gc", "--keep-days", "-1"), "--keep-days is a number of days"),
        ((), "ls|why|gc"),
    ],
)
def test_wrong_words_are_one_screen_and_code_2(say: Say, words: tuple[str, ...], said: str) -> None:
    code, text = say(*words)
    assert code == 2
    assert said in text
    assert "Traceback" not in text


def test_gc_removes_only_when_told(say: Say, place: Path) -> None:
    store = Store(place / "outputs" / "store")
    for words in (("gc",), ("gc", "--dry-run", "--yes")):
        code, text = say(*words)
        assert code == 0
        assert f"init/{key(9)}" in text
        assert "would be removed" in text
        assert store.has("init", key(9))
    assert "nothing to remove" in say("gc", "--keep-days", "1")[1]
    assert "removed 1 things" in say("gc", "--yes")[1]
    assert not store.has("init", key(9))
    assert len(list(store.entries())) == 4
    assert "nothing to remove" in say("gc", "--yes")[1]


def test_gc_does_not_empty_a_store_whose_runs_it_cannot_find(say: Say, place: Path) -> None:
    for note in (place / "outputs" / "store" / ".runs").iterdir():
        note.unlink()
    code, text = say("gc", "--yes", "--runs", "elsewhere")
    assert code == 2
    assert "all of it would go" in text
    assert len(list(Store(place / "outputs" / "store").entries())) == 5


def test_as_a_process(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meld", "store", "why", key(4)],
        cwd=place, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "annotator.precision: 0.9 → 0.8" in done.stdout


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (41e6, "41 MB"), (2e12, "2.0 TB")]
)
def test_sizes_for_people(count: float, said: str) -> None:
    assert size(count) == said
