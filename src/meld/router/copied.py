"""What learned routers share: a copy of M_RAG whose last layers are tuned together with a light head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meld.encoder.contrastive import freeze_below, linear_decay
from meld.encoder.vectors import Embedder
from meld.progress import Progress, quiet_libraries
from meld.router.base import RoutedQuery
from meld.seeds import derive
from meld.trainer.fit import LightningTrainer, SeededData

Objective = Callable[[Tensor, Sequence[RoutedQuery]], Tensor]
"""From the scores of queries and experts, shape (n, experts), to a scalar loss."""

_STEPS, _LR = 300, 0.05
"""Full-batch steps and learning rate of a registered expert's row: a few hundred numbers, fitted in a second."""


class RouterHead(Protocol):
    """Scores experts for query vectors."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Scores, (n, d) to (n, experts)."""
        ...

    def row_scores(self, vectors: Tensor, row: Tensor) -> Tensor:
        """Scores of one further expert, (n, d) and its parameters to (n,)."""
        ...


class LitRouter(L.LightningModule):
    """Trains a router.

    Args:
        model: A copy of M_RAG (``SentenceTransformer``).
        head: The light head.
        objective: The loss of a batch's scores.
        lr: Learning rate of the head.
        encoder_lr: Learning rate of the encoder layers that are tuned.
        tuned_layers: How many of the encoder's last layers are fine-tuned.
        total_steps: Length of the schedule.
    """

    def __init__(
        self,
        model: Any,
        head: nn.Module,
        objective: Objective,
        lr: float,
        encoder_lr: float,
        tuned_layers: int,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.objective = objective
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.total_steps = total_steps
        freeze_below(model, tuned_layers)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def scores(self, texts: Sequence[str]) -> Tensor:
        """Scores of queries and experts, shape (n, experts)."""
        features = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.model.preprocess(list(texts)).items()
        }
        vectors = nn.functional.normalize(self.model(features)["sentence_embedding"], dim=1)
        scores: Tensor = self.head(vectors)
        return scores

    def training_step(self, batch: Sequence[RoutedQuery], batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.objective(self.scores([query.text for query in batch]), batch)
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


@dataclass(frozen=True)
class EncoderCopy:
    """How the copy is trained and read.

    Attributes:
        lr: Learning rate of the head.
        encoder_lr: Learning rate of the tuned encoder layers.
        tuned_layers: Last encoder layers that are fine-tuned; the copy is tuned, so the retrieval index stays valid.
        epochs: Passes over the labelled queries.
        batch_size: Queries per step.
        max_length: Tokens of a query that are read.
        embed_batch_size: Queries per pass at inference.
    """

    lr: float
    encoder_lr: float
    tuned_layers: int
    epochs: int
    batch_size: int
    max_length: int
    embed_batch_size: int

    def open(self, folder: Path, device: str | None = None) -> Embedder:
        """The encoder in a folder."""
        return Embedder(str(folder), self.max_length, self.embed_batch_size, device=device)

    def fit(
        self,
        embedder: Embedder,
        head: nn.Module,
        objective: Objective,
        queries: Sequence[RoutedQuery],
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        progress: Progress,
        logger: Logger | None,
    ) -> dict[str, float]:
        """Tune copy and head; write ``encoder/`` and ``head.safetensors``.

        Returns:
            How many queries there were, and, if any, for which share of them the first choice is a positive expert.
        """
        steps = -(-len(queries) // self.batch_size) * self.epochs
        module = LitRouter(embedder.model, head, objective, self.lr, self.encoder_lr, self.tuned_layers, max(1, steps))
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
        if not queries:
            return {"queries": 0}
        with torch.no_grad():
            chosen = module.head(torch.tensor(embed_texts(embedder, queries, progress))).argmax(dim=1).tolist()
        hits = [bool(query.positives[choice]) for query, choice in zip(queries, chosen, strict=True)]
        return {"queries": len(queries), "first_choice_is_positive": round(float(np.mean(hits)), 4)}


def embed_texts(embedder: Embedder, queries: Sequence[RoutedQuery], progress: Progress) -> NDArray[np.float32]:
    """Vectors of routed queries, shape (n, d)."""
    return embedder.embed([query.text for query in queries], progress)


def fit_row(
    head: RouterHead, vectors: Tensor, queries: Sequence[RoutedQuery], objective: Objective, start: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Fit the parameters of one further expert under the router's own loss; what the other experts score is fixed.

    Args:
        head: The fitted head.
        vectors: Shape (n, d), the queries' vectors.
        queries: The queries, the new expert in the last column.
        objective: The loss.
        start: Where the parameters start.

    Returns:
        The parameters, and the loss before and after.
    """
    with torch.no_grad():
        fixed = head(vectors)
    row = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([row], lr=_LR)
    before = after = float("nan")
    for step in range(_STEPS + 1):
        loss = objective(torch.cat([fixed, head.row_scores(vectors, row)[:, None]], dim=1), queries)
        before, after = (loss.item() if step == 0 else before), loss.item()
        if step < _STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return row.detach(), {"loss_before": round(before, 6), "loss_after": round(after, 6)}


def save_row(row: Tensor, out: Path) -> None:
    """Write a further expert's parameters."""
    save_file({"row": row.contiguous()}, out / "row.safetensors")


def load_rows(folders: Sequence[Path]) -> list[Tensor]:
    """Read what :func:`save_row` wrote."""
    return [load_file(folder / "row.safetensors")["row"] for folder in folders]


class CopyRouting:
    """A fitted router over an encoder copy.

    Args:
        embedder: The copy.
        head: The head, with the rows of registered experts.
        to_weights: From scores (n, experts) to weights, rows that sum to one.
        rows: Parameters of registered experts.
    """

    def __init__(
        self,
        embedder: Embedder,
        head: RouterHead,
        to_weights: Callable[[Tensor], Tensor],
        rows: Sequence[Tensor] = (),
    ) -> None:
        self.embedder = embedder
        self.head = head
        self.to_weights = to_weights
        self.rows = list(rows)

    @torch.no_grad()
    def weights(self, units: Sequence[str], texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
        """Expert weights of queries, shape (n, experts)."""
        distinct = sorted(set(texts))
        row = {text: i for i, text in enumerate(distinct)}
        vectors = torch.tensor(self.embedder.embed(distinct, progress))
        added = [self.head.row_scores(vectors, parameters)[:, None] for parameters in self.rows]
        scores = torch.cat([self.head(vectors), *added], dim=1) if added else self.head(vectors)
        weights: NDArray[np.float64] = self.to_weights(scores).double().numpy()
        return weights[[row[text] for text in texts]]
