"""``router=arrow``: every token finds its experts in every layer, without training (Ostapenko et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lightning.pytorch.loggers import Logger

from meld.errors import ConfigError, UserError
from meld.progress import Progress
from meld.router.base import RoutedQuery, Routing
from meld.trainer.fit import LightningTrainer


class ArrowRouter:
    """PEFT's Arrow: an expert's prototype in a layer is the direction its update stretches most.

    A token goes to the ``top_k`` experts whose prototypes its hidden state is most aligned with, either way round,
    weighted by a softmax over them. So there are no weights per query: an answer names no experts, and the report has
    no heat map. The engine routes (``engine=hf``); ``mixer`` has no say.

    Args:
        top_k: Experts per token and layer. Enters at inference only.
        temperature: Of the softmax over the chosen experts.

    Raises:
        ConfigError: If a number is out of range.
    """

    needs_answers = False
    token_wise = True
    AT_INFERENCE: ClassVar[frozenset[str]] = frozenset({"top_k", "temperature"})

    def __init__(self, top_k: int, temperature: float = 1.0) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}, and must be at least 1", where="router.top_k", fix="k=3")
        if temperature <= 0:
            raise ConfigError(
                f"the temperature is {temperature}, and must be above 0",
                where="router.temperature",
                fix="router.temperature=1.0",
            )
        self.top_k = top_k
        self.temperature = temperature

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
        """Nothing to learn: the prototypes are in the adapters."""
        return {}

    def register(
        self, folder: Path, experts: Sequence[str], queries: Sequence[RoutedQuery], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """Refused: there are no weights per query.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "router=arrow routes every token in every layer and has no weights per query.",
            where="router",
            fix="engine=hf, or another router",
        )
