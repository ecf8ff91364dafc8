"""Mixtures as adapters on disk, for engines that load adapters from folders: ``cat`` written in PEFT's layout.

The mixture sum_e g_e s_e B_e A_e of n experts of rank r is one adapter of rank n * r at scale 1: all A below each
other, each times its gate and its scale, and all B beside each other, as PEFT's ``cat`` computes it. A folder is named
by its content (:func:`meld.mixer.combination.mixture_name`), so that a name never means two things.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from meld.backbone.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from meld.engine.adapters import Expert
from meld.mixer.combination import CAT, mixture_name

SLOTS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for; any other rank takes the next one."""

Shares = tuple[tuple[str, float], ...]
"""Experts that answer a question, with their gates; empty for the base model alone."""

NOTHING = "nothing"
"""Name of the adapter that changes nothing."""


def slot(rank: int) -> int:
    """The smallest rank that vLLM has room for and that a rank fits into.

    Raises:
        ValueError: If none does.
    """
    if not 1 <= rank <= SLOTS[-1]:
        raise ValueError(f"vLLM has room for adapters of rank 1 to {SLOTS[-1]}, not {rank}")
    return next(size for size in SLOTS if rank <= size)


def shares_of(experts: Sequence[str], gates: NDArray[np.float64]) -> Shares:
    """The experts of one row of gates, shape (experts,)."""
    return tuple((name, float(gate)) for name, gate in zip(experts, gates, strict=True) if gate > 0)


def in_turns(shares: Sequence[Shares], limit: int) -> Iterator[tuple[list[Shares], list[int]]]:
    """Rows in groups of at most so many different mixtures.

    Args:
        shares: The mixture of each row.
        limit: Mixtures that are kept at a time.

    Yields:
        The mixtures of a group, and its rows in order.
    """
    rows: dict[Shares, list[int]] = {}
    for row, one in enumerate(shares):
        rows.setdefault(one, []).append(row)
    order = list(rows)
    for start in range(0, len(order), limit):
        some = order[start : start + limit]
        yield some, sorted(row for one in some for row in rows[one])


def write_mixture(folder: Path, experts: Sequence[tuple[Expert, float]], base: str) -> None:
    """Write a weighted sum of experts as one adapter.

    Args:
        folder: Where to; made by a rename, so that nobody reads half of it.
        experts: Experts of one rank with their gates; those without an update of a layer add zeros there.
        base: Name of the base model, recorded in the adapter.
    """
    tensors: dict[str, Tensor] = {}
    rank = sum(rank_of(expert) for expert, _ in experts)
    for name in sorted({layer for expert, _ in experts for layer in expert.layers}):
        shape = next(expert.layers[name] for expert, _ in experts if name in expert.layers)
        a, b = [], []
        for expert, gate in experts:
            layer = expert.layers.get(name)
            a.append(torch.zeros_like(shape.a) if layer is None else layer.a * (layer.scale * gate))
            b.append(torch.zeros_like(shape.b) if layer is None else layer.b)
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.cat(a, dim=0).contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.cat(b, dim=1).contiguous()
    _write(folder, tensors, rank, base)


def write_nothing(folder: Path, experts: Iterable[Expert], base: str) -> None:
    """Write an adapter over all layers that any expert adapts, whose update is zero."""
    shapes = {name: layer for expert in experts for name, layer in expert.layers.items()}
    tensors = {}
    for name, layer in sorted(shapes.items()):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.zeros(1, layer.a.shape[1], dtype=layer.a.dtype)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.zeros(layer.b.shape[0], 1, dtype=layer.b.dtype)
    _write(folder, tensors, 1, base)


def rank_of(expert: Expert) -> int:
    """The rank of an expert's updates."""
    return int(next(iter(expert.layers.values())).a.shape[0])


def _write(folder: Path, tensors: Mapping[str, Tensor], rank: int, base: str) -> None:
    names = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(names),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".draft"))
    (draft / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(dict(tensors), draft / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    draft.chmod(0o755)
    draft.rename(folder)


class MixtureFolder:
    """A bounded folder of mixtures; the least recently used one goes first.

    Args:
        folder: Where the folder is made; a temporary place by default. It is removed by :meth:`close`.
        limit: Mixtures kept at a time.
        base: Name of the base model.
    """

    def __init__(self, folder: str | None, limit: int, base: str) -> None:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="meld-mixtures-", dir=folder)
        self.path = Path(self._folder.name)
        self.path.chmod(0o755)  # a server of another user may have to read it
        self.limit = limit
        self._base = base
        self._kept: OrderedDict[str, None] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Mixtures on disk, the least recently used one first."""
        return tuple(self._kept)

    def get(self, experts: Sequence[tuple[Expert, float]]) -> tuple[str, Path, tuple[str, ...]]:
        """A mixture's name and folder, written now if it is not there, and the names of those that had to go for it."""
        name = mixture_name([(expert.digest, gate) for expert, gate in experts], CAT)
        gone = []
        if name not in self._kept:
            while len(self._kept) >= self.limit:
                oldest, _ = self._kept.popitem(last=False)
                shutil.rmtree(self.path / oldest)
                gone.append(oldest)
            write_mixture(self.path / name, experts, self._base)
        self._kept[name] = None
        self._kept.move_to_end(name)
        return name, self.path / name, tuple(gone)

    def nothing(self, experts: Iterable[Expert]) -> Path:
        """The folder of the adapter that changes nothing."""
        folder = self.path / NOTHING
        if not folder.is_dir():
            write_nothing(folder, experts, self._base)
        return folder

    def close(self) -> None:
        """Remove everything."""
        self._folder.cleanup()
