"""``router=contrastive``: a copy of M_RAG's layers with a light head, and one learned vector per expert (Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meld.encoder.contrastive import freeze_below, linear_decay
from meld.encoder.loss import contrastive_loss
from meld.encoder.vectors import Embedder
from meld.progress import Progress, quiet_libraries
from meld.router.base import RoutedQuery, Routing
from meld.seeds import derive
from meld.trainer.fit import LightningTrainer, SeededData


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
        query = nn.functional.normalize(self.map(vectors), dim=1)
        return query @ nn.functional.normalize(self.experts, dim=1).T


def diversity_penalty(weights: Tensor, agreement: Tensor) -> Tensor:
    """Eq. 2's min term: sum over pairs i < j of p_i * p_j * (agreement off the gold label), mean over queries.

    Args:
        weights: Shape (n, experts), the router's probabilities p.
        agreement: Shape (n, experts, experts), symmetric with zero diagonal.
    """
    return 0.5 * torch.einsum("ni,nj,nij->n", weights, weights, agreement).mean()


class LitRouter(L.LightningModule):
    """Trains the router.

    Args:
        model: A copy of M_RAG (``SentenceTransformer``).
        head: The light head.
        tau: Temperature.
        diversity: Weight of the diversity term.
        lr: Learning rate of the head.
        encoder_lr: Learning rate of the encoder layers that are tuned.
        tuned_layers: How many of the encoder's last layers are fine-tuned.
        total_steps: Length of the schedule.
    """

    def __init__(
        self,
        model: Any,
        head: Head,
        tau: float,
        diversity: float,
        lr: float,
        encoder_lr: float,
        tuned_layers: int,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.tau = tau
        self.diversity = diversity
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.total_steps = total_steps
        freeze_below(model, tuned_layers)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def cosines(self, texts: Sequence[str]) -> Tensor:
        """Query-expert cosines, shape (n, experts)."""
        features = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.model.preprocess(list(texts)).items()
        }
        vectors = nn.functional.normalize(self.model(features)["sentence_embedding"], dim=1)
        cosines: Tensor = self.head(vectors)
        return cosines

    def loss(self, batch: Sequence[RoutedQuery]) -> Tensor:
        """Contrastive loss of each query against the experts, plus the diversity term. It does not depend on k."""
        cosines = self.cosines([query.text for query in batch])
        experts = cosines.shape[1]
        positive = torch.tensor(np.stack([query.positives for query in batch]), device=cosines.device)
        # All experts positive says nothing about preference; such a query only takes part in the diversity term.
        telling = ~positive.all(dim=1)
        loss = torch.zeros((), device=cosines.device)
        if telling.any():
            chosen = cosines[telling]
            owner = torch.arange(len(chosen), device=cosines.device).repeat_interleave(experts)
            count = positive[telling].sum(dim=1).float().mean()
            loss = contrastive_loss(chosen.reshape(-1), owner, positive[telling].reshape(-1), self.tau) / count
        agreement = torch.tensor(np.stack([q.agreement for q in batch]), device=cosines.device, dtype=cosines.dtype)
        return loss + self.diversity * diversity_penalty((cosines / self.tau).softmax(dim=1), agreement)

    def training_step(self, batch: Sequence[RoutedQuery], batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.loss(batch)
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a smaller rate for the encoder's layers."""
        encoder = [p for p in self.model.parameters() if p.requires_grad]
        groups = [{"params": list(self.head.parameters()), "lr": self.lr}]
        if encoder:
            groups.append({"params": encoder, "lr": self.encoder_lr})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        schedule = linear_decay(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
        self.diversity = diversity
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.tuned_layers = tuned_layers
        self.epochs = epochs
        self.batch_size = batch_size
        self.queries_per_unit = queries_per_unit
        self.max_length = max_length
        self.embed_batch_size = embed_batch_size

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
        embedder = Embedder(str(encoder), self.max_length, self.embed_batch_size, device="cpu")
        vectors = torch.tensor(embedder.embed([query.text for query in queries], progress))
        overall = vectors.mean(dim=0)
        centroids = []
        for expert in experts:
            own = [i for i, query in enumerate(queries) if query.unit == expert]
            centroids.append(vectors[own].mean(dim=0) if own else overall)
        head = Head(vectors.shape[1], torch.stack(centroids))
        steps = -(-len(queries) // self.batch_size) * self.epochs
        module = LitRouter(
            embedder.model, head, self.tau, self.diversity, self.lr, self.encoder_lr, self.tuned_layers, max(1, steps)
        )
        data = SeededData(queries, (), self.batch_size, derive(seed, "order"))
        trainer.fit(
            module,
            data,
            epochs=self.epochs,
            seed=derive(seed, "dropout"),
            work=work,
            what="train router",
            progress=progress,
            logger=logger,
        )
        module.eval()
        with quiet_libraries():
            embedder.model.save(str(out / "encoder"), create_model_card=False)
        save_file({k: v.contiguous() for k, v in module.head.state_dict().items()}, out / "head.safetensors")
        with torch.no_grad():
            chosen = self._weights(embedder, module.head, [query.text for query in queries], progress).argmax(axis=1)
        hits = [bool(query.positives[choice]) for query, choice in zip(queries, chosen, strict=True)]
        return {"queries": len(queries), "first_choice_is_positive": round(float(np.mean(hits)), 4)}

    def open(self, folder: Path, experts: Sequence[str]) -> Routing:
        """Load a fitted router."""
        embedder = Embedder(str(folder / "encoder"), self.max_length, self.embed_batch_size)
        state = load_file(folder / "head.safetensors")
        head = Head(state["map.weight"].shape[0], state["experts"])
        head.load_state_dict(state)
        return _Fitted(self, embedder, head.eval())

    @torch.no_grad()
    def _weights(self, embedder: Embedder, head: Head, texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
        distinct = sorted(set(texts))
        row = {text: i for i, text in enumerate(distinct)}
        cosines = head(torch.tensor(embedder.embed(distinct, progress)))
        weights: NDArray[np.float64] = (cosines / self.tau).softmax(dim=1).double().numpy()
        return weights[[row[text] for text in texts]]


class _Fitted:
    def __init__(self, router: ContrastiveRouter, embedder: Embedder, head: Head) -> None:
        self.router = router
        self.embedder = embedder
        self.head = head

    def weights(self, units: Sequence[str], texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
        return self.router._weights(self.embedder, self.head, texts, progress)
