"""``router=own|uniform``: routing without learning. ``own`` is the papers' "w/o MoE"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from meld.progress import Progress
from meld.router.base import RoutedQuery, Routing
from meld.trainer.fit import LightningTrainer


class OwnExpert:
    """Every query goes to the expert of its own unit; a unit without one is spread over all experts."""

    needs_answers = False
    token_wise = False

    def fit(
        self,
        experts: Sequence[str],
        queries: Sequence[RoutedQuery],
        encoder: Path,
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        progress: Progress,
        logger: Logger | None = None,
    ) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def register(
        self, folder: Path, experts: Sequence[str], queries: Sequence[RoutedQuery], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """The rule."""
        return _Rule(tuple(experts), len(added), own=True)


class Uniform:
    """Every expert weighs the same."""

    needs_answers = False
    token_wise = False

    def fit(
        self,
        experts: Sequence[str],
        queries: Sequence[RoutedQuery],
        encoder: Path,
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        progress: Progress,
        logger: Logger | None = None,
    ) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def register(
        self, folder: Path, experts: Sequence[str], queries: Sequence[RoutedQuery], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """The rule."""
        return _Rule(tuple(experts), len(added), own=False)


class _Rule:
    def __init__(self, experts: tuple[str, ...], added: int, own: bool) -> None:
        self.experts = experts
        self.n = len(experts) + added
        self.own = own

    def weights(self, units: Sequence[str], texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
        rows = np.full((len(units), self.n), 1.0 / self.n)
        if self.own:
            for row, unit in enumerate(units):
                if unit in self.experts:
                    rows[row] = np.eye(self.n)[self.experts.index(unit)]
        return rows
