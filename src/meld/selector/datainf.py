"""DataInf as a baseline: closed-form influence with every sample's gradient stored (Kwon et al., 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from meld.errors import ConfigError, UserError
from meld.seeds import derive
from meld.selector.base import Features, FloatArray, Material, Selection, best_scored, budget, check_ratio
from meld.selector.costs import BACKWARD
from meld.selector.influence.gradients import lora_matrices, mean_gradient, per_sample_gradients
from meld.selector.influence.preconditioner import preconditioner
from meld.selector.warmup import epochs_of_adam, warm_up_items


class DataInf:
    """score(z) = <v, grad L(z)> with v = mean_i (g_i g_i^T + lambda_l I)^-1 grad L(X) over the pool, per LoRA matrix.

    The adapter is fine-tuned on the pool first. lambda_l is the paper's: a tenth of the mean squared gradient entry of
    the matrix l.

    Args:
        c: Share of the pool to select.
        warm_up: Share of the pool, drawn at random, that the adapter is fine-tuned on.
        epochs: Passes over it.
        damping_ratio: lambda_l over the mean squared gradient entry.
        lr: Peak learning rate of the fine-tuning.
        batch_size: Items of one of its steps.
        max_store_gb: The gradients of all samples are held at the same time; above this size it is an error.
        max_tokens: Tokens of one batch of gradients.
        max_rows: Items of one batch of gradients.

    Raises:
        ConfigError: If ``c`` or ``warm_up`` is not in (0, 1], or another number is not positive.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"max_store_gb", "max_tokens", "max_rows"})
    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = True

    def __init__(
        self,
        c: float,
        warm_up: float = 1.0,
        epochs: int = 1,
        damping_ratio: float = 0.1,
        lr: float = 1e-3,
        batch_size: int = 8,
        max_store_gb: float = 8.0,
        max_tokens: int = 4096,
        max_rows: int = 16,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("damping_ratio", damping_ratio)):
            if value <= 0:
                raise ConfigError(f"{name} is {value}; it must be above 0.", where=f"selector.{name}", fix="1")
        self.c = check_ratio(c)
        self.warm_up = check_ratio(warm_up, "selector.warm_up")
        self.epochs = epochs
        self.damping_ratio = damping_ratio
        self.lr = lr
        self.batch_size = batch_size
        self.max_store_gb = max_store_gb
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def score(self, material: Material) -> FloatArray:
        """-I, shape (n,); higher helps.

        Raises:
            DataError: If the pool, the few-shot set or one of their items cannot be used.
            UserError: If the gradients do not fit, or the proxy has no plain LoRA matrices.
        """
        meter, pool = material.meter, material.pool
        chosen = warm_up_items(len(pool), self.warm_up, derive(material.seed, "warm-up"))
        items = [pool[index] for index in chosen]
        with material.attach() as lm:
            size = sum(layer.weight.numel() for layer in lora_matrices(lm).values())
            self._check_store(len(pool), size)
            with meter.step("fine-tuning") as step:
                step.work(lm, items, BACKWARD * self.epochs)
                seed = derive(material.seed, "order")
                for _ in epochs_of_adam(lm, items, self.epochs, self.lr, self.batch_size, seed):
                    pass
            with meter.step("gradient of the validation set") as step:
                step.work(lm, material.validation, BACKWARD)
                target = mean_gradient(lm, material.validation, self.max_tokens, self.max_rows, "validation set")
            with meter.step("gradients of the pool") as step:
                step.work(lm, pool, BACKWARD)
                step.stored_mb = 4e-6 * len(pool) * size
                stored = {name: torch.zeros((len(pool), *part.shape)) for name, part in target.items()}
                for batch, gradients in per_sample_gradients(lm, pool, self.max_tokens, self.max_rows, "pool"):
                    for name, part in gradients.items():
                        stored[name][batch] = part.cpu()
        with meter.step("closed form"):
            return self._closed_form({name: part.cpu() for name, part in target.items()}, stored)

    def _closed_form(self, target: dict[str, Tensor], stored: dict[str, Tensor]) -> FloatArray:
        damping = {name: self.damping_ratio * float(part.double().square().mean()) for name, part in stored.items()}
        # A matrix without gradients has nothing to say, and no scale to damp by.
        used = {name: part for name, part in target.items() if damping[name] > 0.0}
        direction = preconditioner("datainf")(used, [stored], damping)
        scores = np.zeros(len(next(iter(stored.values()))))
        for name, part in direction.items():
            scores += (stored[name].flatten(1) @ part.flatten()).double().numpy()
        return scores

    def _check_store(self, n_pool: int, size: int) -> None:
        needed = 4e-9 * n_pool * size
        if needed > self.max_store_gb:
            raise UserError(
                f"DataInf stores the gradients of {n_pool} samples: {needed:.1f} GB, above {self.max_store_gb:g} GB.",
                where="selector.max_store_gb",
                fix=f"selector.max_store_gb={needed * 1.1:.0f} if there is room; selector=meld_ds stores none",
            )

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """The items with the highest scores.

        Raises:
            DataError: If the budget does not fit the pool, or scores are missing or not finite.
        """
        del seed
        return best_scored(influence, features.size, n_select, "helpfulness")
