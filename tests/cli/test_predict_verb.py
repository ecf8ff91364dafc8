"""What ``meld predict`` says without opening a bundle, and in which words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meld.cli.main import main
from meld.cli.words import in_shell_words
from meld.errors import ConfigError, ConfigErrors, DataError, UserError

OPTIONS = {name: f"--{name}" for name in ("unit", "target", "chunk", "right", "restart", "base")}


@pytest.mark.parametrize(
    ("said", "shell"),
    [
        ("chunk=256", "--chunk 256"),
        ("chunk", "--chunk"),
        ("say which one the rows are like: unit='crm.di'", "say which one the rows are like: --unit crm.di"),
        (
            "say which: target='first name', or a column 'target'",
            "say which: --target 'first name', or a column 'target'",
        ),
        ("target=city", "--target city"),
        ("leave out right=...", "leave out --right"),
        ("begin anew: restart=True", "begin anew: --restart"),
        ("name the hub name of x as it was: meld.load(DIR, base=...)", "name the hub name of x as it was: --base"),
        ("data/chunk=3/rows.csv", "data/chunk=3/rows.csv"),
        ("set backbone.base=x, my_unit=y", "set backbone.base=x, my_unit=y"),
        ("a chunk of a unit", "a chunk of a unit"),
    ],
)
def test_python_arguments_are_options_in_the_shell(said: str, shell: str) -> None:
    @in_shell_words(OPTIONS)
    def fail(kind: type[UserError]) -> None:
        raise kind("what chunk=1 says stays.", where=said, fix=said)

    for kind in (UserError, DataError):
        with pytest.raises(kind, match="chunk=1 says") as found:
            fail(kind)
        assert (found.value.where, found.value.fix) == (shell, shell)


def test_several_errors_stay_several() -> None:
    several = ConfigErrors([ConfigError("a"), ConfigError("b")])
    with pytest.raises(ConfigErrors) as found, in_shell_words(OPTIONS):
        raise several
    assert found.value is several


def predict(*words: str) -> int:
    return main(["predict", "no_bundle", *words])


def test_files_are_looked_at_before_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("a,b\n1,2\n")
    Path("o.csv").mkdir()
    for words, message in (
        (("in.csv", "-o", "./in.csv"), "is the file with the rows"),
        (("in.csv", "-o", "r.csv", "--right", "r.csv"), "r.csv does not exist"),
        (("in.csv", "-o", "o.csv"), "is a folder"),
        (("in.csv", "-o", "new.json"), "--out-format csv"),
        (("in.txt",), "--format csv"),
    ):
        assert predict(*words) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "no_bundle" not in said
    Path("r.csv").write_text("a,b\n1,2\n")
    assert predict("in.csv", "--right", "r.csv", "-o", "r.csv") == 2
    assert "is the file with the rows" in capsys.readouterr().err


def test_a_header_without_rows_is_a_success_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("a,b\n")

    class Model:
        def predict_file(self, *_: Any, **__: Any) -> Counter[str]:
            return Counter()

    monkeypatch.setattr("meld.bundle.model.load", lambda *_, **__: Model())
    assert predict("in.csv", "-o", "out.csv") == 0
    assert "no row" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["predict", "bundle", "rows.csv", "-o", "out.csv"], ["serve", "bundle"]])
def test_a_device_is_refused_by_its_option(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a\n1\n")
    assert main([*words, "--device", "gpu"]) == 2
    said = capsys.readouterr().err
    assert "There is no device 'gpu'." in said
    assert "where: --device" in said
