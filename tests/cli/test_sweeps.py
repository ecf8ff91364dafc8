"""From a command to its jobs: grids of presets and of the command line, directories, records."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld.cli.main import main
from meld.cli.names import JOB_DIRECTORY
from meld.cli.sweeps import arrange, swept_values
from meld.errors import ConfigError
from meld.report.paper import row_name
from meld.report.record import SweepRecord, read_job, read_record, withdraw_record, write_job, write_record

ROWS = ("full", "wo_moe", "wo_rag", "wo_metapath")


def _arranged(*words: str) -> tuple[tuple[str, ...], SweepRecord, Path]:
    found = arrange(words, "meld " + " ".join(words))
    assert found.multirun
    assert found.record is not None
    assert found.folder is not None
    return found.words, found.record, found.folder


def test_a_single_run_is_named_by_its_overrides() -> None:
    found = arrange(["k=2", "dry_run=true", "force=infer"], "meld k=2")
    assert not found.multirun
    assert found.dry
    assert found.record is None
    assert found.words[:3] == ("k=2", "dry_run=true", "force=infer")
    assert found.words[3].startswith("hydra.run.dir='${paths.runs}/k=2-")
    assert arrange(["k=2"], "").words[-1] == found.words[-1]


def test_a_preset_is_a_sweep_without_a_flag() -> None:
    words, record, folder = _arranged("experiment=tab7_ablation")
    assert words[:3] == ("--multirun", "experiment=tab7_ablation", "variant=" + ",".join(ROWS))
    assert record.experiment == "tab7_ablation"
    assert record.grid == {"variant": ROWS}
    assert record.rows == ("variant",)
    assert record.jobs == 4
    assert record.paper["reference"] == "full"
    assert folder.name.startswith("experiment=tab7_ablation,variant=full,wo_moe,wo_rag,wo_metapath-")
    assert f"hydra.sweep.subdir='{JOB_DIRECTORY}'" in words


def test_a_sweep_preset_repeats_an_experiment_and_its_seeds_vary_slowest() -> None:
    _, record, folder = _arranged("experiment=tab7_ablation", "sweep=seeds")
    assert list(record.grid.items()) == [("seed", ("0", "1", "2")), ("variant", ROWS)]
    assert (record.rows, record.seeds, record.jobs) == (("variant",), ("seed",), 12)
    # The launcher and what is computed of it are no part of the name; the scale is.
    assert _arranged("experiment=tab7_ablation", "sweep=[seeds,joblib]")[2] == folder
    assert _arranged("experiment=tab7_ablation", "sweep=seeds", "until=init")[2] == folder
    assert _arranged("experiment=tab7_ablation", "sweep=seeds", "scale=paper")[2] != folder


def test_the_command_line_replaces_a_presets_values() -> None:
    words, record, _ = _arranged("experiment=tab7_ablation", "variant=full,wo_rag", "seed=5")
    assert record.grid == {"variant": ("full", "wo_rag")}
    assert sum(word.startswith("variant=") for word in words) == 1
    words, record, _ = _arranged("experiment=tab7_ablation", "variant=wo_rag")
    assert record.grid == {"variant": ("wo_rag",)}
    assert "hydra.sweep.subdir=run" in words


def test_a_plain_multirun_is_recorded_too() -> None:
    words, record, folder = _arranged("-m", "k=1,2", "seed=range(0,3)", "method=meld_ds")
    assert record.grid == {"k": ("1", "2"), "seed": ("0", "1", "2")}
    assert record.experiment is None
    assert record.rows == ("k",)
    assert folder.name.startswith("k=1,2,seed=range_0,3_,method=meld_ds-")
    assert "--multirun" not in words
    assert arrange(["k=1,2"], "").multirun is False  # Hydra says what to do about it


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_flag_may_stand_anywhere(at: int) -> None:
    words = ["k=1,2", "method=meld_ds"]
    words.insert(at, "-m")
    found, record, _ = _arranged(*words)
    assert found[0] == "-m"
    assert found.count("-m") + found.count("--multirun") == 1
    assert record.grid == {"k": ("1", "2")}


def test_a_dry_run_stays_in_this_process() -> None:
    callback = "+hydra.callbacks.in_process._target_=meld.cli.in_process.InProcess"
    assert callback in _arranged("experiment=tab7_ablation", "sweep=joblib", "dry_run=true")[0]
    assert callback not in _arranged("experiment=tab7_ablation", "sweep=joblib")[0]


def test_several_presets_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sweep=\[seeds,joblib\]"):
        arrange(["experiment=tab7_ablation", "sweep=seeds,joblib"], "")
    with pytest.raises(ConfigError, match="experiment=tab7_ablation"):
        arrange(["experiment=tab7_ablatoin"], "")


def test_what_is_swept_comes_first_in_a_name() -> None:
    tail = ("backbone.max_prompt_tokens=128", "annotator.max_pseudo=11", "datasets.hospital.max_test=30")
    assert _arranged("experiment=fig8_num_experts", *tail)[2].name.startswith(
        "experiment=fig8_num_experts,k=1,2,3,4,5,6,annotator"
    )


def test_what_scales_cannot_share_is_chosen_by_the_scale() -> None:
    small, large = (
        _arranged("experiment=tab6_transfer", f"scale={scale}")[1].grid["transfer.targets"]
        for scale in ("cpu", "paper")
    )
    assert "[t2dv2.cta]" in small
    assert "[semtab19.cta]" in large
    assert len(small) == len(large) == 6


def test_one_value_of_a_key_that_makes_rows_makes_its_row() -> None:
    words, record, _ = _arranged("experiment=tab7_ablation", "variant=wo_rag", "sweep=seeds")
    assert record.grid == {"seed": ("0", "1", "2"), "variant": ("wo_rag",)}
    assert row_name({"seed": "0", "variant": "wo_rag"}, record) == "wo_rag"
    words, record, _ = _arranged("experiment=fig8_num_experts", "k=2")
    assert record.grid == {"k": ("2",)}
    assert "hydra.sweep.subdir=run" in words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "router=glob(*)"], "does not list its values"),
        (["-m", "tau=interval(0,1)"], "does not list its values"),
        (["-m", "k=1,1,2"], "lists 1 more than once"),
        (["-m", "k=1,2", "k=3"], "k is given more than once: k=1,2 k=3"),
        (["-m", "k=1,2", "hydra.sweep.dir=${paths.runs}/x"], "write the folder out"),
        (["experiment=ext_backbone", "scale=cpu,paper"], "one command for each scale"),
        (["experiment=fig8_num_experts", "sweep=[seeds,seads]"], "sweep=seeds"),
        (["sweep=[seeds,k_d]"], "options are: B, c, joblib"),
    ],
)
def test_sweeps_that_could_not_be_told_afterwards_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arrange(words, "")
    assert said in str(caught.value)


def test_sweeps_of_ones_own_may_mix_scales_and_ask_by_the_mode() -> None:
    assert _arranged("sweep=seeds", "scale=cpu,paper")[1].grid["scale"] == ("cpu", "paper")
    words, record, _ = _arranged("hydra.mode=MULTIRUN", "k=1,2")
    assert words[0] == "--multirun"
    assert record.grid == {"k": ("1", "2")}


def test_a_value_keeps_the_spaces_that_are_part_of_it() -> None:
    assert _arranged("-m", "datasets.x.path='a b.csv','c d.csv'")[1].grid["datasets.x.path"] == ("a b.csv", "c d.csv")


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").write_text("a file", encoding="utf-8")
    assert main(["-m", "k=1,2"]) == 2
    said = capsys.readouterr().err
    assert "outputs/sweeps" in said
    assert "Traceback" not in said


def test_a_sweep_that_is_refused_leaves_nothing_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "kk=1,2"]) == 2
    assert "did you mean k?" in capsys.readouterr().err
    assert not list((tmp_path / "outputs" / "sweeps").iterdir())


def test_a_record_is_withdrawn_only_while_no_job_has_begun(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    write_record(folder, SweepRecord("meld -m", None, {"k": ("1",)}))
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    withdraw_record(folder)
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]
    write_record(folder, SweepRecord("meld -m", None, {"k": ("1",)}))
    write_job(folder / "k=1", {"k": "1"})
    withdraw_record(folder)
    assert read_record(folder) is not None


def test_swept_values_of_a_job() -> None:
    job = ["experiment=tab7_ablation", "seed=1", "selector.terms=[diversity, quality]", "+new=3"]
    assert swept_values(job, ["seed", "selector.terms", "new", "absent"]) == {
        "seed": "1",
        "selector.terms": "[diversity,quality]",
        "new": "3",
    }


def test_records_are_read_back(tmp_path: Path) -> None:
    record = SweepRecord("meld -m", "tab7", {"seed": ("0", "1"), "k": ("2",)}, {"rows": ["k"], "title": "T"})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "absent") is None
    write_job(tmp_path, {"k": "2"})
    assert read_job(tmp_path) == {"k": "2"}
    assert read_job(tmp_path / "absent") == {}


def test_a_word_that_is_no_override_is_named_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match="'outputs/b' is not of the form key=value"):
        arrange(["-m", "k=1,2", "paths.store=outputs/a", "outputs/b"], "")
    arrange(["-m", "k=1,2", "~experiment"], "")
