"""``meld rerun``: what is carried out again, and with which configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meld.cli import job, rerun
from meld.cli.main import main
from meld.config.compose import compose_config, config_hash, load_config, plain, redact
from meld.report.record import Origin, read_config, read_origin, write_origin
from meld.report.results import Failure, write_json

OVERRIDES = ("k=2", "suite=quickstart", "logger=none")
Called = list[dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with its record."""
    folder = tmp_path / "runs" / "one"
    made = compose_config(OVERRIDES)
    choices = {group: str(option) for group, option in made.choices.items() if not group.startswith("hydra/")}
    write_origin(folder, Origin("meld k=2", OVERRIDES, choices))
    (folder / "config.yaml").write_text(yaml.safe_dump(redact(made.config), sort_keys=False))
    write_json(folder / "results.json", {"rows": [], "config_hash": config_hash(plain(made.config))})
    return folder


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Instead of computing, keep what would be computed and leave the same results."""
    calls: Called = []

    def carry_out(
        tree: dict[str, Any], shown: dict[str, Any], origin: Origin, folder: Path, sweep: str | None = None
    ) -> tuple[Failure, ...]:
        calls.append({"tree": tree, "shown": shown, "origin": origin, "folder": folder})
        write_json(folder / "results.json", {"rows": [], "config_hash": config_hash(tree)})
        return ()

    monkeypatch.setattr(job, "carry_out", carry_out)
    return calls


def test_the_record_is_carried_out_as_it_stands(run: Path, called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_config(run)
    content["tau"] = 0.5  # no option's file says this: the record counts, not today's files
    content["force"] = "encode"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    write_json(run / "results.json", {"rows": [], "config_hash": config_hash(content)})
    assert main(["rerun", str(run)]) == 0
    (call,) = called
    assert call["tree"] == {**content, "force": None}
    assert call["folder"] == run.with_name("one-rerun").resolve()
    assert call["origin"].choices == read_origin(run).choices  # type: ignore[union-attr]
    assert "byte for byte" in capsys.readouterr().out


def test_changes_follow_through_what_interpolates_them(
    run: Path, called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_config(run)
    content["tau"] = 0.5
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["rerun", str(run), "k=1", "--into", str(run.parent / "two"), "selector=random"]) == 0
    (call,) = called
    expected = load_config([*OVERRIDES, "k=1", "selector=random"])
    assert call["tree"] == redact(expected)
    assert call["tree"]["mixer"]["k"] == 1
    assert call["origin"].overrides == (*OVERRIDES, "k=1", "selector=random")
    assert call["origin"].choices["selector"] == "random"
    assert call["folder"] == run.parent / "two"
    assert "since the run: tau: 0.5 → 0.02" in capsys.readouterr().out


def test_a_repeated_rerun_finds_its_own_folder(run: Path) -> None:
    plain = rerun.rerun_folder(run, ())
    assert plain == rerun.rerun_folder(run, ("force=encode",))
    assert rerun.rerun_folder(run, ("k=1", "tau=1")) == rerun.rerun_folder(run, ("tau=1", "k=1")) != plain


def test_other_results_are_told(run: Path, called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((run / "results.json").read_text())
    write_json(run / "results.json", {**content, "rows": [1]})
    assert main(["rerun", str(run)]) == 1
    assert "meld diff" in capsys.readouterr().out
    # Another store changes nothing that matters, another k does.
    assert main(["rerun", str(run), "paths.store=elsewhere"]) == 1
    assert called[-1]["tree"]["paths"]["store"] == "elsewhere"
    assert main(["rerun", str(run), "k=1"]) == 0


def test_secrets_come_from_where_they_came_from(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELD_TEST_SECRET", "hush")
    content = read_config(run)
    content["backbone"]["path"] = "***"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    origin = Origin("meld", (*OVERRIDES, "backbone.path='${oc.env:MELD_TEST_SECRET}'"))
    tree, shown = rerun.recorded(run, origin)
    assert tree["backbone"]["path"] == "hush"
    assert shown["backbone"]["path"] == "***"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "meld rerun"),
        (("{tmp}",), "no record of a run"),
        (("{run}", "nonsense"), "'nonsense' is no override"),
        (("{run}", "--into", "{run}"), "does not overwrite its record"),
        (("{run}", "slector=random"), "slector"),
    ],
)
def test_wrong_words_are_one_screen_and_code_2(
    run: Path, called: Called, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerun", *(word.format(tmp=tmp_path, run=run) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert called == []


def test_an_origin_is_read_back(tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None
    origin = Origin("meld k=2", ("k=2",), {"suite": "quickstart", "backbone@proxy": "minilm"}, "/private")
    write_origin(tmp_path, origin)
    found = read_origin(tmp_path)
    assert found == origin
    assert found is not None
    assert list(found.choices) == ["suite", "backbone@proxy"]
