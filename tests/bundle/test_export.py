"""What can be exported, what the folder holds, and what it must not hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from meld.bundle.export import _artifacts, export_run
from meld.bundle.manifest import MANIFEST, SUFFIXES, read_manifest
from meld.cli.main import main
from meld.dataset.io import load_unit
from meld.errors import UserError
from meld.store.uses import link_artifacts


def _copy(made: Any, folder: Path) -> Path:
    """The run with links of its own, so that a test may spoil it."""
    shutil.copytree(made.run, folder, symlinks=True)
    for link in (folder / "artifacts").iterdir():
        target = (made.run / "artifacts" / link.name).resolve()
        link.unlink()
        link.symlink_to(target)
    return folder


def test_a_bundle_holds_data_only_and_no_question_that_is_scored(made: Any) -> None:
    content = read_manifest(made.bundle)
    assert {Path(name).suffix for name in content["files"]} <= SUFFIXES
    assert "_target_" not in (made.bundle / MANIFEST).read_text()
    assert str(made.run.parents[2]) not in (made.bundle / MANIFEST).read_text()
    for unit in made.units:
        data = load_unit(made.bundle / "units" / unit / "data")
        assert (data.test, data.pool) == ((), ())
        assert data.train
        texts = b"".join(path.read_bytes() for path in (made.bundle / "units" / unit / "annotate").rglob("*.json"))
        assert b"/test/" not in texts


def test_artifacts_are_found_where_files_stand_in_for_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("this file system has no symbolic links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    made = {f"{name}.a_shop.v2.em": tmp_path / "store" / name / "0123456789abcdef" for name in ("infer", "route")}
    link_artifacts(tmp_path / "run", made)
    with pytest.raises(UserError, match=r"infer.a_shop.v2.em of the run is not in the store"):
        _artifacts(tmp_path / "run")
    for place in made.values():
        place.mkdir(parents=True)
    assert _artifacts(tmp_path / "run") == {name.replace(".", ":", 1): place for name, place in made.items()}


def test_the_rules_of_steps_are_recorded(made: Any) -> None:
    rules = json.loads((made.bundle / MANIFEST).read_text())["rules"]
    assert rules == {
        "kinds": ["blk", "ed", "el", "di"],
        "chase": "sequential",
        "align": 0.75,
        "max_queries": 500,
        "max_experts": 4,
        "max_added": 3,
        "min_confidence": 0.0,
    }


def test_the_command_says_what_it_wrote(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(made.run), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "base model, not included: embedded:minilm" in said
    assert "quickstart_products.em  after quickstart_products.blk" in said
    assert main(["export", str(made.run), str(tmp_path / "b")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["export", str(made.run)]) == 2


def test_the_same_run_gives_the_same_bundle(made: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    again = export_run(made.run, tmp_path / "empty")
    assert (again / MANIFEST).read_bytes() == (made.bundle / MANIFEST).read_bytes()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(made: Any, tmp_path: Path) -> None:
    def spoilt(number: int, **changes: Any) -> Path:
        run = _copy(made, tmp_path / f"run{number}")
        config = yaml.safe_load((run / "config.yaml").read_text()) | changes
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run

    masked = spoilt(0, transfer={"name": "cross_task"})
    foreign = spoilt(1, mixer={"_target_": "my_package.Mixer", "k": 1})
    stopped = spoilt(2)
    for link in (stopped / "artifacts").glob("infer.*"):
        link.unlink()
    cleared = spoilt(3)
    lost = cleared / "artifacts" / "route.suite"
    lost.unlink()
    lost.symlink_to(tmp_path / "gone")
    for run, words in (
        (masked, "withheld the labels"),
        (foreign, "MELD's own components"),
        (stopped, "answered nothing"),
        (cleared, "not in the store any more"),
        (tmp_path, "not a finished run"),
    ):
        with pytest.raises(UserError, match=words):
            export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle*"))
