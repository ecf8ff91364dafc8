"""LESS: cosine of Adam-preconditioned LoRA gradients to the validation set's, over checkpoints (Xia et al., 2024)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from meld.backbone.language_model import LanguageModel
from meld.errors import ConfigError
from meld.seeds import derive
from meld.selector.base import Features, FloatArray, Material, Selection, best_scored, budget, check_ratio
from meld.selector.costs import BACKWARD
from meld.selector.influence.gradients import Gradients, lora_matrices, mean_gradient, per_sample_gradients
from meld.selector.warmup import BETAS, EPSILON, Checkpoint, epochs_of_adam, warm_up_items

_BLOCK = 4096
_ROWS = 256
_KEPT_BYTES = 1 << 30


class RademacherProjection:
    """A random projection R^p -> R^d by signs / sqrt(d): inner products keep their expectation.

    Args:
        size: p.
        dimensions: d.
        seed: Seeds the signs, block by block, so that they need not be kept.
    """

    def __init__(self, size: int, dimensions: int, seed: int) -> None:
        self.size = size
        self.dimensions = dimensions
        self._seed = seed
        keep = size * dimensions <= _KEPT_BYTES
        self._kept = [self._signs(at) for at in range(0, size, _BLOCK)] if keep else None

    def _signs(self, at: int) -> Tensor:
        shape = (min(_BLOCK, self.size - at), self.dimensions)
        bits = np.random.default_rng(derive(self._seed, at)).integers(0, 2, shape, dtype=np.int8)
        return torch.from_numpy(2 * bits - 1)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Project vectors of shape (n, p) to shape (n, d)."""
        total = torch.zeros((len(vectors), self.dimensions))
        for number, at in enumerate(range(0, self.size, _BLOCK)):
            signs = self._signs(at) if self._kept is None else self._kept[number]
            total += vectors[:, at : at + _BLOCK].float().cpu() @ signs.float()
        return total / math.sqrt(self.dimensions)


def adam_directions(gradients: Gradients, checkpoint: Checkpoint) -> Gradients:
    """What Adam's next step would be for each sample alone: m / (sqrt(v) + epsilon), bias-corrected.

    Args:
        gradients: Parameter name to per-sample gradients, shape (batch, out, in).
        checkpoint: Adam's state.
    """
    step = checkpoint.steps + 1
    directions = {}
    for name, gradient in gradients.items():
        first = BETAS[0] * checkpoint.first[name] + (1.0 - BETAS[0]) * gradient
        second = BETAS[1] * checkpoint.second[name] + (1.0 - BETAS[1]) * gradient.square()
        first, second = first / (1.0 - BETAS[0] ** step), second / (1.0 - BETAS[1] ** step)
        directions[name] = first / (second.sqrt() + EPSILON)
    return directions


class Less:
    """score(z) = sum over epochs of their mean rate times the cosine of <Gamma(z), grad L(X)>, both projected.

    Args:
        c: Share of the pool to select.
        warm_up: Share of the pool, drawn at random, that the adapter is trained on.
        epochs: Passes over it, each with a checkpoint.
        dimensions: d of the random projection. The paper's 8192 is for gradients of 10^8 entries.
        lr: Peak learning rate of the warm-up.
        batch_size: Items of a step of the warm-up.
        max_tokens: Tokens of one batch of gradients.
        max_rows: Items of one batch of gradients.

    Raises:
        ConfigError: If ``c`` or ``warm_up`` is not in (0, 1], or a number of epochs or dimensions is below one.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"max_tokens", "max_rows"})
    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = True

    def __init__(
        self,
        c: float,
        warm_up: float = 0.05,
        epochs: int = 4,
        dimensions: int = 2048,
        lr: float = 1e-3,
        batch_size: int = 8,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        for name, value in (("epochs", epochs), ("dimensions", dimensions), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.", where=f"selector.{name}", fix="4")
        self.c = check_ratio(c)
        self.warm_up = check_ratio(warm_up, "selector.warm_up")
        self.epochs = epochs
        self.dimensions = dimensions
        self.lr = lr
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def score(self, material: Material) -> FloatArray:
        """Influence with Adam, shape (n,); higher helps.

        Raises:
            DataError: If the pool, the few-shot set or one of their items cannot be used.
            UserError: If the proxy has no plain LoRA matrices.
        """
        meter, pool = material.meter, material.pool
        chosen = warm_up_items(len(pool), self.warm_up, derive(material.seed, "warm-up"))
        items = [pool[index] for index in chosen]
        scores = np.zeros(len(pool))
        with material.attach() as lm:
            size = sum(layer.weight.numel() for layer in lora_matrices(lm).values())
            with meter.step("projection"):
                project = RademacherProjection(size, self.dimensions, derive(material.seed, "projection"))
            epochs = epochs_of_adam(lm, items, self.epochs, self.lr, self.batch_size, derive(material.seed, "order"))
            for _ in range(self.epochs):
                with meter.step("warm-up") as step:
                    step.work(lm, items, BACKWARD)
                    checkpoint = next(epochs)
                with meter.step("gradient of the validation set") as step:
                    step.work(lm, material.validation, BACKWARD)
                    target = mean_gradient(lm, material.validation, self.max_tokens, self.max_rows, "validation set")
                    flat = torch.cat([target[name].flatten() for name in sorted(target)])
                    aim = torch.nn.functional.normalize(project(flat[None])[0], dim=0)
                with meter.step("gradient features of the pool") as step:
                    step.work(lm, pool, BACKWARD)
                    step.stored_mb = 4e-6 * len(pool) * self.dimensions * self.epochs
                    features = self._features(lm, material, checkpoint, project)
                    scores += checkpoint.lr * (features @ aim).double().numpy()
        return scores

    def _features(
        self, lm: LanguageModel, material: Material, checkpoint: Checkpoint, project: RademacherProjection
    ) -> Tensor:
        """Projected, normalised Adam directions of the pool, shape (n, d)."""
        features = torch.zeros((len(material.pool), project.dimensions))
        rows: list[int] = []
        waiting: list[Tensor] = []

        def flush() -> None:
            if rows:
                features[rows] = torch.nn.functional.normalize(project(torch.cat(waiting)), dim=1)
                rows.clear()
                waiting.clear()

        batches = per_sample_gradients(lm, material.pool, self.max_tokens, self.max_rows, "pool")
        for batch, gradients in batches:
            directions = adam_directions(gradients, checkpoint)
            rows += batch
            waiting.append(torch.cat([directions[name].flatten(1).cpu() for name in sorted(directions)], dim=1))
            if len(rows) >= _ROWS:
                flush()
        flush()
        return features

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """The items with the highest scores.

        Raises:
            DataError: If the budget does not fit the pool, or scores are missing or not finite.
        """
        del seed
        return best_scored(influence, features.size, n_select, "adam_cosine")
