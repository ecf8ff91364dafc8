"""``trainer=cpu|gpu|ddp|debug``: a Lightning Trainer that resumes from its own last epoch end, bit for bit.

Resuming in mid-epoch would restart the permutation and drop batches. Here every epoch's order and every step's random
numbers are functions of (seed, epoch, step), and a checkpoint is written when an epoch ends; a killed run continues at
the last one and ends with the same weights as an undisturbed run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, Dataset, Sampler

from meld.progress import Progress
from meld.seeds import derive, generator

T = TypeVar("T")

_WINDOW = 16
"""Batches whose items are sorted by length together."""


class Items(Dataset[T]):
    """A sequence as a map-style dataset.

    Args:
        items: The items.
    """

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.items[index]


class EpochSeededBatches(Sampler[list[int]]):
    """Shuffled batches whose order is a function of (seed, epoch) alone; under DDP each rank takes every n-th batch.

    Items of similar length share a batch, so that little is padded: within every sixteen batches' worth of shuffled
    items the items are sorted by length, and then the batches are shuffled.

    Args:
        n_items: Items in the dataset.
        batch_size: Items in a batch; one batch may be smaller.
        seed: Seed of the permutations.
        shuffle: False keeps the order (validation).
        lengths: Length of each item; None for no grouping.
    """

    def __init__(
        self, n_items: int, batch_size: int, seed: int, shuffle: bool = True, lengths: Sequence[int] | None = None
    ) -> None:
        self.n_items = n_items
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.lengths = lengths
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        order = list(range(self.n_items))
        rng = generator(self.seed, "epoch", self.epoch)
        if self.shuffle:
            order = rng.permutation(self.n_items).tolist()
        if self.shuffle and self.lengths is not None:
            lengths, window = self.lengths, _WINDOW * self.batch_size
            windows = [order[at : at + window] for at in range(0, self.n_items, window)]
            order = [item for part in windows for item in sorted(part, key=lambda i: lengths[i])]
        batches = [order[at : at + self.batch_size] for at in range(0, self.n_items, self.batch_size)]
        if self.shuffle and self.lengths is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        rank, world = _rank_and_world()
        # Every rank must take the same number of steps; the first batches fill up.
        while len(batches) % world:
            batches.append(batches[len(batches) % len(batches[:world])])
        return batches[rank::world]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class SeededData(L.LightningDataModule):
    """Training and dev items as seeded batches.

    Args:
        train: Training items.
        dev: Dev items; empty for none.
        batch_size: Items per optimisation step on each device.
        seed: Seed of the batch order.
        length: Length of an item, to batch items of similar length; None for no grouping.
    """

    def __init__(
        self,
        train: Sequence[Any],
        dev: Sequence[Any],
        batch_size: int,
        seed: int,
        length: Callable[[Any], int] | None = None,
    ) -> None:
        super().__init__()
        self.train_items = train
        self.dev_items = dev
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = None if length is None else [length(item) for item in train]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches."""
        sampler = EpochSeededBatches(len(self.train_items), self.batch_size, self.seed, lengths=self.lengths)
        return DataLoader(Items(self.train_items), batch_sampler=sampler, collate_fn=list)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are lists of plain objects; modules make tensors from them on their own device."""
        return batch

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Dev batches in order; an empty list where there is no dev set."""
        if not self.dev_items:
            return []
        sampler = EpochSeededBatches(len(self.dev_items), self.batch_size, self.seed, shuffle=False)
        return DataLoader(Items(self.dev_items), batch_sampler=sampler, collate_fn=list)


class _SeedSteps(Callback):
    """Re-seeds before every step, so that dropout after a resume draws what it would have drawn."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(derive(self.seed, "step", trainer.current_epoch, batch_idx, trainer.global_rank))


class _Report(Callback):
    """Feeds the run's progress display."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.progress = progress
        self.what = what

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Counted in batches, not in optimisation steps, of which accumulation makes fewer.
        batches = int(trainer.num_training_batches)
        self.progress.begin(self.what, batches * (trainer.max_epochs or 0))
        self.progress.advance(batches * trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress.advance()


class _StayStopped(Callback):
    """Ends a run at once that is resumed from the epoch at which it had stopped early; Lightning would train on."""

    def __init__(self, stopping: EarlyStopping) -> None:
        self.stopping = stopping

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.stopping.wait_count >= self.stopping.patience:
            trainer.should_stop = True


class _LastEpoch(Checkpoint):
    """Writes ``last.ckpt`` atomically when an epoch ends; a kill during writing leaves the previous one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)


class LightningTrainer:
    """How modules are fitted.

    Args:
        accelerator: ``cpu`` | ``gpu`` | ``auto``.
        devices: Number of devices (or Lightning's other forms).
        strategy: Lightning strategy, e.g. ``auto``, ``ddp``.
        precision: Lightning precision, e.g. ``32-true``, ``bf16-mixed``.
        limit_batches: Batches per epoch at most (debugging); None for all.
        max_epochs: Upper limit over the components' own epochs (debugging); None for theirs.
        isolate: Run every training stage in a process of its own. Needed where several processes train (DDP re-executes
            the command line of each), and it returns GPU memory.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"accelerator", "devices", "strategy", "isolate"})

    def __init__(
        self,
        accelerator: str = "cpu",
        devices: int | str = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        limit_batches: int | None = None,
        max_epochs: int | None = None,
        isolate: bool = False,
    ) -> None:
        self.accelerator = accelerator
        self.devices = devices
        self.strategy = strategy
        self.precision = precision
        self.limit_batches = limit_batches
        self.max_epochs = max_epochs
        self.isolate = isolate

    def fit(
        self,
        module: L.LightningModule,
        data: SeededData,
        *,
        epochs: int,
        seed: int,
        work: Path,
        what: str,
        progress: Progress,
        logger: Logger | None = None,
        monitor: str | None = None,
        patience: int = 2,
        accumulate: int = 1,
        clip: float = 1.0,
    ) -> None:
        """Fit the module in place; afterwards it holds the best epoch's weights (the last one's without ``monitor``).

        Args:
            module: The module; its ``strict_loading`` should be False if it leaves frozen weights out of checkpoints.
            data: The batches.
            epochs: Passes over the training items.
            seed: Seeds order and dropout.
            work: Folder that survives a kill; checkpoints go there.
            what: Name of this training for the progress display.
            progress: The display.
            logger: Lightning logger or None.
            monitor: Dev metric to minimise for early stopping and for the choice of the epoch.
            patience: Epochs without improvement before stopping.
            accumulate: Batches per optimisation step.
            clip: Gradient norm limit.
        """
        if self.max_epochs is not None:
            epochs = min(epochs, self.max_epochs)
        work.mkdir(parents=True, exist_ok=True)
        last, best = work / "last.ckpt", work / "best.ckpt"
        with_dev = monitor is not None and bool(data.dev_items)
        callbacks: list[Callback] = [_SeedSteps(seed), _Report(progress, what)]
        if with_dev:
            assert monitor is not None
            stopping = EarlyStopping(monitor=monitor, patience=patience, mode="min")
            callbacks += [stopping, _StayStopped(stopping)]
            callbacks.append(
                ModelCheckpoint(
                    dirpath=work,
                    filename="best",
                    monitor=monitor,
                    save_top_k=1,
                    save_weights_only=True,
                    enable_version_counter=False,
                )
            )
        callbacks.append(_LastEpoch(last))
        trainer = L.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            precision=self.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks,
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            limit_train_batches=self.limit_batches,
            limit_val_batches=self.limit_batches if with_dev else 0,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=clip,
            use_distributed_sampler=False,
            default_root_dir=work,
        )
        with warnings.catch_warnings():
            # Worker counts and tensorboard advice are noise for datasets of a few hundred in-memory items.
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule=data, ckpt_path=_usable(last), weights_only=False)
        if with_dev and best.is_file():
            state = torch.load(best, map_location="cpu", weights_only=False)["state_dict"]
            module.load_state_dict(state, strict=False)
        module.cpu() if self.accelerator == "cpu" else module.to(trainer.strategy.root_device)


def _usable(path: Path) -> str | None:
    """The checkpoint if it can be read; a broken one is set aside and training starts over."""
    if not path.is_file():
        return None
    try:
        readable = "state_dict" in torch.load(path, map_location="cpu", weights_only=False)
    except Exception:
        readable = False
    if not readable:
        path.rename(path.with_suffix(".unreadable"))
    return str(path) if readable else None
