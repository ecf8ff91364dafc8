"""A killed training run must end with the very weights of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from meld.progress import Silent
from meld.trainer.fit import EpochSeededBatches, LightningTrainer, SeededData


class Killed(Exception):
    """The simulated kill."""


class Net(L.LightningModule):
    """Dropout, an optimizer with state and a schedule: everything a resume could get wrong."""

    def __init__(self, kill_at: tuple[int, int] | None = None, dev_losses: tuple[float, ...] = ()) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.kill_at = kill_at
        self.dev_losses = dev_losses
        self.seen: list[tuple[int, list[int]]] = []
        self.weights: list[dict[str, Tensor]] = []

    def training_step(self, batch: list[int], batch_idx: int) -> Tensor:
        if self.kill_at == (self.current_epoch, batch_idx):
            raise Killed
        self.seen.append((self.current_epoch, batch))
        x = torch.tensor([[i, i % 2, i % 3, 1.0] for i in batch]) / 4
        return ((self.net(x)[:, 0] - x[:, 0].sin()) ** 2).mean()

    def validation_step(self, batch: list[int], batch_idx: int) -> None:
        if batch_idx == 0:
            self.weights.append(copy(self))
        loss = self.dev_losses[self.current_epoch] if self.dev_losses else 1.0 / (1 + self.current_epoch)
        self.log("dev/loss", loss, batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5), "interval": "step"}]


def copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def fit(module: Net, work: Path, *, n: int = 10, dev: int = 0, epochs: int = 4, seed: int = 3, **options: Any) -> Net:
    trainer = LightningTrainer(max_epochs=options.pop("max_epochs", None), limit_batches=options.pop("limit", None))
    data = SeededData(list(range(n)), list(range(dev)), 3, seed)
    progress = options.pop("progress", Silent())
    trainer.fit(module, data, epochs=epochs, seed=seed, work=work, what="test", progress=progress, **options)
    return module


@pytest.mark.parametrize("kill_at", [(0, 1), (1, 0), (2, 2), (3, 3)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_bitwise_equal(tmp_path: Path, kill_at: tuple[int, int], accumulate: int) -> None:
    whole = fit(Net(), tmp_path / "whole", accumulate=accumulate)
    with pytest.raises(Killed):
        fit(Net(kill_at), tmp_path / "killed", accumulate=accumulate)
    torch.manual_seed(4242)  # another process starts with another random state
    resumed = fit(Net(), tmp_path / "killed", accumulate=accumulate)
    assert same(copy(resumed), copy(whole))
    assert [e for e, _ in resumed.seen] == [e for e, _ in whole.seen if e >= kill_at[0]]
    assert resumed.seen == [s for s in whole.seen if s[0] >= kill_at[0]]


def test_dropout_and_order_matter_here(tmp_path: Path) -> None:
    """Without this, bitwise equality could come from a module without randomness."""
    first = fit(Net(), tmp_path / "1")
    assert same(copy(first), copy(fit(Net(), tmp_path / "2")))
    assert not same(copy(first), copy(fit(Net(), tmp_path / "3", seed=4)))
    assert not same(copy(first), copy(Net()))


def test_a_hard_exit_between_epochs_resumes(tmp_path: Path) -> None:
    """A real process that dies without any clean-up, as under SIGKILL."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import importlib.util, os, pathlib
            spec = importlib.util.spec_from_file_location("fit_test", {str(Path(__file__).resolve())!r})
            t = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(t)
            class Dies(t.Net):
                def training_step(self, batch, batch_idx):
                    if (self.current_epoch, batch_idx) == (2, 1):
                        os._exit(9)
                    return super().training_step(batch, batch_idx)
            t.fit(Dies(), pathlib.Path({str(tmp_path / "killed")!r}))
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, check=False)
    assert died.returncode == 9
    resumed = fit(Net(), tmp_path / "killed")
    assert {e for e, _ in resumed.seen} == {2, 3}
    assert same(copy(resumed), copy(fit(Net(), tmp_path / "whole")))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole = fit(Net(), tmp_path)
    again = fit(Net(), tmp_path)
    assert again.seen == []
    assert same(copy(again), copy(whole))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_an_unreadable_checkpoint_starts_over(tmp_path: Path, content: bytes | None) -> None:
    whole = fit(Net(), tmp_path / "whole")
    with pytest.raises(Killed):
        fit(Net((2, 0)), tmp_path / "killed")
    last = tmp_path / "killed" / "last.ckpt"
    if content is None:
        torch.save({"something": "else"}, last)
    else:
        last.write_bytes(content)
    resumed = fit(Net(), tmp_path / "killed")
    assert resumed.seen == whole.seen
    assert same(copy(resumed), copy(whole))
    assert (tmp_path / "killed" / "last.unreadable").exists()


def test_the_best_dev_epoch_is_kept(tmp_path: Path) -> None:
    module = fit(Net(dev_losses=(3.0, 1.0, 2.0, 2.5, 0.1)), tmp_path, dev=4, epochs=5, monitor="dev/loss", patience=2)
    assert {e for e, _ in module.seen} == {0, 1, 2, 3}  # two epochs without improvement end it before epoch 4
    assert same(copy(module), module.weights[1])
    assert not same(copy(module), module.weights[3])


def test_without_a_monitor_the_last_epoch_is_kept(tmp_path: Path) -> None:
    module = fit(Net(), tmp_path / "a", epochs=3)
    with_dev_items = fit(Net(dev_losses=(1.0, 2.0, 3.0)), tmp_path / "b", dev=4, epochs=3)
    assert same(copy(module), copy(with_dev_items))
    assert with_dev_items.weights == []


def test_a_run_that_had_stopped_early_stays_stopped(tmp_path: Path) -> None:
    """A kill between the last checkpoint and the end of fit must not buy another epoch, which might even be better."""
    losses = (3.0, 1.0, 2.0, 2.5, 0.1)
    whole = fit(Net(dev_losses=losses), tmp_path, dev=4, epochs=5, monitor="dev/loss", patience=2)
    again = fit(Net(dev_losses=losses), tmp_path, dev=4, epochs=5, monitor="dev/loss", patience=2)
    assert again.seen == []
    assert same(copy(again), copy(whole))


@pytest.mark.parametrize("kill_at", [(1, 1), (2, 0), (3, 2)])
def test_resume_remembers_the_best_epoch(tmp_path: Path, kill_at: tuple[int, int]) -> None:
    losses = (3.0, 1.0, 2.0, 2.5, 0.1)
    options: dict[str, Any] = {"dev": 4, "epochs": 5, "monitor": "dev/loss", "patience": 2}
    whole = fit(Net(dev_losses=losses), tmp_path / "whole", **options)
    with pytest.raises(Killed):
        fit(Net(kill_at, losses), tmp_path / "killed", **options)
    resumed = fit(Net(dev_losses=losses), tmp_path / "killed", **options)
    assert same(copy(resumed), copy(whole))
    assert max(e for e, _ in resumed.seen) == 3


def test_limits_for_debugging(tmp_path: Path) -> None:
    module = fit(Net(), tmp_path, max_epochs=1, limit=2)
    assert [e for e, _ in module.seen] == [0, 0]


class Counts:
    """A progress display that adds up."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    def begin(self, what: str, total: int | None) -> None:
        self.total, self.done = total, 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def say(self, message: str) -> None:
        """Nothing to keep."""


@pytest.mark.parametrize("accumulate", [1, 3])
def test_progress_adds_up_also_after_a_resume(tmp_path: Path, accumulate: int) -> None:
    with pytest.raises(Killed):
        fit(Net((2, 1)), tmp_path, accumulate=accumulate)
    counts = Counts()
    fit(Net(), tmp_path, accumulate=accumulate, progress=counts)
    assert (counts.total, counts.done) == (16, 16)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5))
def test_seeded_batches(n: int, size: int, seed: int, epoch: int) -> None:
    sampler = EpochSeededBatches(n, size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(sampler) == len(batches) == -(-n // size)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(len(batch) == size for batch in batches[:-1])
    assert list(sampler) == batches
    again = EpochSeededBatches(n, size, seed)
    for earlier in range(epoch + 1):
        again.set_epoch(earlier)
        list(again)
    assert list(again) == batches  # a function of the epoch, not of what was drawn before
    assert [i for batch in EpochSeededBatches(n, size, seed, shuffle=False) for i in batch] == list(range(n))


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(1, 4), st.integers(0, 3))
def test_batches_of_similar_length_miss_none(lengths: list[int], size: int, epoch: int) -> None:
    sampler = EpochSeededBatches(len(lengths), size, 0, lengths=lengths)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert list(sampler) == batches
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in batches) <= 1
    assert all(len(batch) <= size for batch in batches)
    if len(lengths) <= 16 * size:  # one window: batches are slices of the sorted lengths
        spans = sorted((min(found), max(found)) for batch in batches if (found := [lengths[i] for i in batch]))
        assert all(left[1] <= right[0] or left == right for left, right in pairwise(spans))


def test_epochs_and_seeds_differ() -> None:
    orders = set()
    for seed in range(3):
        sampler = EpochSeededBatches(20, 4, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.add(str(list(sampler)))
    assert len(orders) == 9


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 5))
def test_ranks_take_equally_many_batches_and_miss_none(n: int, size: int, world: int) -> None:
    shares = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("meld.trainer.fit._rank_and_world", lambda rank=rank: (rank, world))
            shares.append(list(EpochSeededBatches(n, size, 0)))
    assert len({len(share) for share in shares}) == 1
    assert {i for share in shares for batch in share for i in batch} == set(range(n))
    assert sum(map(len, shares)) - -(-n // size) < world
