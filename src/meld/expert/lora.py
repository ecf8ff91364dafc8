"""``expert=lora``: trains one LoRA adapter on the samples of one unit, loss on answer tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from torch import Tensor

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import adapter_state, lora_parameters, save_adapter, set_adapter_state, train_adapter, with_lora
from meld.encoder.contrastive import linear_decay
from meld.errors import ConfigError
from meld.expert.decide import judge
from meld.progress import Progress
from meld.seeds import derive
from meld.trainer.fit import LightningTrainer, SeededData

Objective = Literal["answer", "ranking", "both"]

_REFERENCE_TOKENS = 6144
"""Token budget of a batch that only the base model reads."""


@dataclass(frozen=True)
class Lesson:
    """One training example.

    Attributes:
        encoded: The prompt and the answers: the label first, then wrong candidates (none for open answers without
            candidates).
        weight: Weight in the loss.
    """

    encoded: Encoded
    weight: float = 1.0


def over_base(lm: LanguageModel, lessons: Sequence[Lesson]) -> list[Lesson]:
    """Lessons whose answers are compared relative to the base model (:meth:`LanguageModel.over_base`)."""
    items = lm.over_base([lesson.encoded for lesson in lessons], _REFERENCE_TOKENS)
    return [replace(lesson, encoded=item) for lesson, item in zip(lessons, items, strict=True)]


class LitExpert(L.LightningModule):
    """Trains the adapter of a wrapped language model.

    Args:
        lm: A language model with one trainable adapter (:func:`meld.backbone.lora.attach_lora`).
        objective: ``answer``: mean negative log-likelihood per answer token, as in the papers. ``ranking``: softmax
            cross-entropy over the total log-probabilities of label and candidates, which is how ``decode=rank`` uses
            the model. ``both``: their sum.
        lr: Peak learning rate.
        weight_decay: AdamW's.
        total_steps: Length of the learning-rate schedule.
    """

    def __init__(
        self, lm: LanguageModel, objective: Objective, lr: float, weight_decay: float, total_steps: int
    ) -> None:
        super().__init__()
        self.lm = lm
        self.model = lm.model
        self.objective = objective
        self.lr = lr
        self.weight_decay = weight_decay
        self.total_steps = total_steps
        # Checkpoints hold the adapter alone; the frozen base is the same in every one.
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        trained = {f"model.{name}" for name in lora_parameters(self.lm)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def losses(self, batch: Sequence[Lesson]) -> Tensor:
        """Loss of each example, shape (n,)."""
        ranking = self.objective != "answer"
        items = [lesson.encoded for lesson in batch]
        if not ranking:
            items = [Encoded(item.prompt, item.options[:1]) for item in items]
        losses = []
        for item, scores in zip(items, self.lm.option_log_probs(items), strict=True):
            loss = torch.zeros((), device=scores.device)
            compared = scores + torch.tensor(item.offsets, device=scores.device) if item.offsets else scores
            if self.objective != "ranking" or len(scores) == 1:
                loss = loss - scores[0] / len(item.options[0])
            if ranking and len(scores) > 1:
                loss = loss - compared.log_softmax(dim=0)[0]
            losses.append(loss)
        return torch.stack(losses)

    def loss(self, batch: Sequence[Lesson]) -> Tensor:
        """Weighted mean loss of a batch."""
        losses = self.losses(batch)
        weights = torch.tensor([lesson.weight for lesson in batch], device=losses.device)
        return (losses * weights).sum() / weights.sum()

    def training_step(self, batch: Sequence[Lesson], batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.loss(batch)
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Sequence[Lesson], batch_idx: int) -> None:
        """Loss on dev, for early stopping."""
        self.log("dev/loss", self.loss(batch), batch_size=len(batch), on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW on the adapter, linear decay."""
        parameters = list(lora_parameters(self.lm).values())
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        schedule = linear_decay(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LoraExpert:
    """How experts are trained.

    Args:
        rank: LoRA rank r.
        alpha: LoRA alpha; updates are scaled by alpha / r.
        dropout: Dropout on the adapter's input.
        objective: See :class:`LitExpert`.
        lr: Peak learning rate.
        weight_decay: AdamW's.
        epochs: Passes over the samples when an expert is initialised.
        batch_size: Samples per step on each device.
        accumulate: Batches per optimisation step.
        patience: Epochs without a better dev loss before stopping.
        train_candidates: Wrong candidates shown beside the label under ``ranking``.
        max_samples: Samples of its unit that an expert is trained on, or that selection chooses from, at most; None for
            all.
        view_dropout: Share of training samples that show the query without what encoder-only meta-path steps attach, so
            that the expert answers with and without.
        min_dev: Questions that early stopping, the decision to keep an adapter, the search for a meta-path and the
            router should have at least; where dev has fewer, labelled ones are kept from training to join it.
        tolerance: A trained adapter is kept unless its loss on those questions rises by more than this many standard
            errors (:func:`meld.expert.decide.judge`).
        strengths: How far from the start towards the trained weights the adapter may end, in (0, 1]: the one with the
            lowest loss on those questions is taken, the first without any. Interpolating weights undoes some of what
            few, partly wrong labels overdo (WiSE-FT, Wortsman et al., 2022).
        gradient_checkpointing: Keep less for the backward pass and compute it again: about a third more time, a
            fraction of the memory, the same gradients. Execution only.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"gradient_checkpointing"})
    shared: ClassVar[bool] = False
    """Whether one adapter is trained for all units (``expert=joint``)."""

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.05,
        objective: Objective = "answer",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        epochs: int = 3,
        batch_size: int = 8,
        accumulate: int = 1,
        patience: int = 1,
        train_candidates: int = 7,
        max_samples: int | None = None,
        view_dropout: float = 0.25,
        min_dev: int = 20,
        tolerance: float = 0.0,
        strengths: Sequence[float] = (1.0,),
        gradient_checkpointing: bool = False,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.objective: Objective = objective
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.patience = patience
        self.train_candidates = train_candidates
        self.max_samples = max_samples
        self.view_dropout = view_dropout
        self.min_dev = min_dev
        self.tolerance = tolerance
        if not strengths or not all(0 < strength <= 1 for strength in strengths):
            raise ConfigError(
                f"strengths are {list(strengths)}; there must be at least one, each above 0 and at most 1",
                where="expert.strengths",
                fix="expert.strengths=[1.0]",
            )
        self.strengths = tuple(strengths)
        self.gradient_checkpointing = gradient_checkpointing

    def fit(
        self,
        lm: LanguageModel,
        targets: Sequence[str],
        lessons: Sequence[Lesson],
        dev: Sequence[Lesson],
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        what: str,
        progress: Progress,
        logger: Logger | None = None,
        start: dict[str, Tensor] | None = None,
        epochs: int | None = None,
        lr_factor: float = 1.0,
    ) -> dict[str, float | None]:
        """Train an adapter and write it in PEFT's layout.

        Args:
            lm: The frozen base model; it is clean again afterwards.
            targets: Names of the linear layers to adapt.
            lessons: Training examples.
            dev: Dev examples for early stopping; may be empty.
            out: Folder for the adapter.
            work: Folder for checkpoints.
            trainer: Fits the module.
            seed: Seeds initialisation, order and dropout.
            what: Name for the progress display.
            progress: The display.
            logger: Where metrics go.
            start: Adapter weights to continue from; fresh if None.
            epochs: Passes over the examples; this expert's own number by default.
            lr_factor: Multiplies the learning rate (refinement trains more gently).

        Returns:
            Examples and tokens of an epoch, dev loss before and after (None without a dev set), the gain with its
            standard error, the strength that was taken, and whether the adapter was kept; where not, it is the one that
            training started from.
        """
        passes = self.epochs if epochs is None else epochs
        if lm.relative and self.objective != "answer":
            lessons, dev = over_base(lm, lessons), over_base(lm, dev)
        with with_lora(lm, targets, self.rank, self.alpha, self.dropout, derive(seed, "init")) as wrapped:
            if start is not None:
                set_adapter_state(wrapped, start)
            steps = -(-len(lessons) // (self.batch_size * self.accumulate)) * passes
            module = LitExpert(wrapped, self.objective, self.lr * lr_factor, self.weight_decay, max(1, steps))
            before = self._dev_losses(module, dev)
            initial = adapter_state(wrapped)
            if lessons and passes:
                data = SeededData(lessons, dev, self.batch_size, derive(seed, "order"), lambda x: x.encoded.length)
                train_adapter(wrapped, self.gradient_checkpointing)
                trainer.fit(
                    module,
                    data,
                    epochs=passes,
                    seed=derive(seed, "dropout"),
                    work=work,
                    what=what,
                    progress=progress,
                    logger=logger,
                    monitor="dev/loss",
                    patience=self.patience,
                    accumulate=self.accumulate,
                )
            wrapped.model.eval()
            strength, after = self._settle(module, initial, dev)
            # Early stopping counts from before the first step.
            verdict = judge(before, after, self.tolerance)
            if not verdict.kept:
                set_adapter_state(wrapped, initial)
            save_adapter(wrapped, out)
        return {
            "examples": len(lessons),
            "tokens": sum(lesson.encoded.length for lesson in lessons),
            "dev_examples": len(dev),
            "dev_loss_before": _mean(before),
            "dev_loss_after": _mean(after),
            "gain": _finite(verdict.gain),
            "gain_error": _finite(verdict.error),
            "strength": strength,
            "kept": verdict.kept,
        }

    def _settle(
        self, module: LitExpert, initial: dict[str, Tensor], dev: Sequence[Lesson]
    ) -> tuple[float, NDArray[np.float64]]:
        """Move the adapter to the best of ``strengths``; returns it with the dev losses there, shape (n,)."""
        trained = adapter_state(module.lm)
        found: list[tuple[float, NDArray[np.float64]]] = []
        for strength in self.strengths if dev else self.strengths[:1]:
            set_adapter_state(module.lm, interpolated(initial, trained, strength))
            found.append((strength, self._dev_losses(module, dev)))
        best = min(found, key=lambda tried: float(tried[1].mean())) if dev else found[0]
        set_adapter_state(module.lm, interpolated(initial, trained, best[0]))
        return best

    def _dev_losses(self, module: LitExpert, dev: Sequence[Lesson]) -> NDArray[np.float64]:
        """Loss of each dev example in evaluation mode, shape (n,)."""
        module.lm.model.eval()
        losses: list[float] = []
        with torch.no_grad():
            for at in range(0, len(dev), self.batch_size):
                losses += module.losses(dev[at : at + self.batch_size]).tolist()
        return np.array(losses, dtype=np.float64)


def interpolated(start: dict[str, Tensor], end: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Adapter weights between two states: ``strength`` 0 is the start, 1 the end, bit for bit."""
    if strength == 1.0:
        return end
    return {name: tensor.lerp(end[name], strength) for name, tensor in start.items()}


def _mean(losses: NDArray[np.float64]) -> float | None:
    """Mean loss; None where there is nothing to average."""
    return round(float(losses.mean()), 6) if len(losses) else None


def _finite(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
