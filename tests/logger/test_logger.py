"""Loggers: what they write, that a Trainer can use them, and that no secret gets out."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meld.errors import ConfigError
from meld.logger.base import REDACTED, LightningSink, MetricSink, scrub
from meld.logger.csv import CsvLogger
from meld.logger.none import NoLogger
from meld.logger.tensorboard import TensorBoardLogger
from meld.logger.wandb import WandbLogger, has_key

CONF = Path(__file__).parents[2] / "conf" / "logger"
FRAME = pd.DataFrame({"dataset": ["a", "b|c"], "f1": [0.5, 0.25], "odd": [None, ["x"]]})
SECRET = "hf_0123456789abcdefSECRET"
RUN = "0123456789abcdef"


def use(sink: MetricSink) -> None:
    sink.log({"loss": 0.5, "lr": 1e-4}, 0, "encode/suite")
    sink.log({"loss": 0.25}, 1, "encode/suite")
    sink.log({"loss": 7.0}, 0, "init/abt_buy.em")
    sink.summary({"abt_buy.em/f1": 0.7123})
    sink.table("results", FRAME)
    sink.finish()


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


def test_csv_is_long_and_continues(tmp_path: Path) -> None:
    for _ in range(2):
        use(CsvLogger().open(tmp_path, {}, "run", None, RUN))
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["prefix", "step", "metric", "value"]
    assert rows[1:6] == [
        ["encode/suite", "0", "loss", "0.5"],
        ["encode/suite", "0", "lr", "0.0001"],
        ["encode/suite", "1", "loss", "0.25"],
        ["init/abt_buy.em", "0", "loss", "7.0"],
        ["summary", "", "abt_buy.em/f1", "0.7123"],
    ]
    assert rows[6:] == rows[1:6]
    assert list(pd.read_csv(tmp_path / "tables" / "results.csv")["f1"]) == [0.5, 0.25]


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    sink = CsvLogger().open(tmp_path, {}, "run", None, RUN)
    sink.log({"loss": 1.0}, 0, "p")
    assert (tmp_path / "metrics.csv").read_text().endswith("p,0,loss,1.0\n")
    sink.finish()


@pytest.mark.parametrize("name", ["../../outside", "/etc/x", "..", ""])
def test_table_names_cannot_leave_the_run_directory(tmp_path: Path, name: str) -> None:
    run = tmp_path / "deep" / "run"
    sink = CsvLogger().open(run, {}, "run", None, RUN)
    sink.table(name, FRAME)
    sink.finish()
    assert len(list((run / "tables").glob("*.csv"))) == 1
    assert sorted(p.name for p in tmp_path.rglob("*.csv")) == sorted(p.name for p in run.rglob("*.csv"))


def test_none_writes_nothing(tmp_path: Path) -> None:
    use(NoLogger().open(tmp_path / "run", {}, "run", None, RUN))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_points_and_config_without_secrets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    use(TensorBoardLogger().open(tmp_path, {"k": 3, "hub": {"api_key": SECRET}}, "run", None, RUN))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("encode/suite/loss")] == [(0, 0.5), (1, 0.25)]
    assert events.Scalars("summary/abt_buy.em/f1")[0].value == pytest.approx(0.7123)
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())


def test_tensorboard_counts_what_has_no_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardLogger().open(tmp_path, {}, "run", None, RUN)
    for value in (1.0, 2.0, 3.0):
        sink.log({"x": value}, None, "")
    sink.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(0, 1.0), (1, 2.0), (2, 3.0)]


def whole(file: Path, last: bytes) -> bytes:
    """The file once W&B's background process has written what was logged last; as it is after 60 seconds."""
    deadline = time.monotonic() + 60
    while last not in (content := file.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return content


def test_wandb_offline_makes_one_run_per_job_and_keeps_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("sys.argv", ["meld", f"+endpoint.api_key={SECRET}"])
    config = {"k": 3, "max_prompt_tokens": 512, "endpoint": {"api_key": SECRET, "url": f"https://x/?t={SECRET}"}}
    with caplog.at_level(logging.WARNING):
        for job in ("k=1", "k=2"):
            use(WandbLogger(mode="online").open(tmp_path / job, config, job, "sweep_over_k", RUN + job[-1]))
    said = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert len(said) == 2
    assert all("offline" in line and "\n" not in line for line in said)
    ids = set()
    for job, other in (("k=1", "k=2"), ("k=2", "k=1")):
        (file,) = (tmp_path / job / "wandb").glob("offline-run-*/run-*.wandb")
        ids.add(file.stem)
        content = whole(file, b"0.7123")
        for expected in (job, "sweep_over_k", "max_prompt_tokens", "512", "encode/suite/loss", "0.25", "0.7123"):
            assert expected.encode() in content, expected
        assert other.encode() not in content
    assert len(ids) == 2
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert SECRET.encode() not in path.read_bytes(), path


def test_wandb_refuses_an_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="mode"):
        WandbLogger(mode="sometimes")


def test_a_key_is_found_where_wandb_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine example.org login u password p\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert has_key()
    netrc.write_text("this is { no netrc", encoding="utf-8")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "   ")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_key()


@pytest.mark.parametrize("key", ["api_key", "apikey", "HF_TOKEN", "hub-password", "clientSecret", "credentials"])
def test_scrub_hides_text_under_secret_keys_at_any_depth(key: str) -> None:
    assert scrub({"a": [{key: "v", "b": {"c": 1}}]}) == {"a": [{key: REDACTED, "b": {"c": 1}}]}
    assert scrub({key: {"inner": ["v"]}}) == {key: {"inner": [REDACTED]}}
    assert scrub({key: 512, "n": None}) == {key: 512, "n": None}


def test_scrub_hides_values_of_secret_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("MY_PIN_SECRET", "abc")  # too short to look for in other text
    assert scrub({"url": f"http://u:{SECRET}@h/abc"}) == {"url": f"http://u:{REDACTED}@h/abc"}


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_scrub_leaves_harmless_configs_as_they_are(value: Any) -> None:
    assert scrub(value) == value


def test_a_trainer_logs_through_the_adaptor(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Tiny(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), batch_size=2)
    sink = CsvLogger().open(tmp_path, {}, "run", None, RUN)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=LightningSink(sink, "encode/suite"),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
    )
    trainer.fit(Tiny(), data)
    sink.log({"after": 1.0}, None, "")  # the sink outlives the training
    sink.finish()
    frame = pd.read_csv(tmp_path / "metrics.csv")
    assert list(frame[frame.metric == "loss"].step) == [0, 1, 2, 3]
    assert set(frame[frame.metric == "loss"].prefix) == {"encode/suite"}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_builds_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    options = yaml.safe_load(text)
    module, _, name = options.pop("_target_").rpartition(".")
    built = getattr(__import__(module, fromlist=[name]), name)(**options)
    assert callable(built.open)


def test_all_five_options_exist() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {"csv", "none", "tensorboard", "wandb", "wandb_offline"}
