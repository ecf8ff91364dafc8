"""Result and cost files: canonical bytes, reading back, gathering."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.errors import DataError, UserError
from meld.report import results
from meld.report.results import Cost, Row, load_results, read_costs, read_results, write_costs, write_results

MakeRun = Callable[..., Path]


def row(value: float = 0.5, **changes: object) -> Row:
    return dataclasses.replace(Row("d", "em", "meld", "f1", value, 10, 0.4, 0.6, True, "h"), **changes)  # type: ignore[arg-type]


def test_bytes_do_not_depend_on_order_or_on_digits_that_are_not_kept(tmp_path: Path) -> None:
    rows = [row(dataset=d, system=s, value=0.1 + 0.2) for d in "ab" for s in ("meld", "majority")]
    first = write_results(tmp_path / "1", {"k": 3, "c": 0.3}, "h", rows).read_bytes()
    random.Random(0).shuffle(rows)
    noisy = [dataclasses.replace(r, value=np.float64(0.3), ci_low=0.4 + 1e-12) for r in rows]
    assert write_results(tmp_path / "2", {"c": 0.3, "k": 3}, "h", noisy).read_bytes() == first
    assert b"0.30000000000000004" not in first
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == ["results.json"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    run = tmp_path_factory.mktemp("run")
    rows = [row(v, dataset=f"d{i}") for i, v in enumerate(values)]
    write_results(run, {"name": 'é\n"x"'}, "h", rows)
    found = read_results(run)
    assert [r.value for r in found.rows] == [round(v, 6) for v in values]
    assert found.config == {"name": 'é\n"x"'}
    before = (run / "results.json").read_bytes()
    assert write_results(run, found.config, found.config_hash, found.rows).read_bytes() == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_and_leave_the_old_file(tmp_path: Path, bad: float) -> None:
    write_results(tmp_path, {}, "h", [row()])
    with pytest.raises(ValueError, match="finite"):
        write_results(tmp_path, {}, "h", [row(bad)])
    assert read_results(tmp_path).rows == (row(),)


def test_two_rows_about_the_same_thing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two result rows"):
        write_results(tmp_path, {}, "h", [row(0.5), row(0.6)])


def test_the_run_comes_before_its_baselines_and_the_headline_first() -> None:
    rows = [
        row(system=s, metric=m, main=m == "f1")
        for s in ("majority", "meld_ds", "a")
        for m in ("recall", "precision", "f1")
    ]
    ordered = sorted(rows, key=results.reading_order)
    assert [r.system for r in ordered[::3]] == ["meld_ds", "a", "majority"]
    assert [r.metric for r in ordered[:3]] == ["f1", "precision", "recall"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"config": {}, "config_hash": "h", "rows": [{"x": 1}]}', "\xff"]
)
def test_a_damaged_file_is_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_results(tmp_path)
    assert "results.json" in str(caught.value)


def test_costs_keep_their_order_and_may_be_absent(tmp_path: Path) -> None:
    assert read_costs(tmp_path) is None
    stages = (Cost("encode", "", "k1", 1.5, 10.0, True), Cost("data", "a.em", "k2", 0.1, 5.0, False))
    write_costs(tmp_path, stages, 12.25)
    found = read_costs(tmp_path)
    assert found is not None
    assert found.stages == stages
    assert found.total_seconds == 12.25


def test_load_results_takes_runs_sweeps_files_and_globs(tmp_path: Path, make_run: MakeRun) -> None:
    for k in (1, 2):
        make_run(tmp_path / "sweeps" / "s" / f"k={k}", k=k, parts=False, task="clash")
    (tmp_path / "sweeps" / "s" / "k=1" / "artifacts").mkdir()
    (tmp_path / "sweeps" / "s" / "k=1" / "artifacts" / "loop").symlink_to(tmp_path, target_is_directory=True)
    sweep = load_results(str(tmp_path / "sweeps" / "s"))
    assert len(load_results(tmp_path / "sweeps" / "s" / "k=1")) * 2 == len(sweep)
    assert load_results(str(tmp_path / "sweeps" / "*" / "k=*")).equals(sweep)
    assert load_results(str(tmp_path / "sweeps" / "s" / "*" / "results.json")).equals(sweep)
    assert sorted(sweep["k"].unique()) == [1, 2]
    assert set(sweep["config.task"]) == {"clash"}
    assert "em" in set(sweep["task"])
    own = sweep[(sweep.run == "k=2") & (sweep.dataset == "abt_buy") & (sweep.task == "em") & (sweep.system == "meld")]
    assert own[own.main]["value"].item() == 0.712


def test_load_results_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No file or directory matches"):
        load_results(str(tmp_path / "nowhere*"))
    with pytest.raises(UserError, match=r"results\.json"):
        load_results(tmp_path)


def test_environment_is_no_part_of_the_results(tmp_path: Path) -> None:
    before = write_results(tmp_path, {"k": 3}, "h", [row()]).read_bytes()
    versions = json.loads(results.write_environment(tmp_path).read_text())["versions"]
    assert "torch" in versions
    assert (tmp_path / "results.json").read_bytes() == before
