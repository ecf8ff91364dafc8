"""Batches of a pool shared among processes: whoever is free takes the next one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError, UserError

State = TypeVar("State")
Work = Callable[[LanguageModel, State, Sequence[Encoded]], NDArray[np.float64]]
"""Scores of the items of a batch, shape (batch,) or (batch, k). A function of a module, so that it can be sent."""

_worker: dict[str, Any] = {}  # what a worker process loaded when it started; empty in every other process


def check_workers(workers: int) -> int:
    """Return a number of processes, or say why it is none.

    Raises:
        ConfigError: If it is below one.
    """
    if workers < 1:
        raise ConfigError(
            f"{workers} processes cannot work.", where="selector.influence.workers", fix="selector.influence.workers=1"
        )
    return workers


def map_batches(
    lm: LanguageModel, work: Work[State], state: State, batches: Sequence[Sequence[Encoded]], workers: int
) -> list[NDArray[np.float64]]:
    """Apply ``work`` to every batch.

    With several workers each is a process with its own copy of the model (on GPUs, one after the other); a batch goes
    to whichever is free, so that long ones do not hold up the rest. Results do not depend on the number of workers.

    Args:
        lm: The proxy with its adapter.
        work: What to do with a batch.
        state: Given to every call: the fixed direction.
        batches: The batches, longest first for an even load.
        workers: Number of processes; 1 works in this one.

    Returns:
        The results in the order of the batches.
    """
    workers = min(workers, len(batches))
    if workers <= 1:
        return [work(lm, state, batch) for batch in batches]
    sent = copy(lm)
    sent.tokenizer = None  # everything is encoded already, and not every tokenizer can be sent
    # A forked process starts at once, but can use neither a GPU nor the parent's threads: it gets one of its own.
    forks = lm.device.type == "cpu" and sys.platform == "linux"
    context = torch.multiprocessing.get_context("fork" if forks else "spawn")
    number = context.Value("i", 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker.pt"
        torch.save((sent, work, state), path)
        arguments = (path, number, lm.device.type)
        try:
            with ProcessPoolExecutor(workers, context, _start, arguments) as pool:
                futures = [pool.submit(_call, batch) for batch in batches]
                return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                f"One of the {workers} processes that share the pool ended.",
                where="selector.influence.workers",
                fix="selector.influence.workers=1, which also shows the error; or less, if memory ran out",
            ) from error


def _start(path: Path, number: Any, kind: str) -> None:
    """Load what a worker needs, once."""
    with number.get_lock():
        mine = number.value
        number.value += 1
    device = f"cuda:{mine % torch.cuda.device_count()}" if kind == "cuda" else kind
    torch.set_num_threads(1)
    lm, work, state = torch.load(path, map_location=device, weights_only=False)
    _worker.update(lm=lm, work=work, state=state)


def _call(batch: Sequence[Encoded]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = _worker["work"](_worker["lm"], _worker["state"], batch)
    return scores
