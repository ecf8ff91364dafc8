"""Reports: what they show, that hostile values stay text, comparisons and status."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from meld.cli.verbs import show_report
from meld.errors import UserError
from meld.report import html
from meld.report.console import costs_table, duration, results_table
from meld.report.results import Costs, Failure, read_costs, read_results, write_results
from meld.report.status import job_states, show_status
from meld.report.sweep import build, compare, find_runs

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(table: Any, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def test_report_shows_every_part(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "my run")
    page = Page(build(run).read_text(encoding="utf-8"))
    for expected in (
        "my run", "0123456789abcdef", "real_small", "Synthetic data:", "quick_products", "0.712", "mutual_nn",
        "0.689 – 0.735", "19,600", "Which expert answers what",
        "0.71", "Selected training data", "120 of 300", "Time per stage",
        "10 min 11 s",
        "Answers, wrong and right", "A:9|B:63", "torch", "meld suite=real_small method=meld", "entity matching",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert build(run).read_bytes() == (run / "report.html").read_bytes()


def test_report_needs_only_results(tmp_path: Path, make_run: MakeRun) -> None:
    page = Page(build(make_run(tmp_path / "r", parts=False)).read_text(encoding="utf-8"))
    assert "0.712" in page.text
    assert "Time per stage" not in page.text
    assert "Which expert" not in page.text


HOSTILE = "</pre></td><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\x00\"'"


def test_hostile_values_stay_text_and_nothing_is_fetched(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", hostile=HOSTILE, suite=HOSTILE, note=HOSTILE)
    text = build(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    (run / "x").mkdir()
    sweep = build(make_run(tmp_path / "sweep" / HOSTILE.replace("/", "_").replace("\x00", ""), suite=HOSTILE).parent)
    assert not {"script", "img"} & set(Page(sweep.read_text(encoding="utf-8")).tags)


def test_positions_in_charts_are_the_numbers(tmp_path: Path, make_run: MakeRun) -> None:
    text = build(make_run(tmp_path / "r", parts=False)).read_text(encoding="utf-8")
    marks = [float(x) for x in re.findall(r'<b style="left:([\d.]+)%"', text)]
    shown = [float(x) for x in re.findall(r'<div class="number">([\d.]+)</div>', text)]
    assert len(marks) == len(shown) == 16
    assert marks == pytest.approx([100 * value for value in shown])
    for left, width in re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%"', text):
        assert 0 <= float(left) <= float(left) + float(width) <= 100.01


def test_answers_are_counted_and_the_most_confident_mistakes_come_first(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r")
    answers = html._answers(run / "predictions" / "abt_buy.em.parquet")
    frame = pd.read_parquet(run / "predictions" / "abt_buy.em.parquet")
    assert (answers.total, answers.right) == (40, int(frame["correct"].sum()))
    scores = [float(a.score) for a in answers.wrong_samples]
    assert scores == sorted(scores, reverse=True)
    assert max(frame[~frame["correct"]]["score"]) == scores[0]
    assert all(a.output == "match" for a in answers.right_samples)


def test_an_empty_or_unanswered_prediction_table_is_shown(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", parts=False)
    (run / "predictions").mkdir()
    one = {
        "query_id": ["u.em/1"], "output": [None], "score": [float("nan")], "status": ["invalid"], "experts": [[]],
        "weights": [[]], "gold": [["match", "other"]], "correct": [False], "query": ["A: x\nB: y"],
    }  # fmt: skip
    pd.DataFrame(one).to_parquet(run / "predictions" / "u.em.parquet")
    pd.DataFrame(one).iloc[:0].to_parquet(run / "predictions" / "v.em.parquet")
    text = Page(build(run).read_text(encoding="utf-8")).text
    assert "(no answer)" in text
    assert "match | other" in text
    assert "A: x" in text
    assert "0 of 0 answers right" in text


def test_stage_times_are_in_order_and_reuse_is_apart(tmp_path: Path, make_run: MakeRun) -> None:
    costs = read_costs(make_run(tmp_path / "r"))
    assert costs is not None
    times = html.stage_times(Costs(costs.stages[::-1], 1.0))
    assert [t.stage for t in times][:5] == ["data", "serialize", "encode", "annotate", "init"]
    encode = next(t for t in times if t.stage == "encode")
    assert (encode.here, encode.reused, encode.artifacts) == (0.0, 214.0, 2)
    assert max(t.here_share + t.reused_share for t in times) == pytest.approx(100)
    assert sum(t.here + t.reused for t in times) == pytest.approx(sum(c.seconds for c in costs.stages))


def test_console_tables(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", hostile="x")
    results = read_results(run)
    text = printed(results_table(results))
    assert "synthetic data" in text
    assert re.search(r"abt_buy +│ em +│ meld +│ f1 +│ 0\.712 │ \[0\.689, 0\.735\] │ +1,916", text)
    assert text.index("meld ") < text.index("majority")
    assert "precision" not in printed(results_table(results, all_metrics=False))
    costs = read_costs(run)
    assert costs is not None
    assert re.search(r"encode +│ +2 │ +2 │ +3 min 34 s │ +0\.0 s │ +914 MB", printed(costs_table(costs)))


def test_console_shows_markup_in_names_as_it_is(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", parts=False, suite="[bold]x[/nothing]")
    assert "[bold]x[/nothing]" in printed(results_table(read_results(run)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def sweep_of(root: Path, make_run: MakeRun) -> Path:
    for k in (1, 2, 10):
        for seed in (0, 1):
            make_run(root / f"k={k},seed={seed}", k=k, seed=seed, shift=-0.1 / k + 0.02 * seed, parts=False)
    return root


def test_comparison_finds_what_varies_and_averages_over_seeds(tmp_path: Path, make_run: MakeRun) -> None:
    root = sweep_of(tmp_path / "s", make_run)
    found = compare(root, find_runs(root))
    assert (found.varying, found.seeds) == (("k",), ("seed",))
    assert [line.label for line in found.lines] == ["k=1", "k=2", "k=10", "majority", "mutual_nn", "similarity_lr"]
    column = ("abt_buy", "em", "f1")
    # Mean and deviation of 0.612 and 0.632; the interval is about that of one run (± 0.023) and that of the seeds.
    shown = re.fullmatch(r"0\.622 ± 0\.014 \[(0\.\d{3}), (0\.\d{3})\]", found.lines[0].cell(column))
    assert shown is not None
    assert [float(end) for end in shown.groups()] == pytest.approx([0.592, 0.652], abs=0.006)
    assert found.lines[4].cell(column) == "0.681 [0.658, 0.704]"
    assert found.lines[4].cell(("hospital", "dc", "f1")) == "–"


def test_a_sweep_gets_a_page_a_markdown_and_a_csv(tmp_path: Path, make_run: MakeRun) -> None:
    root = sweep_of(tmp_path / "s", make_run)
    (root / "k=99,seed=0").mkdir()
    (root / "k=99,seed=0" / "config.yaml").write_text("k: 99")
    page = Page(build(root).read_text(encoding="utf-8"))
    assert "k=99,seed=0 (waiting)" in page.text
    assert "6 finished runs over k, repeated over seed" in " ".join(page.text.split())
    lines = (root / "comparison.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| 1 | 0.622 ± 0.014 [0.594, 0.652] | ")
    frame = pd.read_csv(root / "comparison.csv")
    assert len(frame) == 6 * 4
    own = frame[(frame.system == "meld") & (frame.k == 2) & (frame.seed == 1)]
    assert own["abt_buy.em.f1"].item() == pytest.approx(0.682)
    assert own["abt_buy.em.f1.low"].item() < 0.682 < own["abt_buy.em.f1.high"].item()
    assert build(root).read_text(encoding="utf-8").count("<tr") == page.tags.count("tr")


def test_runs_that_differ_in_nothing_are_named_by_their_directory(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "s" / "only", parts=False)
    found = compare(tmp_path / "s", find_runs(tmp_path / "s"))
    assert found.lines[0].label == "only"
    build(tmp_path / "s")
    assert (tmp_path / "s" / "comparison.md").read_text(encoding="utf-8").splitlines()[2].startswith("| only | 0.712 [")


def test_config_values_with_a_bar_do_not_break_the_table(tmp_path: Path, make_run: MakeRun) -> None:
    for selector in ("a|b", "<i>c\nd</i>"):
        make_run(tmp_path / "s" / str(len(selector)), parts=False, selector=selector)
    build(tmp_path / "s")
    table = [x for x in (tmp_path / "s" / "comparison.md").read_text(encoding="utf-8").splitlines() if x[:1] == "|"]
    assert len({re.sub(r"\\\|", "", line).count("|") for line in table}) == 1
    assert "<i>" not in "".join(table)


def test_units_that_failed_are_told_everywhere(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "s" / "k=1", k=1, parts=False)
    results = read_results(run)
    assert results.failures == ()
    assert "failures" not in json.loads((run / "results.json").read_text())
    broken = [Failure("walmart", task, "data", "no <file>", "/somewhere/private", "get it") for task in ("em", "blk")]
    broken.append(Failure("buy", "di", "init", "KeyError: [x]"))
    kept = [row for row in results.rows if row.dataset != "restaurant"]
    write_results(run, results.config, results.config_hash, kept, broken)
    assert "/somewhere/private" not in (run / "results.json").read_text()
    again = read_results(run)
    assert [failure.unit for failure in again.failures] == ["walmart.em", "walmart.blk", "buy.di"]
    text = printed(results_table(again), width=200)
    assert re.search(r"walmart +│ blk +│ failed +│ data", text)
    assert re.search(r"walmart\.em, walmart\.blk failed: no <file> *\n  fix: get it", text)
    assert "buy.di failed: KeyError: [x]" in text
    assert "walmart.em, walmart.blk failed: no <file>" in " ".join(Page(build(run).read_text()).text.split())
    make_run(tmp_path / "s" / "k=2", k=2, parts=False)
    build(tmp_path / "s")
    assert "buy.di failed in k=1" in (tmp_path / "s" / "comparison.md").read_text()


def test_tables_of_several_runs_are_told_apart(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        make_run(tmp_path / name, parts=False)
    show_report(tmp_path)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line in ("first", "second")] == ["first", "second"]


def test_a_directory_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No finished run"):
        build(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        build(tmp_path / "nowhere")


def write_status(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc)
    base = {
        "state": "running", "stage": "encode", "done": 2, "total": 12,
        "started": (now - timedelta(seconds=90)).isoformat(),
        "updated": now.isoformat(), "command": "meld -m k=1,2", "error": None,
        "pid": os.getpid(), "host": socket.gethostname(),
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps({**base, **content}), encoding="utf-8")


def shown_status(folder: Path, width: int) -> str:
    out = StringIO()
    show_status(folder, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_command_to_continue_is_one_line_to_paste(tmp_path: Path) -> None:
    words = ["meld", "experiment=tab7_ablation", "sweep=[seeds,joblib]", "hydra.sweep.dir='my sweeps/ü'", "k=1"]
    command = shlex.join(words)
    write_status(tmp_path / "job=1", state="failed", command=command)
    line = next(line for line in shown_status(tmp_path, 60).splitlines() if line.startswith("continue with: "))
    assert shlex.split(line.removeprefix("continue with: ")) == words


def test_status_tells_the_states_apart(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
        gone = process.pid
    write_status(tmp_path / "job=1")
    write_status(tmp_path / "job=2", state="done", stage="report", done=12)
    write_status(tmp_path / "job=3", state="failed", error="CSV has no column [red]id[/red]", stage="data")
    write_status(tmp_path / "job=4", pid=gone)
    write_status(tmp_path / "job=5", pid=gone, host="another-machine")
    write_status(tmp_path / "job=6", pid=None)
    yesterday = (datetime.now(timezone.utc) - timedelta(days=1)).isoformat()
    write_status(tmp_path / "job=7", updated=yesterday)  # this process is younger than what it is said to have written
    (tmp_path / "job=10").mkdir()
    (tmp_path / "job=10" / "config.yaml").write_text("k: 1")
    (tmp_path / "job=11").mkdir()
    (tmp_path / "job=11" / "status.json").write_text("{ half")
    states = {job.name: job.state for job in job_states(tmp_path)}
    expected = ["running", "done", "failed", "killed", "running", "killed", "killed", "waiting", "failed"]
    assert list(states.values()) == expected
    assert list(states)[-2:] == ["job=10", "job=11"]
    text = shown_status(tmp_path, 160)
    assert "running on another-machine" in text
    assert "CSV has no column [red]id[/red]" in text
    assert text.count("meld -m k=1,2") == 1
    assert "encode 2/12" in text
    assert "1 min 30 s" in text


def test_a_zombie_is_not_running(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        deadline = datetime.now(timezone.utc) + timedelta(seconds=20)
        states = ["running"]
        while states == ["running"] and datetime.now(timezone.utc) < deadline:
            write_status(tmp_path, pid=process.pid)
            states = [job.state for job in job_states(tmp_path)]
        assert states == ["killed"]
    finally:
        process.wait()


def test_status_of_a_single_run_and_of_nothing(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", parts=False)
    (job,) = job_states(run)
    assert (job.name, job.state) == (".", "done")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No run was found"):
        job_states(tmp_path / "empty")
    with pytest.raises(UserError, match="no such directory"):
        show_status(tmp_path / "nowhere")
