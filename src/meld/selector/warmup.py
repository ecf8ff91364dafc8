"""A plain warm-up of a proxy's adapter that shows its optimizer, for baselines that read Adam's state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import label_nll, lora_parameters, train_adapter
from meld.errors import DataError
from meld.selector.influence.gradients import Gradients
from meld.selector.losses import check_items

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state at the end of an epoch; the model holds its weights until the next one is asked for.

    Attributes:
        lr: Mean learning rate of the epoch.
        steps: Optimizer steps so far.
        first: Adam's running mean of gradients, by parameter.
        second: Adam's running mean of squared gradients.
    """

    lr: float
    steps: int
    first: Gradients
    second: Gradients


def epochs_of_adam(
    lm: LanguageModel, items: Sequence[Encoded], epochs: int, lr: float, batch_size: int, seed: int
) -> Iterator[Checkpoint]:
    """Train the adapter on label losses with Adam and a linearly falling rate, epoch by epoch.

    Args:
        lm: The proxy with a fresh adapter.
        items: ``options[0]`` is the label.
        epochs: Passes over the items.
        lr: Peak learning rate.
        batch_size: Items of a step.
        seed: Seeds the order.

    Yields:
        One checkpoint for each epoch, in evaluation mode.

    Raises:
        DataError: If there are no items, one does not fit the window, or the loss is not finite.
    """
    if not items:
        raise DataError("The warm-up set is empty.", fix="raise selector.warm_up")
    check_items(lm, items, "warm-up set")
    parameters = lora_parameters(lm)
    optimizer = torch.optim.Adam(list(parameters.values()), lr=lr, betas=BETAS, eps=EPSILON)
    rng = np.random.default_rng(seed)
    per_epoch = -(-len(items) // batch_size)
    done = 0
    for _ in range(epochs):
        train_adapter(lm)
        order = rng.permutation(len(items))
        rates = []
        for at in range(0, len(order), batch_size):
            rate = lr * (1.0 - done / (per_epoch * epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.enable_grad():
                loss = label_nll(lm, [items[int(index)] for index in order[at : at + batch_size]]).mean()
                if not bool(torch.isfinite(loss)):
                    raise DataError("The warm-up's loss is not finite.", fix="lower selector.lr")
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            rates.append(rate)
            done += 1
        optimizer.zero_grad()
        lm.model.eval()
        state = {name: optimizer.state[parameter] for name, parameter in parameters.items()}
        yield Checkpoint(
            float(np.mean(rates)),
            done,
            {name: part["exp_avg"].detach().clone() for name, part in state.items() if part},
            {name: part["exp_avg_sq"].detach().clone() for name, part in state.items() if part},
        )


def warm_up_items(n_pool: int, share: float, seed: int) -> list[int]:
    """Positions of a random share of a pool, at least one item."""
    size = min(n_pool, max(1, round(share * n_pool)))
    return [int(index) for index in np.random.default_rng(seed).permutation(n_pool)[:size]]
