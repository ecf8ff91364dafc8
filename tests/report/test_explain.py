"""Explaining predictions and showing meta-paths: made-up artifacts in, what is shown out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.dataset.io import load_predictions, save_predictions, save_samples, save_unit
from meld.errors import UserError
from meld.metapath import record
from meld.metapath.edits import Edit, edited
from meld.metapath.record import Asked, load_asked, save_asked
from meld.progress import Silent
from meld.report.explain import Explanation, explain, explained, find_query, query_ids
from meld.report.html import write_report
from meld.report.paths import path_lines, search_costs, write_paths
from meld.report.results import Cost, read_costs, write_costs
from meld.retriever.base import Demonstrations
from meld.stages.base import Context, write_json
from meld.stages.masked import run_path
from meld.stages.unit import save_demonstrations
from meld.types import Prediction, Query, Sample, Table, UnitData

MakeRun = Callable[..., Path]
HOSTILE = "</td><script>alert(1)</script>[red]x[/nothing]"
UNIT = "shop.em"
ROWS = {str(i): {"title": f"item {i}", "brand": "" if i == 1 else "Sony"} for i in range(4)}


def query(i: int, title: str = "shops") -> Query:
    left, right = ROWS[str(i % 4)], ROWS[str((i + 1) % 4)]
    return Query(f"{UNIT}/A:{i}|B:{i + 1}", UNIT, "em", (left, right), (f"A:{i % 4}", f"B:{(i + 1) % 4}"), title=title)


FILLED = Edit("people.di", "fill", 0, "brand", "", HOSTILE, 0.75)
ATTACHED = Edit("shop.blk", "attach", -1, "nearest", "", "both", 0.9)
PATH = {
    "path": ["shop.blk", "people.di"],
    "tried": {"(none)": -0.9, "shop.blk": -0.5, "shop.blk>people.di": -0.25},
    "stopped": "no further step improves Eval",
    "chase": "sequential",
    "possible": ["shop.blk", "people.di"],
    "evaluations": 3,
    "queries": {"dev": 60, "steps": 7},
    "changed_samples": {"shop.blk": 40, "people.di": 5},
    "steps": {
        "shop.blk": {"asked": 0, "over": 0, "edits": {"attach": 120}},
        "people.di": {"asked": 9, "over": 2, "edits": {"fill": 6}},
    },
    "examples": [
        {"query": "q", "step": "people.di", "kind": "fill", "entity": 0, "attribute": "brand", "before": HOSTILE,
         "after": "Sony", "confidence": 0.75},
    ],
    "samples": 40,
    "dev": 20,
    "eval": "mean log-probability",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> Path:
    """A run directory whose artifacts are there: three questions, of which one is not kept."""
    folder = make_run(tmp_path / "run")
    store = tmp_path / "store"
    queries = [query(i) for i in range(3)]
    tables = {name: Table(name, "shops", ("title", "brand"), ROWS) for name in "AB"}
    samples = (Sample(query(9), "match"), Sample(query(10), "mismatch", "pseudo", 0.8))
    save_unit(UnitData(UNIT, "shop", "em", tables, samples[:1], (), (), tuple(queries)), store / "data")
    (store / "annotate").mkdir()
    save_samples(samples, store / "annotate" / "samples.parquet")
    found = {queries[1].id: Demonstrations((samples[1].id, samples[0].id), (0.9, 0.4))}
    save_demonstrations(found, store / "annotate" / "demonstrations.parquet")
    (store / "metapath").mkdir()
    write_json(store / "metapath" / "path.json", PATH)
    write_json(store / "metapath" / "search.json", {"seconds": {"search": 12.5, "apply": 1.0}})
    (store / "infer").mkdir()
    predictions = [
        Prediction(
            q.id, "match", 0.8, experts=("shop.em", "people.di"), weights=(0.7, 0.3), options=("match", "mismatch")
        )
        for q in queries
    ]
    save_predictions(predictions, store / "infer" / "predictions.parquet")
    asked = edited(queries[1], [ATTACHED, FILLED])
    kept = Asked(asked, (ATTACHED, FILLED), "same? item 1", 1, 0, ("match", "mismatch"), (0.8, 0.2), (0.6, 0.4))
    save_asked([kept], store / "infer" / "asked.parquet")
    (folder / "artifacts").mkdir()
    for stage in ("data", "annotate", "metapath", "infer"):
        (folder / "artifacts" / f"{stage}.{UNIT}").symlink_to(store / stage)
    for file in (folder / "predictions").iterdir():
        file.unlink()
    frame = pd.read_parquet(store / "infer" / "predictions.parquet")
    frame["gold"] = [["match"], ["mismatch"], ["match"]]
    frame["correct"] = [True, False, True]
    frame["query"] = "x"
    frame.to_parquet(folder / "predictions" / f"{UNIT}.parquet")
    write_paths(folder, {f"metapath:{UNIT}": store / "metapath", "infer:x.em": store / "infer"})
    return folder


def test_an_explanation_holds_everything_that_led_to_the_answer(run: Path) -> None:
    found = explain(run, "A:1|B:2")
    assert (found.unit, found.output, found.gold, found.correct) == (UNIT, "match", ("mismatch",), False)
    assert found.experts == (("shop.em", 0.7), ("people.di", 0.3))
    # The query as it was given, apart from what the path made of it.
    assert [dict(e) for e in found.entities] == [dict(ROWS["1"]), dict(ROWS["2"])]
    assert found.edits == (ATTACHED, FILLED)
    assert found.context == (("nearest", "both"),)
    assert found.path == ("shop.blk", "people.di")
    assert [(c.value, c.probability, c.evidence) for c in found.choices] == [
        ("match", 0.8, 0.6),
        ("mismatch", 0.2, 0.4),
    ]
    assert [(d.similarity, d.label, d.provenance, d.shown) for d in found.demonstrations] == [
        (0.9, "mismatch", "pseudo", True),
        (0.4, "match", "labelled", False),
    ]
    assert "1 of 2 retrieved demonstrations" in " ".join(found.notes)
    assert found.prompt == "same? item 1"


def test_demonstrations_lent_by_another_unit_are_shown(run: Path, tmp_path: Path) -> None:
    lent = Sample(Query("mall.em/1", "mall.em", "em", ({"title": "lent"}, {"title": "too"})), "match")
    (tmp_path / "store" / "mall").mkdir()
    save_samples([lent], tmp_path / "store" / "mall" / "samples.parquet")
    (run / "artifacts" / "annotate.mall.em").symlink_to(tmp_path / "store" / "mall")
    found = {query(1).id: Demonstrations((lent.id, "gone.em/1"), (0.7, 0.6))}
    save_demonstrations(found, tmp_path / "store" / "annotate" / "demonstrations.parquet")
    assert [(d.id, d.entities[0]["title"]) for d in explain(run, "A:1|B:2").demonstrations] == [("mall.em/1", "lent")]


def test_experts_mixed_token_by_token_have_no_weights_and_that_is_said(run: Path) -> None:
    file = run / "predictions" / f"{UNIT}.parquet"
    frame = pd.read_parquet(file)
    frame["experts"] = [[], [], []]
    frame["weights"] = [[], [], []]
    frame.to_parquet(file)
    assert "token by token" in " ".join(explain(run, "A:1|B:2").notes)


def test_a_path_without_a_search_is_shown_without_costs(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "store" / "metapath"
    (place / "search.json").unlink()
    masked = Context(place, tmp_path, {}, 0, Silent(), lambda name: None)
    run_path(masked, ["shop.blk"], "frozen")
    assert search_costs({f"metapath:{UNIT}": place}) == []
    write_paths(run, {f"metapath:{UNIT}": place})
    (line,) = path_lines(run, {})
    assert (line.path, line.tried, [s.did for s in line.steps]) == (("shop.blk",), (), ["changed nothing"])
    assert "labels of this unit are withheld" in write_report(run).read_text(encoding="utf-8")


def test_what_is_not_kept_is_said(run: Path) -> None:
    found = explain(run, "A:2|B:3")
    assert (found.edits, found.choices, found.prompt) == ((), (), "")
    assert "not kept" in found.notes[0]
    assert (found.correct, dict(found.entities[0])) == (True, dict(ROWS["2"]))
    for stage in ("annotate", "data", "metapath"):
        (run / "artifacts" / f"{stage}.{UNIT}").unlink()
    bare = explain(run, "A:1|B:2")
    assert (bare.demonstrations, bare.path) == ((), ())
    assert "gone from the store" in " ".join(bare.notes)
    # As it was asked is all there is.
    assert bare.entities[0]["brand"] == HOSTILE


def test_a_run_that_stopped_at_inference_is_explained_without_gold(run: Path) -> None:
    (run / "predictions" / f"{UNIT}.parquet").unlink()
    found = explain(run, "A:1|B:2")
    assert (found.gold, found.correct) == (None, None)
    assert "not evaluated" in found.notes[-1]
    assert explained(run) == []


def test_places_without_links_are_followed(run: Path) -> None:
    for stage in ("data", "infer"):
        link = run / "artifacts" / f"{stage}.{UNIT}"
        target = os.path.relpath(link.resolve(), link.parent)
        link.unlink()
        link.with_name(f"{link.name}.path.txt").write_text(target + "\n")
    assert explain(run, "A:1|B:2").edits == (ATTACHED, FILLED)
    (run / "predictions" / f"{UNIT}.parquet").unlink()
    assert len(query_ids(run)) == 3


def test_skipped_and_invalid_answers_say_so(run: Path) -> None:
    file = run / "predictions" / f"{UNIT}.parquet"
    frame = pd.read_parquet(file)
    frame["status"] = ["skipped", "ok", "invalid"]
    frame.to_parquet(file)
    assert "did not flag" in explain(run, "A:0|B:1").notes[0]
    assert "counts as wrong" in " ".join(explain(run, "A:2|B:3").notes)
    assert {one.query_id for _, found in explained(run) for one in found} == {query(1).id, query(2).id}


def test_a_query_is_found_by_a_unique_part() -> None:
    ids = ["a.em/A:1|B:2", "a.em/A:11|B:2", "b.di/T:1/city", "b.di/T:12/city"]
    assert find_query(ids, ids[0]) == ids[0]
    assert find_query(ids, "A:11|B:2") == ids[1]
    assert find_query(ids, "T:12") == ids[3]
    assert find_query(ids, "T:1/city") == ids[2]
    with pytest.raises(UserError, match="part of 2 query ids") as found:
        find_query(ids, "city")
    assert "b.di/T:12/city" in str(found.value)
    with pytest.raises(UserError, match="No query id holds") as near:
        find_query(ids, "T:1/citty")
    assert "b.di/T:1/city" in str(near.value)
    with pytest.raises(UserError, match="and 12 more"):
        find_query([f"x/{i}" for i in range(20)], "x/")


@given(st.lists(st.text("ab:|/", max_size=6), min_size=1, unique=True), st.text("ab:|/", min_size=1, max_size=6))
def test_what_is_found_holds_what_was_asked(ids: list[str], wanted: str) -> None:
    holding = [id_ for id_ in ids if wanted in id_]
    try:
        found = find_query(ids, wanted)
    except UserError:
        assert len(holding) != 1
        assert wanted not in ids
    else:
        assert found in holding
        assert found == wanted or len([i for i in holding if i.endswith(wanted)]) == 1 or len(holding) == 1


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no predictions"):
        explain(tmp_path, "x")


class Page(HTMLParser):
    """Tags and text of a page whose tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_paths_and_explanations(run: Path) -> None:
    costs = [Cost("metapath", UNIT, "0" * 16, 14.0, 900, False)]
    place = (run / "artifacts" / f"metapath.{UNIT}").resolve()
    write_costs(run, costs, 20.0, search_costs({f"metapath:{UNIT}": place, "data:x": run}))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    for expected in (
        "Meta-paths", "shop.blk → people.di", "-0.900", "-0.250", "-0.2500", "no further step improves Eval",
        "40 of 40",
        "filled 6; 2 cells were beyond the limit", "attached 120", "12 s", "67", "Predictions explained",
        "shop.em/A:1|B:2", "shop.em 0.700, people.di 0.300", "similarity 0.900, pseudo, in the prompt",
        "match 0.800 (retrieval alone 0.600)", "same? item 1", "filled brand of tuple 1:",
    ):  # fmt: skip
        assert expected in text, expected
    assert "<script>alert(1)</script>" in page.text
    assert not {"script", "img"} & set(page.tags)


def test_paths_hold_no_timing_and_costs_hold_it(run: Path) -> None:
    content = json.loads((run / "paths.json").read_text())
    assert content["units"][UNIT]["tried"]["shop.blk>people.di"] == -0.25
    assert "seconds" not in json.dumps(content)
    place = (run / "artifacts" / f"metapath.{UNIT}").resolve()
    write_costs(run, [], 1.0, search_costs({f"metapath:{UNIT}": place}))
    costs = read_costs(run)
    assert costs is not None
    assert costs.searches == ({"unit": UNIT, "evaluations": 3, "queries": 67, "seconds": 12.5},)
    write_costs(run, [], 1.0)
    assert read_costs(run) is not None
    (line,) = path_lines(run, {})
    assert (line.evaluations, line.queries, line.seconds) == (3, 67, None)
    assert [value for _, value in line.tried] == [-0.25, -0.5, -0.9]


def test_a_report_without_artifacts_has_no_such_sections(tmp_path: Path, make_run: MakeRun) -> None:
    text = write_report(make_run(tmp_path / "r")).read_text(encoding="utf-8")
    assert "Meta-paths" not in text
    assert "Predictions explained" not in text


def test_asked_questions_survive_the_file_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Asked(
        edited(query(1), [FILLED, ATTACHED]), (FILLED, ATTACHED), "p\n", 2, 1, ("a", ""), (0.9, 0.1), (0.5, 0.5)
    )
    encoder = Asked(replace(query(2), target="brand"), options=("B:1",), probabilities=(0.7,))
    save_asked([one, encoder], tmp_path / "asked.parquet")
    found = load_asked(tmp_path / "asked.parquet", [query(1).id, query(2).id, "unknown"], UNIT)
    assert list(found) == [query(1).id, query(2).id]
    # Which rows the tuples are is told by the data.
    assert found[query(1).id] == replace(one, query=replace(one.query, rows=()))
    assert found[query(2).id] == replace(encoder, query=replace(encoder.query, rows=()))
    assert [list(e) for e in found[query(1).id].query.entities] == [["title", "brand"]] * 2
    assert load_asked(tmp_path / "asked.parquet", [], UNIT) == {}
    monkeypatch.setattr(record, "MOST", 3)
    many = [Asked(Query(f"q{i:02}", UNIT, "em", ())) for i in range(10)]
    save_asked(many[::-1], tmp_path / "asked.parquet")
    kept = load_asked(tmp_path / "asked.parquet", [a.query.id for a in many], UNIT)
    assert list(kept) == ["q00", "q04", "q09"]
    save_asked([], tmp_path / "asked.parquet")
    assert load_asked(tmp_path / "asked.parquet", ["q00"], UNIT) == {}


def test_predictions_are_read_as_before(run: Path) -> None:
    found: list[Prediction] = load_predictions(run / "predictions" / f"{UNIT}.parquet")
    assert len(found) == 3
    assert isinstance(explain(run, found[0].query_id), Explanation)
