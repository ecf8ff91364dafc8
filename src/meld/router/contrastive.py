"""``router=contrastive``: a copy of M_RAG's layers with a light head, and one learned vector per expert (Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor, nn

from meld.encoder.loss import contrastive_loss
from meld.progress import Progress
from meld.router.base import RoutedQuery, Routing
from meld.router.copied import CopyRouting, EncoderCopy, embed_texts, fit_row, load_rows, save_row
from meld.trainer.fit import LightningTrainer


class Head(nn.Module):
    """A linear map of the query vector and one vector per expert.

    Args:
        d: Dimension of the encoder.
        centroids: Shape (experts, d), where the expert vectors start: the mean query of each expert's unit.
    """

    def __init__(self, d: int, centroids: Tensor) -> None:
        super().__init__()
        self.map = nn.Linear(d, d, bias=False)
        nn.init.eye_(self.map.weight)
        self.experts = nn.Parameter(centroids.clone())

    def forward(self, vectors: Tensor) -> Tensor:
        """Cosines of queries and experts, (n, d) to (n, experts)."""
        return self.mapped(vectors) @ nn.functional.normalize(self.experts, dim=1).T

    def mapped(self, vectors: Tensor) -> Tensor:
        """Unit vectors that the experts' vectors are compared with, (n, d) to (n, d)."""
        return nn.functional.normalize(self.map(vectors), dim=1)

    def row_scores(self, vectors: Tensor, row: Tensor) -> Tensor:
        """Cosines of queries and one further expert's vector, (n, d) to (n,)."""
        return self.mapped(vectors) @ nn.functional.normalize(row, dim=0)


def diversity_penalty(weights: Tensor, agreement: Tensor) -> Tensor:
    """Eq. 2's min term: sum over pairs i < j of p_i * p_j * (agreement off the gold label), mean over queries.

    Args:
        weights: Shape (n, experts), the router's probabilities p.
        agreement: Shape (n, experts, experts), symmetric with zero diagonal.
    """
    return 0.5 * torch.einsum("ni,nj,nij->n", weights, weights, agreement).mean()


def router_loss(cosines: Tensor, batch: Sequence[RoutedQuery], tau: float, diversity: float) -> Tensor:
    """Contrastive loss of each query against the experts, mean over all positives, plus the diversity term (Eq. 2).

    It does not depend on k. A query that every expert answers right says nothing about preference and takes part in the
    diversity term alone.

    Args:
        cosines: Shape (n, experts).
        batch: The queries.
        tau: Temperature.
        diversity: Weight of the diversity term.
    """
    experts = cosines.shape[1]
    positive = torch.tensor(np.stack([query.positives for query in batch]), device=cosines.device)
    telling = ~positive.all(dim=1)
    loss = torch.zeros((), device=cosines.device)
    if telling.any():
        chosen = cosines[telling]
        owner = torch.arange(len(chosen), device=cosines.device).repeat_interleave(experts)
        count = positive[telling].sum(dim=1).float().mean()
        loss = contrastive_loss(chosen.reshape(-1), owner, positive[telling].reshape(-1), tau) / count
    agreement = torch.tensor(np.stack([q.agreement for q in batch]), device=cosines.device, dtype=cosines.dtype)
    return loss + diversity * diversity_penalty((cosines / tau).softmax(dim=1), agreement)


class ContrastiveRouter:
    """The paper's router.

    Args:
        tau: Temperature of loss and weights.
        diversity: Weight of Eq. 2's min term.
        lr: Learning rate of the head.
        encoder_lr: Learning rate of the tuned encoder layers.
        tuned_layers: Last encoder layers that are fine-tuned; the copy is tuned, so the retrieval index stays valid.
        epochs: Passes over the labelled queries.
        batch_size: Queries per step.
        queries_per_unit: Labelled queries of each unit that every expert answers: dev first, filled up from X_aug.
        max_length: Tokens of a query that are read.
        embed_batch_size: Queries per pass at inference. Execution only.
    """

    needs_answers = True
    token_wise = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"embed_batch_size"})

    def __init__(
        self,
        tau: float = 0.1,
        diversity: float = 0.5,
        lr: float = 5e-3,
        encoder_lr: float = 2e-5,
        tuned_layers: int = 1,
        epochs: int = 4,
        batch_size: int = 16,
        queries_per_unit: int = 64,
        max_length: int = 128,
        embed_batch_size: int = 64,
    ) -> None:
        self.tau = tau
        self.queries_per_unit = queries_per_unit
        self.objective = partial(router_loss, tau=tau, diversity=diversity)
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
        """Learn expert vectors, head and tuned layers from the experts' answers to labelled queries."""
        embedder = self.copy.open(encoder, device="cpu")
        vectors = torch.tensor(embed_texts(embedder, queries, progress))
        # Without a labelled query nothing tells experts apart: equal vectors weigh them alike.
        overall = vectors.mean(dim=0) if len(queries) else vectors.new_zeros(vectors.shape[1])
        centroids = []
        for expert in experts:
            own = [i for i, query in enumerate(queries) if query.unit == expert]
            centroids.append(vectors[own].mean(dim=0) if own else overall)
        head = Head(vectors.shape[1], torch.stack(centroids))
        return self.copy.fit(embedder, head, self.objective, queries, out, work, trainer, seed, progress, logger)

    def register(
        self, folder: Path, experts: Sequence[str], queries: Sequence[RoutedQuery], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Fit one more expert's vector; it starts at the mean of the queries that the expert answers right."""
        head = _load_head(folder)
        vectors = torch.tensor(embed_texts(self.copy.open(folder / "encoder"), queries, progress))
        right = torch.tensor([bool(query.positives[-1]) for query in queries])
        with torch.no_grad():
            mapped = head.mapped(vectors)
        start = nn.functional.normalize((mapped[right] if right.any() else mapped).mean(dim=0), dim=0)
        row, numbers = fit_row(head, vectors, queries, self.objective, start)
        save_row(row, out)
        return {"queries": len(queries), "right": int(right.sum()), **numbers}

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """Load a fitted router."""
        return CopyRouting(self.copy.open(folder / "encoder"), _load_head(folder), self._weights, load_rows(added))

    def _weights(self, cosines: Tensor) -> Tensor:
        return (cosines / self.tau).softmax(dim=1)


def _load_head(folder: Path) -> Head:
    state = load_file(folder / "head.safetensors")
    head = Head(state["map.weight"].shape[0], state["experts"])
    head.load_state_dict(state)
    return head.eval()
