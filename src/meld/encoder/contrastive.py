"""``encoder=...``: M_RAG fine-tuned with the contrastive loss on aligned entities of all datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from meld.backbone.weights import fingerprint
from meld.encoder.in_batch import Families, families, with_in_batch_negatives
from meld.encoder.loss import contrastive_loss
from meld.encoder.mining import mine
from meld.encoder.vectors import Embedder, Memory
from meld.progress import Progress, quiet_libraries
from meld.seeds import derive, generator
from meld.task.base import Alignment
from meld.trainer.fit import LightningTrainer, SeededData


class LitEncoder(L.LightningModule):
    """Fine-tunes a sentence encoder.

    Args:
        model: A ``SentenceTransformer``.
        tau: Temperature of the loss.
        lr: Peak learning rate.
        total_steps: Length of the linear decay.
        tuned_layers: How many of the last layers are tuned; None for the whole encoder.
        families: Classes of the alignments, to use the positives of other classes in a batch as negatives; None for
            N_q as it is.
    """

    def __init__(
        self,
        model: Any,
        tau: float,
        lr: float,
        total_steps: int,
        tuned_layers: int | None = None,
        families: Families | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.model.train()
        if tuned_layers is not None:
            freeze_below(model, tuned_layers)
        self.strict_loading = False
        self.tau = tau
        self.lr = lr
        self.total_steps = total_steps
        self.families = families

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors with gradients, shape (n, d)."""
        features = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.model.preprocess(list(texts)).items()
        }
        return torch.nn.functional.normalize(self.model(features)["sentence_embedding"], dim=1)

    def loss(self, batch: Sequence[Alignment]) -> Tensor:
        """The contrastive loss of a batch of alignments; every distinct text is encoded once."""
        if self.families is not None:
            batch = with_in_batch_negatives(batch, self.families)
        texts = sorted({t for a in batch for t in (a.anchor, *a.positives, *a.negatives)})
        row = {text: index for index, text in enumerate(texts)}
        anchors, candidates, owner, positive = [], [], [], []
        for index, a in enumerate(batch):
            for text in (*a.positives, *a.negatives):
                anchors.append(row[a.anchor])
                candidates.append(row[text])
                owner.append(index)
                positive.append(text in a.positives)
        vectors = self.vectors(texts)
        scores = (vectors[anchors] * vectors[candidates]).sum(dim=1)
        device = scores.device
        return contrastive_loss(
            scores, torch.tensor(owner, device=device), torch.tensor(positive, device=device), self.tau
        )

    def training_step(self, batch: Sequence[Alignment], batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.loss(batch)
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up over a tenth of the steps and linear decay."""
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr, weight_decay=0.01)
        scheduler = linear_decay(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def freeze_below(model: Any, tuned_layers: int) -> None:
    """Freeze a sentence encoder but for its last layers; what is frozen also drops nothing out.

    Args:
        model: A ``SentenceTransformer`` over a transformer with a stack of layers.
        tuned_layers: How many of the last layers stay trainable; all of them if there are fewer.
    """
    model.requires_grad_(False)
    model.eval()
    stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    for layer in list(stack)[max(0, len(stack) - tuned_layers) :]:
        layer.requires_grad_(True)
        layer.train()


def linear_decay(optimizer: torch.optim.Optimizer, total_steps: int, warm_up: float = 0.1) -> Any:
    """Learning-rate factor: linear warm-up over a share of the steps, then linear decay towards zero."""
    rise = max(1, round(total_steps * warm_up))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return max(0.05, (total_steps - step) / max(1, total_steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class ContrastiveEncoder:
    """M_RAG: one encoder for all datasets.

    Args:
        path: Initial sentence encoder: folder, hub name or ``embedded:minilm``.
        tau: Temperature of the loss.
        epochs: Passes over the alignments; 0 leaves the encoder untouched.
        lr: Peak learning rate.
        batch_size: Alignments per step.
        max_length: Tokens of a text that are read.
        n_negatives: Size of N_q; missing ones are mined with the initial encoder.
        max_positives: Positives per alignment that are used.
        in_batch_negatives: Whether the positives of other queries in a batch count as negatives too, those of the same
            class (column type, relation, entity, value) left out. Off, as in the papers' formula.
        max_alignments: Alignments per unit at most, drawn at random; None for all.
        tuned_layers: How many of the encoder's last layers are tuned; None for the whole encoder, as in the papers.
        train_on: Units or datasets whose alignments train the encoder; None for all. Naming them keeps the encoder when
            a dataset is added.
        embed_batch_size: Texts per pass when embedding. Execution only.
        device: Where embeddings are computed, None for automatic. Execution only.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"embed_batch_size", "device", "path"})

    def __init__(
        self,
        path: str,
        tau: float = 0.02,
        epochs: int = 2,
        lr: float = 2e-5,
        batch_size: int = 16,
        max_length: int = 128,
        n_negatives: int = 5,
        max_positives: int = 2,
        max_alignments: int | None = None,
        tuned_layers: int | None = None,
        train_on: Sequence[str] | None = None,
        embed_batch_size: int = 64,
        device: str | None = None,
        in_batch_negatives: bool = False,
    ) -> None:
        self.path = path
        self.tau = tau
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_length = max_length
        self.n_negatives = n_negatives
        self.max_positives = max_positives
        self.max_alignments = max_alignments
        self.tuned_layers = tuned_layers
        self.train_on = None if train_on is None else tuple(train_on)
        self.embed_batch_size = embed_batch_size
        self.device = device
        self.in_batch_negatives = in_batch_negatives

    def fingerprint(self) -> str:
        """Identity of the initial weights."""
        return fingerprint(self.path)

    def trains_on(self, unit: str) -> bool:
        """Whether a unit's alignments train the encoder."""
        return self.epochs > 0 and (
            self.train_on is None or unit in self.train_on or unit.partition(".")[0] in self.train_on
        )

    def open(self, folder: Path | None = None) -> Embedder:
        """The encoder for embedding: a trained one from its folder, or the initial one."""
        return Embedder(str(folder or self.path), self.max_length, self.embed_batch_size, self.device)

    def fit(
        self,
        alignments: Mapping[str, Sequence[Alignment]],
        groups: Mapping[str, Mapping[str, Sequence[str]]],
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        progress: Progress,
        logger: Logger | None = None,
    ) -> dict[str, int]:
        """Train M_RAG and write it in sentence-transformers layout.

        Args:
            alignments: By unit, P_q and N_q of the few-shot training samples.
            groups: By unit, the texts to mine hard negatives among.
            out: Folder to write the encoder to.
            work: Folder for checkpoints.
            trainer: Fits the module.
            seed: Seeds subsampling, order and dropout.
            progress: The display.
            logger: Where metrics go.

        Returns:
            How many alignments each unit gave.
        """
        embedder = self.open()
        # Units of one dataset mine among the same tuples; each text is embedded once.
        memory = Memory(embedder)
        numbers = families(alignments) if self.in_batch_negatives else None
        chosen: list[Alignment] = []
        counts: dict[str, int] = {}
        known: dict[Alignment, int] = {}
        for unit in sorted(alignments):
            mine_here = list(alignments[unit])
            if self.max_alignments is not None and len(mine_here) > self.max_alignments:
                picked = generator(seed, "alignments", unit).permutation(len(mine_here))[: self.max_alignments]
                mine_here = [mine_here[i] for i in np.sort(picked)]
            trimmed = [_trim(a, self.max_positives) for a in mine_here]
            complete = mine(trimmed, groups[unit], memory, self.n_negatives, progress)
            counts[unit] = sum(a is not None for a in complete)
            chosen += [a for a in complete if a is not None]
            if numbers is not None:
                known |= {new: numbers[old] for old, new in zip(mine_here, complete, strict=True) if new is not None}
        if chosen and self.epochs:
            steps = -(-len(chosen) // self.batch_size) * self.epochs
            module = LitEncoder(
                embedder.model, self.tau, self.lr, steps, self.tuned_layers, None if numbers is None else known
            )
            data = SeededData(chosen, (), self.batch_size, derive(seed, "order"))
            trainer.fit(
                module,
                data,
                epochs=self.epochs,
                seed=derive(seed, "dropout"),
                work=work,
                what="train M_RAG",
                progress=progress,
                logger=logger,
            )
        embedder.model.eval()
        with quiet_libraries():
            embedder.model.save(str(out), create_model_card=False)
        return counts


def _trim(alignment: Alignment, max_positives: int) -> Alignment:
    """Use at most some positives; the rest must still not be mined as negatives."""
    rest = alignment.positives[max_positives:]
    return Alignment(
        alignment.anchor,
        alignment.positives[:max_positives],
        alignment.negatives,
        alignment.group,
        (*alignment.excluded, *rest),
    )
