"""What reports say about selection: steps, reasons, overlap, and what it would cost at another scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from meld.report.selection import overlaps, run_ratio, scale_ratio, selected_ids, unit_selections
from meld.report.sweep import build

MakeRun = Callable[..., Path]

STEP = {
    "stage": "influence", "name": "gradients of the pool", "seconds": 2.0, "peak_memory_mb": 800.0, "model": "proxy",
    "parameters": 3_000_000, "tokens": 1000, "passes": 2.0, "stored_mb": 0.5,
}  # fmt: skip


def selected(run: Path, chosen: tuple[int, ...], reason: str = "low quality") -> Path:
    """Give a run a selection of a pool of ten items."""
    ranks = [chosen.index(i) + 1 if i in chosen else None for i in range(10)]
    (run / "selection").mkdir()
    pd.DataFrame(
        {
            "id": [f"abt_buy.em/{i}" for i in range(10)],
            "provenance": ["pseudo"] * 10,
            "rank": pd.array(ranks, dtype="Int64"),
            "diversity": [0.5 + i for i in range(10)],
            "quality": [0.25] * 10,
            "reason": ["" if r is not None else reason for r in ranks],
        }
    ).to_parquet(run / "selection" / "abt_buy.em.parquet")
    unit = {
        "pool": 10, "selected": len(chosen), "auxiliary": 2, "provenance": {"pseudo": {"pool": 10, "selected": 3}},
        "dropped": {reason: 10 - len(chosen)}, "steps": [STEP], "notes": {"damping": 0.01},
        "seconds": {"selection": 2.5, "training": 7.0}, "training_tokens": 900, "trained": 5,
    }  # fmt: skip
    (run / "selection.json").write_text(json.dumps({"selector": "meld_ds", "units": {"abt_buy.em": unit}}))
    return run


def test_a_report_shows_steps_reasons_and_terms(tmp_path: Path, make_run: MakeRun) -> None:
    hostile = "<script>x</script>"
    run = selected(make_run(tmp_path / "r", parts=False, selector="meld_ds"), (4, 0, 7), hostile)
    page = build(run).read_text(encoding="utf-8")
    for expected in (
        "gradients of the pool", "800 MB", "0.5 MB", "damping: 0.01", "First picks", "abt_buy.em/4", "30.0 %",
        "&lt;script&gt;x&lt;/script&gt; 7", "selection 2.5 s, training 7.0 s",
    ):  # fmt: skip
        assert expected in page, expected
    assert hostile not in page
    (unit,) = unit_selections(run)
    assert unit.terms == ("diversity", "quality")
    assert [item.rank for item in unit.first] == ["1", "2", "3"]
    assert [item.id for item in unit.first] == ["abt_buy.em/4", "abt_buy.em/0", "abt_buy.em/7"]
    assert len(unit.dropped) == 1
    assert unit.speed == pytest.approx(2 * 1000 * 2 * 3e6 / 2.0)
    # 1000 tokens twice through 0.5B, against training through 7B at two passes: 900 tokens for three picks and two
    # few-shot samples, 180 each, hence 2160 for all ten of the pool and those two.
    assert unit.at_scale == pytest.approx((1000 * 2 * 0.5 + 900 * 2 * 7) / (2160 * 2 * 7))
    assert run_ratio(run) == pytest.approx(unit.at_scale)


def test_the_ratio_of_a_run_adds_up_its_units() -> None:
    """A unit that read everything, and one whose selection cost a fifth of what it saved."""
    all_of_it = {"pool": 10, "selected": 10, "trained": 14, "training_tokens": 1400, "steps": []}
    part = {"pool": 10, "selected": 3, "trained": 3, "training_tokens": 300, "steps": [STEP]}
    proxy, expert = 1000 * 2 * 0.5, 2 * 7
    assert scale_ratio([all_of_it]) == pytest.approx(1.0)
    assert scale_ratio([part]) == pytest.approx((proxy + 300 * expert) / (1000 * expert))
    assert scale_ratio([all_of_it, part]) == pytest.approx((proxy + 1700 * expert) / (2400 * expert))
    assert scale_ratio([{"pool": 0, "selected": 0}]) is None
    # Rounds that mix in more than is told, and models that the papers name no size of.
    assert scale_ratio([{**part, "trained": 0}]) is None
    assert scale_ratio([{**part, "steps": [{**STEP, "model": "rater"}]}]) is None


def test_a_run_without_selection_has_no_section(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r", parts=False)
    assert unit_selections(run) == []
    assert selected_ids(run) == {}
    assert "Selected training data" not in build(run).read_text(encoding="utf-8")


def test_overlap_is_counted_within_equal_seeds() -> None:
    a, b = frozenset("abcd"), frozenset("cdef")
    runs = [
        ("meld_ds", "seed 0", {"u": a}),
        ("random", "seed 0", {"u": b, "v": b}),
        ("random", "seed 1", {"u": a}),  # nothing of another seed is compared
        ("less", "seed 2", {"u": a}),
    ]
    (found,) = overlaps(runs)
    assert (found.left, found.right) == ("meld_ds", "random")
    assert found.jaccard == pytest.approx(2 / 6)
    assert found.shared == pytest.approx(0.5)


def test_a_sweep_over_selectors_shows_where_they_agree(tmp_path: Path, make_run: MakeRun) -> None:
    for name, chosen in (("meld_ds", (1, 2, 3)), ("random", (3, 4, 5))):
        selected(make_run(tmp_path / "s" / name, parts=False, selector=name), chosen)
    page = build(tmp_path / "s").read_text(encoding="utf-8")
    assert "Where selectors agree" in page
    assert "0.200" in page
    assert "0.333" in page
    make_run(tmp_path / "t" / "one", parts=False, k=1)
    make_run(tmp_path / "t" / "two", parts=False, k=2)
    assert "Where selectors agree" not in build(tmp_path / "t").read_text(encoding="utf-8")
