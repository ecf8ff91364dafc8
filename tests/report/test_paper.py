"""The paper's table of a sweep, from made-up run directories: seeds, published numbers, pairs, what is missing."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from meld.config.validate import FIGURES
from meld.errors import DataError
from meld.report.figures import _merged, draw, drawings
from meld.report.paper import Column, PaperTable, paper_table
from meld.report.paper_text import costs_table, frame, latex, markdown, rich_table
from meld.report.record import SweepRecord, read_record, write_job, write_record
from meld.report.results import Cost, rows_of, write_costs, write_json, write_results
from meld.report.status import has_failed
from meld.report.sweep import build
from meld.types import Score

EM = Column("abt_buy", "em", "f1")
N = 40
PAPER = {
    "title": "Table VII",
    "table": "tab7_ablation",
    "rows": ["variant"],
    "reference": "full",
    "labels": {"full": "MELD", "wo_moe": "w/o MoE", "mixtral": "with Mixtral"},
}


def _truth(place: int) -> str:
    return "match" if place % 4 == 0 else "mismatch"


def _f1(wrong: int) -> float:
    """F1 of a system that misses the first matches: so many of the ten there are."""
    return 2 * (10 - wrong) / (2 * (10 - wrong) + wrong)


def _job(folder: Path, swept: dict[str, str], wrong: int, *, seconds: float = 10.0, predicted: bool = True) -> None:
    """One finished job whose system misses so many matches."""
    score = Score("f1", _f1(wrong), N, max(0.0, _f1(wrong) - 0.1), min(1.0, _f1(wrong) + 0.1), main=True)
    rows = rows_of("abt_buy", "em", "meld", [score], "0" * 16)
    rows += rows_of("abt_buy", "em", "majority", [Score("f1", 0.2, N, 0.1, 0.3, main=True)], "0" * 16)
    config: dict[str, Any] = {"method": "meld", "suite": "x", "backbone": "minilm", "synthetic": [], **swept}
    write_results(folder, config, "0" * 16, rows)
    write_job(folder, swept)
    stages = [
        Cost("features", "abt_buy.em", "a", 2.0, 500, True),
        Cost("refine", "abt_buy.em", "b", seconds, 2000, False),
    ]
    write_costs(folder, [*stages, Cost("infer", "abt_buy.em", "c", 4.0, 900, False)], 1.0)
    weights = {"mean_weights": [0.75, 0.25], "entropy": 0.5, "path": []}
    write_json(folder / "routing.json", {"experts": ["abt_buy.em", "b.di"], "units": {"abt_buy.em": weights}})
    if not predicted:
        return
    (folder / "predictions").mkdir()
    missed = [place for place in range(N) if _truth(place) == "match"][:wrong]
    pd.DataFrame(
        {
            "query_id": [f"abt_buy.em/test/{i}" for i in range(N)],
            "output": ["mismatch" if i in missed else _truth(i) for i in range(N)],
            "score": [1.0] * N,
            "status": ["ok"] * N,
            "experts": [["abt_buy.em"]] * N,
            "weights": [[1.0]] * N,
            "options": [["match", "mismatch"]] * N,
            "raw": [""] * N,
            "gold": [[_truth(i)] for i in range(N)],
            "correct": [i not in missed for i in range(N)],
            "query": ["q"] * N,
        }
    ).to_parquet(folder / "predictions" / "abt_buy.em.parquet")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two of three rows have run, one of them with two of three seeds."""
    grid = {"seed": ("0", "1", "2"), "variant": ("full", "wo_moe", "wo_rag")}
    write_record(tmp_path, SweepRecord("meld experiment=tab7_ablation sweep=seeds", "tab7_ablation", grid, PAPER))
    for seed, wrong in enumerate((1, 2, 3)):
        _job(tmp_path / f"seed={seed},variant=full", {"seed": str(seed), "variant": "full"}, wrong)
    for seed, wrong in enumerate((5, 6)):
        swept = {"seed": str(seed), "variant": "wo_moe"}
        _job(tmp_path / f"seed={seed},variant=wo_moe", swept, wrong, seconds=30.0)
    return tmp_path


def _table(folder: Path) -> PaperTable:
    found = paper_table(folder)
    assert found is not None
    return found


def test_means_and_intervals_over_seeds(sweep: Path) -> None:
    cell = _table(sweep).cells["full", EM]
    values = [100 * _f1(wrong) for wrong in (1, 2, 3)]
    assert cell.values == pytest.approx(values, abs=1e-3)
    centre = sum(values) / 3
    deviation = (sum((value - centre) ** 2 for value in values) / 2) ** 0.5
    assert cell.half == pytest.approx(4.303 * deviation / 3**0.5, rel=1e-3)
    assert (cell.n, cell.delta) == (N, None)
    assert [number.value for number in cell.published] == [91.12]  # both versions print it: once


def test_differences_are_over_the_seeds_that_both_rows_have(sweep: Path) -> None:
    delta = _table(sweep).cells["wo_moe", EM].delta
    assert delta is not None
    assert delta.seeds == 2
    assert delta.value == pytest.approx((_f1(5) - _f1(1) + _f1(6) - _f1(2)) / 2)
    assert delta.low < delta.value < delta.high < 0
    assert delta.clear


def test_what_is_missing_stays_missing(sweep: Path) -> None:
    table = _table(sweep)
    assert table.measured == ("full", "wo_moe")
    assert table.missing == ("wo_rag",)
    assert table.cells["wo_rag", EM].values == ()
    assert table.cells["mixtral", EM].value is None
    assert table.cells["mixtral", EM].published[0].value == 85.26
    other = Column("walmart_amazon", "em", "f1")
    assert all(not table.cells[row, other].values for row in ("full", "wo_moe", "wo_rag", "mixtral"))
    assert any("variant=wo_rag" in note for note in table.notes)
    assert any("5 of 9 jobs have finished" in note for note in table.notes)
    assert any("MELD: 3, w/o MoE: 2" in note for note in table.notes)
    line = next(line for line in markdown(table).splitlines() if "abt_buy" in line and "wo_rag" in line)
    assert "| – | 85.75 |" in line


def test_costs_bill_selection_and_training_whoever_computed_them(sweep: Path) -> None:
    costs = _table(sweep).costs
    assert costs["full", "select_s"] == 2
    assert (costs["full", "total_s"], costs["wo_moe", "total_s"]) == (12, 32)
    assert costs["full", "peak_memory_gb"] == 2
    assert costs["full", "queries_per_s"] == N / 4
    assert ("full", "gradient_gb") not in costs


def test_what_a_selection_would_cost_at_the_papers_size_is_shown_and_explained(sweep: Path) -> None:
    assert ("full", "at_7b_percent") not in _table(sweep).costs
    assert "By count" not in markdown(_table(sweep))
    unit = {"pool": 10, "selected": 3, "trained": 3, "training_tokens": 300, "steps": []}
    job = next(folder for folder in sweep.iterdir() if folder.name.endswith("variant=full"))
    write_json(job / "selection.json", {"selector": "random", "units": {"abt_buy.em": unit}})
    assert _table(sweep).costs["full", "at_7b_percent"] == pytest.approx(30)
    shown = markdown(_table(sweep))
    assert "by count at 7B, %" in shown
    assert "By count: operations" in shown
    # Seven costs fit eighty columns: no head is cut.
    written = io.StringIO()
    Console(width=80, file=written).print(costs_table(_table(sweep)))
    assert "questions" in written.getvalue()
    assert "…" not in written.getvalue()


def test_one_seed_keeps_the_interval_of_its_queries_and_no_pair_is_made_without_predictions(tmp_path: Path) -> None:
    write_record(tmp_path, SweepRecord("meld", None, {"variant": ("full", "wo_moe")}, PAPER))
    _job(tmp_path / "a", {"variant": "full"}, 1)
    _job(tmp_path / "b", {"variant": "wo_moe"}, 4, predicted=False)
    table = _table(tmp_path)
    cell = table.cells["full", EM]
    assert (cell.low, cell.high) == pytest.approx((100 * (_f1(1) - 0.1), 100 * min(1.0, _f1(1) + 0.1)), abs=1e-3)
    assert table.cells["wo_moe", EM].delta is None
    assert paper_table(tmp_path / "a") is None


def test_a_unit_is_scored_by_the_job_that_withheld_it(tmp_path: Path) -> None:
    paper = {"rows": ["transfer"], "each": "transfer.targets", "reference": "cross_dataset"}
    grid = {"transfer": ("cross_dataset",), "transfer.targets": ("[abt_buy.em]", "[walmart.di]")}
    write_record(tmp_path, SweepRecord("meld", None, grid, paper))
    for name, targets, wrong in (("a", "[abt_buy.em]", 3), ("b", "[walmart.di]", 0)):
        _job(tmp_path / name, {"transfer": "cross_dataset", "transfer.targets": targets}, wrong)
    table = _table(tmp_path)
    assert list(table.rows) == ["cross_dataset"]
    assert table.cells["cross_dataset", EM].values == pytest.approx((100 * _f1(3),), abs=1e-3)


def test_every_form_carries_the_numbers(sweep: Path) -> None:
    table = _table(sweep)
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(rich_table(table))
    shown = console.export_text()
    value = f"{sum(100 * _f1(wrong) for wrong in (1, 2, 3)) / 3:.1f}"
    for text in (shown, markdown(table), latex(table)):
        assert value in text
        assert "91.12" in text
        assert "MELD" in text
    assert "not run" not in shown
    assert latex(table).count("&") == (len(table.columns) + 1) * (len(table.rows) + 1)
    assert r"abt\_buy" in latex(table)
    records = frame(table)
    line = records[(records["dataset"] == "abt_buy") & (records["row"] == "full")].iloc[0]
    assert (line["seeds"], line["n"], line["journal"]) == (3, N, 91.12)
    missing = records[(records["dataset"] == "abt_buy") & (records["row"] == "wo_rag")].iloc[0]
    assert pd.isna(missing["value"])
    assert missing["journal"] == 85.75


def test_the_report_of_a_sweep_is_its_table(sweep: Path) -> None:
    page = build(sweep).read_text(encoding="utf-8")
    for part in ("Table VII", "<svg", "not run", "published 91.12", "with Mixtral", "majority", "3 × 40"):
        assert part in page
    assert "<script" not in page
    assert {"paper.md", "paper.tex", "paper.csv", "figure.png", "figure.svg"} <= {file.name for file in sweep.iterdir()}
    assert build(sweep).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("kind", ["bars", "line", "heatmap", "cost", "throughput"])
def test_figures_draw_what_there_is(tmp_path: Path, kind: str) -> None:
    grid = {"selector": ("random", "none"), "c": ("0.1", "0.3")}
    paper = {"rows": ["selector", "c"], "reference": "random,0.1", "labels": {"none": "all"}, "figure": kind}
    write_record(tmp_path, SweepRecord("meld", None, grid, paper))
    for number, (selector, share) in enumerate((("random", "0.1"), ("random", "0.3"), ("none", "0.1"))):
        _job(tmp_path / str(number), {"selector": selector, "c": share}, number)
    table = _table(tmp_path)
    assert table.rows["none,0.3"] == "all, c=0.3"
    figure = draw(table)
    assert figure is not None
    axis = figure.axes[0]
    if kind == "line":
        drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.get_lines()}
        assert [x for x, _ in drawn["random"]] == [0.1, 0.3]
        assert [y for _, y in drawn["random"]] == pytest.approx([100 * _f1(0), 100 * _f1(1)], abs=1e-3)
        assert len(drawn["none" if "none" in drawn else "all"]) == 1  # the missing point is not drawn
    if kind == "heatmap":
        assert axis.get_images()[0].get_array().tolist() == [[0.75, 0.25]]
    if kind in {"cost", "throughput"}:
        rows = ["selector=random, c=0.1", "selector=random, c=0.3", "all, c=0.1"]
        assert [tick.get_text() for tick in axis.get_yticklabels()] == rows


def test_runs_that_are_no_jobs_of_the_sweep_are_left_out(sweep: Path) -> None:
    whole = _table(sweep)
    _job(sweep / "seed=0,variant=full-rerun", {}, 9)
    (sweep / "seed=0,variant=full-rerun" / "job.json").unlink()
    table = _table(sweep)
    assert table.cells["full", EM] == whole.cells["full", EM]
    assert table.rows == whole.rows
    assert any("no jobs of this sweep: seed=0,variant=full-rerun" in note for note in table.notes)
    build(sweep)
    assert "rerun" not in (sweep / "comparison.csv").read_text(encoding="utf-8")


def test_a_rerun_is_no_further_seed_where_nothing_makes_rows(tmp_path: Path) -> None:
    write_record(tmp_path, SweepRecord("meld", None, {}, {"reference": "full", "title": "Table I"}))
    _job(tmp_path / "run", {}, 1)
    _job(tmp_path / "run-rerun", {}, 5)
    (tmp_path / "run-rerun" / "job.json").unlink()
    assert len(_table(tmp_path).cells["full", EM].values) == 1


def test_part_of_a_grid_is_compared_with_a_row_it_has(tmp_path: Path) -> None:
    write_record(tmp_path, SweepRecord("meld", None, {"variant": ("wo_moe", "wo_rag")}, PAPER))
    _job(tmp_path / "a", {"variant": "wo_moe"}, 1)
    _job(tmp_path / "b", {"variant": "wo_rag"}, 4)
    table = _table(tmp_path)
    assert table.reference == "wo_moe"
    assert table.cells["wo_rag", EM].delta is not None
    assert any("Compared with w/o MoE" in note and "preset's full" in note for note in table.notes)


def test_a_row_called_none_is_no_reference_by_its_name(tmp_path: Path) -> None:
    write_record(tmp_path, SweepRecord("meld", None, {"clip": ("0.1", "None")}))
    _job(tmp_path / "a", {"clip": "0.1"}, 1)
    _job(tmp_path / "b", {"clip": "None"}, 2)
    assert _table(tmp_path).reference == "0.1"


def test_values_with_commas_keep_their_curves(tmp_path: Path) -> None:
    terms = ("[diversity,quality]", "[quality]")
    grid = {"selector.terms": terms, "c": ("0.1", "0.3")}
    write_record(tmp_path, SweepRecord("meld", None, grid, {"figure": "line"}))
    for number, (of, share) in enumerate((t, c) for t in terms for c in grid["c"]):
        _job(tmp_path / str(number), {"selector.terms": of, "c": share}, number)
    table = _table(tmp_path)
    assert table.rows["[diversity,quality],0.1"] == "selector.terms=[diversity,quality], c=0.1"
    figure = draw(table)
    assert figure is not None
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert drawn == {name: [0.1, 0.3] for name in terms}


def test_damaged_predictions_are_named(sweep: Path) -> None:
    damaged = sweep / "seed=0,variant=full" / "predictions" / "abt_buy.em.parquet"
    damaged.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"abt_buy\.em\.parquet"):
        paper_table(sweep)


def test_a_difference_that_cannot_be_had_is_said(sweep: Path) -> None:
    assert not any("no difference" in note for note in _table(sweep).notes)
    (sweep / "seed=0,variant=wo_moe" / "predictions" / "abt_buy.em.parquet").unlink()
    assert any("no difference: abt_buy.em" in note for note in _table(sweep).notes)


def test_the_legend_of_costs_covers_no_bar_and_names_what_was_measured(sweep: Path) -> None:
    record = read_record(sweep)
    assert record is not None
    write_record(sweep, replace(record, paper={**record.paper, "figure": "cost"}))
    figure = draw(_table(sweep))
    assert figure is not None
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["select", "train"]


def test_units_that_read_the_same_texts_are_one_colour() -> None:
    units = ["p.dc"] * 2 + ["p.ed"] * 2 + ["q.em"] * 2 + ["q.blk"]
    texts = ["a", "b", "a", "b", "a", "c", "a"]
    merged = {"p.dc": "p.dc, ed", "p.ed": "p.dc, ed", "q.em": "q.em", "q.blk": "q.blk"}
    assert _merged(units, texts) == merged


def test_a_report_leaves_the_half_written_page_of_another_alone(sweep: Path) -> None:
    (sweep / ".report.html.part").write_text("theirs", encoding="utf-8")
    build(sweep)
    assert (sweep / ".report.html.part").read_text(encoding="utf-8") == "theirs"
    assert not [file.name for file in sweep.glob(".*") if file.name != ".report.html.part"]


def test_the_page_says_why_a_job_failed_and_what_a_mean_is(sweep: Path) -> None:
    error = {"state": "failed", "error": "no such <column>"}
    write_json(sweep / "seed=2,variant=wo_moe" / "status.json", error)
    page = build(sweep).read_text(encoding="utf-8")
    assert "no such &lt;column&gt;" in page
    assert "Mean of sets" not in page


def test_nothing_finished_draws_nothing(tmp_path: Path) -> None:
    write_record(tmp_path, SweepRecord("meld", None, {"k": ("1", "2")}, {}))
    table = _table(tmp_path)
    assert (table.rows, table.missing) == ({"1": "k=1", "2": "k=2"}, ("1", "2"))
    assert draw(table) is None


def test_failed_and_killed_jobs_are_seen_whoever_ran_them(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "status.json", {"state": "done"})
    assert not has_failed(tmp_path)
    write_json(tmp_path / "b" / "status.json", {"state": "failed", "error": "x"})
    assert has_failed(tmp_path)


def test_a_figure_that_the_record_asks_for_and_that_does_not_exist_is_said(tmp_path: Path) -> None:
    assert set(drawings()) == set(FIGURES)
    write_record(tmp_path, SweepRecord("meld", None, {"k": ("1",)}, {"rows": ["k"], "figure": "pie"}))
    _job(tmp_path / "1", {"k": "1"}, 0)
    with pytest.raises(DataError, match="no figure 'pie'"):
        draw(_table(tmp_path))
