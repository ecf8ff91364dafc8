"""The page that is kept of a sweep: every seed, the baselines, no folder of the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from meld.cli.verbs import run_report
from meld.errors import DataError, UserError
from meld.report.kept import kept_page, portable
from meld.report.record import SweepRecord, write_job, write_record
from meld.report.results import rows_of, write_environment, write_json, write_results
from meld.types import Score

COMMAND = (
    "meld experiment=tab7_ablation paths.data=/home/me/data 'hydra.sweep.dir=/home/me/x y' sweep=seeds "
    "limits.samples=300"
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two rows; the second has run with one of two seeds."""
    folder = tmp_path / "sweep"
    grid = {"seed": ("0", "1"), "variant": ("full", "wo_moe")}
    paper = {"rows": ["variant"], "reference": "full", "table": "tab7_ablation", "labels": {"full": "MELD"}}
    write_record(folder, SweepRecord(COMMAND, "tab7_ablation", grid, paper))
    for seed, variant, value in (("0", "full", 0.75), ("1", "full", 0.5), ("1", "wo_moe", 0.25)):
        job = folder / f"seed={seed},variant={variant}"
        rows = rows_of("abt_buy", "em", "meld", [Score("f1", value, 40, 0.1, 0.9, main=True)], "0" * 16)
        rows += rows_of("abt_buy", "em", "mutual_nn", [Score("f1", 0.4, 40, 0.3, 0.5, main=True)], "0" * 16)
        write_results(job, {"method": "meld", "synthetic": []}, "0" * 16, rows)
        write_job(job, {"seed": seed, "variant": variant})
        write_environment(job, {"seed": int(seed), "data_seed": 0})
        write_json(job / "status.json", {"state": "done", "updated": f"2026-11-2{seed}T10:00:00+00:00"})
    return folder


def test_the_page_has_every_seed_the_baselines_and_where_it_comes_from(sweep: Path) -> None:
    lines = kept_page(sweep).splitlines()
    assert "| abt_buy | em | MELD | 75.0 | 50.0 |" in lines
    assert "| abt_buy | em | variant=wo_moe | – | 25.0 |" in lines
    assert "| abt_buy | em | f1 | mutual_nn | 40.0 | 2 |" in lines
    assert any("jobs finished 2026-11-20 to 2026-11-21." in line for line in lines)
    assert any("torch" in line for line in lines[-3:])
    # Sets that were not measured are no business of a page about what was.
    assert not any("walmart_amazon" in line for line in lines)


def test_one_seed_is_in_the_table_and_in_no_list_of_seeds(sweep: Path) -> None:
    assert "### Seed by seed" in kept_page(sweep)
    for job in sweep.glob("seed=0,*"):
        shutil.rmtree(job)
    assert "### Seed by seed" not in kept_page(sweep)


def test_the_page_names_no_folder(sweep: Path) -> None:
    page = kept_page(sweep)
    assert "/home/me" not in page
    assert str(sweep) not in page
    assert "`meld experiment=tab7_ablation sweep=seeds limits.samples=300`" in page


@pytest.mark.parametrize("word", ["paths.store=/x", "++paths.data=/x", "+hydra.run.dir=/x", "hydra.sweep.subdir=/x"])
def test_places_are_no_part_of_a_command(word: str) -> None:
    assert portable(f"meld k=1 {word} 'path_steps=[blk, ed]'") == "meld k=1 'path_steps=[blk, ed]'"


def test_report_writes_the_page(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "page.md"
    assert run_report([str(sweep), "--page", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == kept_page(sweep)
    assert run_report([f"--page={page}", str(sweep)]) == 0
    assert "page:" in capsys.readouterr().out
    with pytest.raises(UserError, match="--page"):
        run_report([str(sweep), "--page"])
    with pytest.raises(UserError, match="cannot be written"):
        run_report([str(sweep), "--page", str(tmp_path)])


def test_a_job_whose_machine_is_not_known_is_said(sweep: Path) -> None:
    (sweep / "seed=1,variant=full" / "environment.json").unlink()
    assert "Of 1 of 3 jobs it is not recorded what they ran on." in kept_page(sweep)
    for file in sweep.glob("*/environment.json"):
        file.unlink()
    assert "Of 3 of 3 jobs" in kept_page(sweep)


def test_a_page_of_a_run_is_refused_before_anything_is_written(sweep: Path, tmp_path: Path) -> None:
    job = sweep / "seed=0,variant=full"
    with pytest.raises(UserError, match="--page is for sweeps"):
        run_report([str(job), "--page", str(tmp_path / "page.md")])
    assert not (job / "report.html").exists()


def test_nothing_finished_makes_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No job"):
        kept_page(tmp_path)
    write_record(tmp_path, SweepRecord("meld -m k=1,2", None, {"k": ("1", "2")}))
    with pytest.raises(DataError, match="No job"):
        kept_page(tmp_path)
