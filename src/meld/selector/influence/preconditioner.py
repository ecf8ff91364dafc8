"""Estimators of v = (H + damping I)^-1 grad L(X), block by block (one block per LoRA matrix).

Each takes the validation gradient and the per-sample gradients of the warm-up set in chunks, so that those can be
streamed; only ``woodbury`` has to hold them all. H is the empirical Fisher matrix of the block, or a factor of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from meld.errors import ConfigError, DataError

_SCHULZ_STEPS = 30


class Preconditioner(Protocol):
    """An estimator of the inverse-Hessian-vector product."""

    def __call__(
        self, target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float
    ) -> dict[str, Tensor]:
        """Estimate v.

        Args:
            target: Block name to grad L(X), shape (out, in).
            chunks: Block name to per-sample gradients, shape (batch, out, in); read once.
            damping: lambda > 0, in the unit of squared gradients.

        Returns:
            Block name to v, shape (out, in).

        Raises:
            DataError: If there are no warm-up gradients.
        """
        ...


def preconditioner(name: str) -> Preconditioner:
    """An estimator by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    known: dict[str, Preconditioner] = {
        "one_sided": one_sided,
        "woodbury": woodbury,
        "datainf": datainf,
        "hyperinf": hyperinf,
        "identity": identity,
    }
    if name not in known:
        raise ConfigError(
            f"There is no preconditioner '{name}'.",
            where="selector.influence.preconditioner",
            fix=f"one of {', '.join(known)}",
        )
    return known[name]


def identity(target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float) -> dict[str, Tensor]:
    """v = grad L(X): H + damping I taken as the identity, so that influence is a plain gradient product (TracIn)."""
    del chunks, damping
    return {name: gradient.clone() for name, gradient in target.items()}


def one_sided(
    target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float
) -> dict[str, Tensor]:
    """v = grad L(X) (mean g^T g + damping I)^-1 with the smaller side of g inside, solved directly."""
    factors = _mean_factors(target, chunks)
    result = {}
    for name, gradient in target.items():
        wide = gradient.shape[0] < gradient.shape[1]
        rows = gradient.T if wide else gradient
        solved = torch.linalg.solve(_damped(factors[name], damping), rows.double().T).T.to(gradient.dtype)
        result[name] = solved.T.contiguous() if wide else solved.contiguous()
    return result


def hyperinf(target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float) -> dict[str, Tensor]:
    """As :func:`one_sided`, inverted by Schulz's iteration Y <- Y (2I - A Y) (HyperINF: Zhou, Fan and Jaggi, 2024).

    It starts at A^T / (|A|_1 |A|_inf), from where it always converges, quadratically in the end; 30 steps at most.
    """
    factors = _mean_factors(target, chunks)
    result = {}
    for name, gradient in target.items():
        wide = gradient.shape[0] < gradient.shape[1]
        rows = gradient.T if wide else gradient
        product = (rows.double() @ schulz_inverse(_damped(factors[name], damping))).to(gradient.dtype)
        result[name] = product.T.contiguous() if wide else product.contiguous()
    return result


def schulz_inverse(matrix: Tensor, steps: int = _SCHULZ_STEPS) -> Tensor:
    """The inverse of a square matrix by Schulz's iteration.

    Args:
        matrix: Shape (n, n), not singular.
        steps: Number of iterations.

    Returns:
        Shape (n, n).
    """
    twice = 2.0 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    inverse = matrix.T / (matrix.abs().sum(dim=0).max() * matrix.abs().sum(dim=1).max())
    for _ in range(steps):
        inverse = inverse @ (twice - matrix @ inverse)
    return inverse


def datainf(target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float) -> dict[str, Tensor]:
    """v = 1/(n damping) sum_i (t - <g_i, t> / (damping + |g_i|^2) g_i), the mean of the inverses of rank-one Fishers.

    DataInf (Kwon et al., 2024), Eq. 5: it swaps the inverse and the mean.
    """
    total = {name: torch.zeros_like(gradient, dtype=torch.float64) for name, gradient in target.items()}
    count = 0
    for chunk in chunks:
        count += len(next(iter(chunk.values())))
        for name, gradient in target.items():
            samples = chunk[name].double().flatten(1)  # (batch, out * in)
            weight = samples @ gradient.double().flatten() / (damping + samples.square().sum(dim=1))
            total[name] += (weight @ samples).view_as(gradient)
    _check_count(count)
    return {name: ((t.double() - total[name] / count) / damping).to(t.dtype) for name, t in target.items()}


def woodbury(target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]], damping: float) -> dict[str, Tensor]:
    """v = (mean_i g_i g_i^T + damping I)^-1 t exactly, over the flattened block, by the Woodbury identity.

    With G of shape (n, out * in): v = (t - G^T (n damping I + G G^T)^-1 G t) / damping. Memory: all n gradients.
    """
    stored: dict[str, list[Tensor]] = {name: [] for name in target}
    for chunk in chunks:
        for name, parts in stored.items():
            parts.append(chunk[name].flatten(1))
    result = {}
    for name, gradient in target.items():
        _check_count(len(stored[name]))
        samples = torch.cat(stored.pop(name)).double()
        flat = gradient.double().flatten()
        gram = samples @ samples.T
        gram.diagonal().add_(len(samples) * damping)
        correction = samples.T @ torch.linalg.solve(gram, samples @ flat)
        result[name] = ((flat - correction) / damping).view_as(gradient).to(gradient.dtype)
    return result


def _mean_factors(target: Mapping[str, Tensor], chunks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Per block the mean of g^T g (or g g^T, whichever is smaller), in double precision."""
    total = {
        name: torch.zeros((min(gradient.shape),) * 2, dtype=torch.float64, device=gradient.device)
        for name, gradient in target.items()
    }
    count = 0
    for chunk in chunks:
        count += len(next(iter(chunk.values())))
        for name, gradient in target.items():
            samples = chunk[name]
            rows = samples.transpose(1, 2) if gradient.shape[0] < gradient.shape[1] else samples
            stacked = rows.flatten(0, 1)  # (batch * long side, short side)
            total[name] += (stacked.T @ stacked).double()
    _check_count(count)
    return {name: factor / count for name, factor in total.items()}


def _damped(factor: Tensor, damping: float) -> Tensor:
    return factor + damping * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)


def _check_count(count: int) -> None:
    if count < 1:
        raise DataError(
            "The curvature needs gradients of the warm-up set, and it is empty.",
            fix="raise init_ratio, or use preconditioner=identity",
        )
