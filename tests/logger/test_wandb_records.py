"""What a W&B run holds, read back from the files that wandb writes offline and sends later."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.logger.offline import of_kind, records

from meld.logger.wandb import WandbLogger, flatten

CONFIG = {"k": 3, "encoder": {"tau": 0.02, "path": "x"}, "path_steps": ["blk", "ed"], "transfer": {}, "seed": 0}
RUN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))


def _logged(folder: Path, logger: WandbLogger, run_id: str = RUN) -> Path:
    """One run with everything, and the file it left."""
    artifact = folder / "store" / "refine" / "abc"
    artifact.mkdir(parents=True)
    (artifact / "adapter.json").write_text("{}")
    sink = logger.open(folder / "run", CONFIG, "k=3", "a_sweep", run_id)
    sink.summary({"em/abt_buy/f1": 0.75, "cost/encode/seconds": 3.5})
    sink.table("predictions/abt_buy.em", pd.DataFrame({"query_id": ["q1"], "experts": [("a", "b")]}))
    sink.artifacts({"refine.abt_buy.em": artifact})
    sink.finish()
    (file,) = (folder / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    return file


def test_a_run_holds_config_results_tables_and_references(tmp_path: Path) -> None:
    file = _logged(tmp_path, WandbLogger(mode="offline"))
    (run,) = of_kind(file, "run")
    assert (run.run_id, run.display_name, run.run_group) == (RUN, "k=3", "a_sweep")
    config = {entry.key: json.loads(entry.value_json) for entry in run.config.update if entry.key != "_wandb"}
    assert config == {"k": 3, "encoder.tau": 0.02, "encoder.path": "x", "path_steps": ["blk", "ed"], "transfer": {}} | {
        "seed": 0
    }
    said = {
        entry.key or "/".join(entry.nested_key): entry.value_json
        for summary in of_kind(file, "summary")
        for entry in summary.update
    }
    assert json.loads(said["em/abt_buy/f1"]) == 0.75
    assert json.loads(said["cost/encode/seconds"]) == 3.5
    (made,) = (a for a in of_kind(file, "artifact") if a.type == "meld-run")
    assert json.loads(made.metadata) == {"refine.abt_buy.em": "refine/abc"}
    (content,) = made.manifest.contents
    assert content.path == "refine.abt_buy.em/adapter.json"
    assert content.ref == (tmp_path / "store" / "refine" / "abc" / "adapter.json").as_uri()
    assert not content.local_path  # nothing is copied
    (table,) = (file.parent / "files").rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["q1", "('a', 'b')"]]


def test_references_can_be_kept_back(tmp_path: Path) -> None:
    file = _logged(tmp_path, WandbLogger(mode="offline", references=False))
    assert not [a for a in of_kind(file, "artifact") if a.type == "meld-run"]
    assert str(tmp_path / "store").encode() not in file.read_bytes()


def test_under_an_agent_the_run_is_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    file = _logged(tmp_path, WandbLogger(mode="offline"))
    assert of_kind(file, "run")[0].run_id == "fromagent"


def test_records_cross_blocks(tmp_path: Path) -> None:
    """The reader of these tests is right about records longer than a block."""
    sink = WandbLogger(mode="offline").open(tmp_path, {"long": "x" * 100_000, "k": 1}, "run", None, RUN)
    sink.finish()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    config = {entry.key: entry.value_json for entry in of_kind(file, "run")[0].config.update}
    assert json.loads(config["long"]) == "x" * 100_000
    assert len(list(records(file))) > 2


def test_flat_keys_are_overrides() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


def test_the_native_sweep_file_makes_commands_that_compose() -> None:
    """wandb's agent would run these words; every one of them is an override that the configuration knows."""
    from hydra import compose, initialize_config_dir
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    from meld.config.presets import shipped
    from meld.config.schema import register_schema

    sweep = yaml.safe_load((Path(__file__).parents[2] / "docs" / "wandb_sweep.yaml").read_text())
    chosen = {
        name: {"value": spec.get("value", spec.get("values", [None])[-1])} for name, spec in sweep["parameters"].items()
    }
    words = []
    for word in create_sweep_command(sweep["command"]):
        words += (
            create_sweep_command_args({"args": chosen})["args_no_hyphens"] if word == "${args_no_hyphens}" else [word]
        )
    assert words[0] == "meld"
    register_schema()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = compose("meld", overrides=words[1:])
    assert config.k == 6
    assert config.logger._target_ == "meld.logger.wandb.WandbLogger"
