"""``router=classifier``: which experts answer a query right, as a classification of the query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor, nn

from meld.errors import ConfigError
from meld.progress import Progress
from meld.router.base import RoutedQuery, Routing
from meld.router.copied import CopyRouting, EncoderCopy, embed_texts, fit_row, load_rows, save_row
from meld.trainer.fit import LightningTrainer

Loss = Literal["cross_entropy", "multi_label"]


class LinearHead(nn.Module):
    """One linear score per expert; all zero at the start, so that no expert is preferred.

    Args:
        d: Dimension of the encoder.
        experts: How many experts there are.
    """

    def __init__(self, d: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(experts, d))
        self.bias = nn.Parameter(torch.zeros(experts))

    def forward(self, vectors: Tensor) -> Tensor:
        """Scores of queries and experts, (n, d) to (n, experts)."""
        return nn.functional.linear(vectors, self.weight, self.bias)

    def row_scores(self, vectors: Tensor, row: Tensor) -> Tensor:
        """Scores of one further expert, whose weights and bias are in ``row`` of shape (d + 1,); (n, d) to (n,)."""
        return vectors @ row[:-1] + row[-1]


def cross_entropy(scores: Tensor, batch: Sequence[RoutedQuery]) -> Tensor:
    """Softmax over the experts against the even distribution over a query's positives, mean over queries.

    Args:
        scores: Shape (n, experts).
        batch: The queries.
    """
    positive = torch.tensor(np.stack([query.positives for query in batch]), device=scores.device, dtype=scores.dtype)
    target = positive / positive.sum(dim=1, keepdim=True)
    return -(target * scores.log_softmax(dim=1)).sum(dim=1).mean()


def multi_label(scores: Tensor, batch: Sequence[RoutedQuery]) -> Tensor:
    """One yes-or-no question for each expert: is it among the query's positives? Mean over queries and experts.

    Args:
        scores: Shape (n, experts).
        batch: The queries.
    """
    positive = torch.tensor(np.stack([query.positives for query in batch]), device=scores.device, dtype=scores.dtype)
    return nn.functional.binary_cross_entropy_with_logits(scores, positive)


class ClassifierRouter:
    """A classifier over the same encoder copy as ``router=contrastive``, without its diversity term.

    Args:
        loss: ``cross_entropy``: the experts compete; ``multi_label``: each expert is judged by itself, and the weights
            are the probabilities brought to a sum of one.
        lr: Learning rate of the head.
        encoder_lr: Learning rate of the tuned encoder layers.
        tuned_layers: Last encoder layers that are fine-tuned.
        epochs: Passes over the labelled queries.
        batch_size: Queries per step.
        queries_per_unit: Labelled queries of each unit that every expert answers: dev first, filled up from X_aug.
        max_length: Tokens of a query that are read.
        embed_batch_size: Queries per pass at inference. Execution only.

    Raises:
        ConfigError: For an unknown loss.
    """

    needs_answers = True
    token_wise = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"embed_batch_size"})

    def __init__(
        self,
        loss: Loss = "cross_entropy",
        lr: float = 5e-2,
        encoder_lr: float = 2e-5,
        tuned_layers: int = 1,
        epochs: int = 4,
        batch_size: int = 16,
        queries_per_unit: int = 64,
        max_length: int = 128,
        embed_batch_size: int = 64,
    ) -> None:
        losses = {"cross_entropy": cross_entropy, "multi_label": multi_label}
        if loss not in losses:
            raise ConfigError(
                f"{loss!r} is no loss of the classifier; known are {', '.join(losses)}",
                where="router.loss",
                fix="router.loss=cross_entropy",
            )
        self.loss = loss
        self.objective = losses[loss]
        self.queries_per_unit = queries_per_unit
        self.copy = EncoderCopy(lr, encoder_lr, tuned_layers, epochs, batch_size, max_length, embed_batch_size)

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
        """Learn head and tuned layers from the experts' answers to labelled queries."""
        embedder = self.copy.open(encoder, device="cpu")
        head = LinearHead(embedder.embed([]).shape[1], len(experts))
        return self.copy.fit(embedder, head, self.objective, queries, out, work, trainer, seed, progress, logger)

    def register(
        self, folder: Path, experts: Sequence[str], queries: Sequence[RoutedQuery], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Fit one more expert's weights and bias, from zero."""
        head = _load_head(folder)
        vectors = torch.tensor(embed_texts(self.copy.open(folder / "encoder"), queries, progress))
        row, numbers = fit_row(head, vectors, queries, self.objective, torch.zeros(vectors.shape[1] + 1))
        save_row(row, out)
        right = sum(bool(query.positives[-1]) for query in queries)
        return {"queries": len(queries), "right": right, **numbers}

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """Load a fitted router."""
        return CopyRouting(self.copy.open(folder / "encoder"), _load_head(folder), self._weights, load_rows(added))

    def _weights(self, scores: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return scores.softmax(dim=1)
        probabilities = scores.sigmoid()
        return probabilities / probabilities.sum(dim=1, keepdim=True)


def _load_head(folder: Path) -> LinearHead:
    state = load_file(folder / "head.safetensors")
    head = LinearHead(state["weight"].shape[1], state["weight"].shape[0])
    head.load_state_dict(state)
    return head.eval()
