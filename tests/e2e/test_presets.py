"""A preset through the command line: its jobs, its directory, its report, and what a repetition does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_experiment_is_a_sweep_that_ends_in_its_table(meld: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    command = ("experiment=tab7_ablation", "variant=full,wo_metapath", "trainer=debug", *tiny)
    planned = meld(*command, "dry_run=true")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "2 jobs by stage" in planned.stdout
    assert not list((tmp_path / "outputs" / "store").glob("[a-z]*/*/manifest.json"))

    done = meld(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table VII" in done.stdout
    assert "w/o meta-path" in done.stdout
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert sweep.name.startswith("experiment=tab7_ablation,variant=full,wo_metapath,")
    assert json.loads((sweep / "sweep.json").read_text())["experiment"] == "tab7_ablation"
    assert {job.name for job in sweep.iterdir() if job.is_dir()} == {"variant=full", "variant=wo_metapath"}
    assert {"report.html", "paper.md", "paper.tex", "paper.csv", "figure.png"} <= {
        file.name for file in sweep.iterdir()
    }

    before = (sweep / "paper.csv").read_bytes()
    again = meld(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (sweep / "paper.csv").read_bytes() == before


def test_a_dry_run_plans_in_this_process_whatever_the_launcher(
    meld: Run, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """The plans are added up here: a launcher with processes of its own would keep them."""
    planned = meld("-m", "sweep=joblib", "k=1,2", "dry_run=true", *tiny)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "2 jobs by stage" in planned.stdout
    assert "k=1" in planned.stdout
    assert not (tmp_path / "outputs" / "sweeps").exists()  # it leaves nothing behind


def test_a_job_has_a_directory_of_one_level_whatever_is_swept(meld: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """A group inside another has a slash in its name, and a path has several."""
    words = ("-m", "method=meld_ds", "selector/influence=batch,dot", "paths.store=a/b,c", "until=data", *tiny)
    planned = meld(*words, "dry_run=true")
    assert "paths.store=c,selector.influence=dot" in planned.stdout, planned.stdout + planned.stderr
    done = meld(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = {folder.name for folder in sweep.iterdir() if folder.is_dir()}
    assert jobs == {
        f"paths.store={store},selector.influence={influence}"
        for store in ("a.b", "c")
        for influence in ("batch", "dot")
    }
    status = json.loads(meld("status", str(sweep), "--json").stdout)
    assert {job["name"] for job in status["jobs"]} == jobs
    assert status["counts"]["done"] == 4
