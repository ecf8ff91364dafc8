"""``meld explain`` over the artifacts of a made-up run."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from meld.cli.explain import run_explain, show
from meld.cli.main import main
from meld.metapath.edits import Edit
from meld.report.explain import Choice, Demonstration, Explanation
from meld.types import Prediction

HOSTILE = "[red]x[/nothing]"


def explanation(**changes: object) -> Explanation:
    base: dict[str, object] = {
        "unit": "shop.em",
        "query_id": "shop.em/A:1|B:2",
        "entities": ({"title": HOSTILE, "brand": ""}, {"title": "b", "brand": ""}),
        "target": None,
        "title": "shops",
        "path": ("shop.blk", "people.di"),
        "edits": (Edit("people.di", "fill", 1, "brand", "", "Sony", 0.75),),
        "context": (),
        "demonstrations": (Demonstration("d", 0.5, "match", "pseudo", ({"title": "c"},), None, False),),
        "experts": (("shop.em", 0.7), ("people.di", 0.3)),
        "choices": (Choice("match", 0.8, 0.6), Choice("mismatch", 0.2, 0.4)),
        "output": "match",
        "score": 0.8,
        "status": "ok",
        "raw": "",
        "gold": ("mismatch",),
        "correct": False,
        "prompt": "same?",
        "notes": ("a note",),
    }
    return Explanation(**{**base, **changes})  # type: ignore[arg-type]


def printed(found: Explanation) -> str:
    out = StringIO()
    show(found, Console(file=out, width=140, color_system=None))
    return out.getvalue()


def test_everything_is_shown_and_values_stay_text() -> None:
    text = printed(explanation())
    for expected in (
        "shop.em/A:1|B:2", HOSTILE, "match   score 0.800, ok", "mismatch   wrong", "shop.em 0.700, people.di 0.300",
        "shop.blk > people.di", "left this query as it was: shop.blk", "brand of tuple 2", "Sony", "0.750",
        "by retrieval alone", "0.600", "0.500", "pseudo", "same?", "a note",
    ):  # fmt: skip
        assert expected in text, expected


def test_an_encoders_answer_has_no_experts_and_long_lists_are_cut() -> None:
    many = tuple(Choice(f"B:{i}", 0.9 - i / 100, None, "title: b") for i in range(12))
    text = printed(
        explanation(
            experts=(), edits=(), path=(), demonstrations=(), choices=many, output=None, gold=None, correct=None
        )
    )
    assert "experts" not in text
    assert "by retrieval alone" not in text
    assert "the first 10 of 12" in text
    assert "B:9 (title: b)" in text
    assert "B:10" not in text
    assert "(no answer)" in text
    assert "gold" not in text


def made(tmp_path: Path) -> Path:
    from meld.dataset.io import save_predictions

    run = tmp_path / "run"
    found = [Prediction(f"d.em/{i}", "match", 0.5, experts=("d.em",), weights=(1.0,)) for i in (1, 21)]
    save_predictions(found, run / "predictions" / "d.em.parquet")
    return run


def test_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(made(tmp_path)), "em/1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["query_id"] == "d.em/1"
    assert content["experts"] == [["d.em", 1.0]]
    assert content["correct"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes a run directory and a query id"),
        (["run"], "takes a run directory and a query id"),
        (["run", "x", "--yaml"], "takes a run directory and a query id"),
        (["nowhere", "x"], "no directory nowhere"),
        (["run", "1"], "part of 2 query ids"),
        (["run", "em/7"], "No query id holds 'em/7'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "fix:" in said


def test_the_console_is_used(tmp_path: Path) -> None:
    out = StringIO()
    assert run_explain([str(made(tmp_path)), "d.em/21"], Console(file=out, width=120, color_system=None)) == 0
    assert "d.em/21" in out.getvalue()
