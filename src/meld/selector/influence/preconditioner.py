"""Estimators of v = (H + damping I)^-1 grad L(X), block by block (one block per LoRA matrix).

Each takes the validation gradient and the per-sample gradients of the warm-up set in chunks, so that those can be
streamed; only ``woodbury`` has to hold them all. H is the empirical Fisher matrix of the block, or a factor of it.
Several dampings are served by one reading of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from meld.errors import ConfigError, DataError

Target = Mapping[str, Tensor]
"""Block name to grad L(X), shape (out, in)."""
Chunks = Iterable[Mapping[str, Tensor]]
"""Block name to per-sample gradients, shape (batch, out, in); read once."""
Damping = float | Mapping[str, float]
"""lambda > 0 in the unit of squared gradients, for all blocks or by block name."""
Estimates = Callable[[Target, Chunks, Sequence[Damping]], list[dict[str, Tensor]]]
"""For each damping: block name to v, shape (out, in). Raises DataError if there are no warm-up gradients."""
Preconditioner = Callable[[Target, Chunks, Damping], dict[str, Tensor]]
"""The same for one damping."""

_SCHULZ_STEPS = 30


def preconditioner(name: str) -> Preconditioner:
    """An estimator by name, for one damping.

    Raises:
        ConfigError: If there is none of that name.
    """
    estimates = preconditioners(name)

    def estimate(target: Target, chunks: Chunks, damping: Damping) -> dict[str, Tensor]:
        return estimates(target, chunks, [damping])[0]

    return estimate


def preconditioners(name: str) -> Estimates:
    """An estimator by name, for several dampings at once.

    Raises:
        ConfigError: If there is none of that name.
    """
    known: dict[str, Estimates] = {
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


def identity(target: Target, chunks: Chunks, dampings: Sequence[Damping]) -> list[dict[str, Tensor]]:
    """v = grad L(X): H + damping I taken as the identity, so that influence is a plain gradient product (TracIn)."""
    del chunks
    return [{name: gradient.clone() for name, gradient in target.items()} for _ in dampings]


def one_sided(target: Target, chunks: Chunks, dampings: Sequence[Damping]) -> list[dict[str, Tensor]]:
    """v = grad L(X) (mean g^T g + damping I)^-1 with the smaller side of g inside, solved directly."""
    return _one_sided(target, chunks, dampings, lambda matrix, rows: torch.linalg.solve(matrix, rows.T).T)


def hyperinf(target: Target, chunks: Chunks, dampings: Sequence[Damping]) -> list[dict[str, Tensor]]:
    """As :func:`one_sided`, inverted by Schulz's iteration Y <- Y (2I - A Y) (HyperINF: Zhou, Fan and Jaggi, 2024).

    It starts at A^T / (|A|_1 |A|_inf), from where it always converges, quadratically in the end; 30 steps at most.
    """
    return _one_sided(target, chunks, dampings, lambda matrix, rows: rows @ schulz_inverse(matrix))


def _one_sided(
    target: Target, chunks: Chunks, dampings: Sequence[Damping], solve: Callable[[Tensor, Tensor], Tensor]
) -> list[dict[str, Tensor]]:
    factors = _mean_factors(target, chunks)
    results = []
    for damping in dampings:
        result = {}
        for name, gradient in target.items():
            wide = gradient.shape[0] < gradient.shape[1]
            rows = (gradient.T if wide else gradient).double()
            solved = solve(_damped(factors[name], _of(damping, name)), rows).to(gradient.dtype)
            result[name] = (solved.T if wide else solved).contiguous()
        results.append(result)
    return results


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


def datainf(target: Target, chunks: Chunks, dampings: Sequence[Damping]) -> list[dict[str, Tensor]]:
    """v = 1/(n damping) sum_i (t - <g_i, t> / (damping + |g_i|^2) g_i), the mean of the inverses of rank-one Fishers.

    DataInf (Kwon et al., 2024), Eq. 5: it swaps the inverse and the mean.
    """
    totals = [{name: torch.zeros_like(g, dtype=torch.float64) for name, g in target.items()} for _ in dampings]
    count = 0
    for chunk in chunks:
        count += len(next(iter(chunk.values())))
        for name, gradient in target.items():
            samples = chunk[name].double().flatten(1)  # (batch, out * in)
            inner, squares = samples @ gradient.double().flatten(), samples.square().sum(dim=1)
            for damping, total in zip(dampings, totals, strict=True):
                total[name] += ((inner / (_of(damping, name) + squares)) @ samples).view_as(gradient)
    _check_count(count)
    return [
        {name: ((t.double() - total[name] / count) / _of(damping, name)).to(t.dtype) for name, t in target.items()}
        for damping, total in zip(dampings, totals, strict=True)
    ]


def woodbury(target: Target, chunks: Chunks, dampings: Sequence[Damping]) -> list[dict[str, Tensor]]:
    """v = (mean_i g_i g_i^T + damping I)^-1 t exactly, over the flattened block, by the Woodbury identity.

    With G of shape (n, out * in): v = (t - G^T (n damping I + G G^T)^-1 G t) / damping. Memory: all n gradients.
    """
    stored: dict[str, list[Tensor]] = {name: [] for name in target}
    for chunk in chunks:
        for name, parts in stored.items():
            parts.append(chunk[name].flatten(1))
    results: list[dict[str, Tensor]] = [{} for _ in dampings]
    for name, gradient in target.items():
        _check_count(len(stored[name]))
        samples = torch.cat(stored.pop(name)).double()
        flat = gradient.double().flatten()
        gram, inner = samples @ samples.T, samples @ flat
        for damping, result in zip(dampings, results, strict=True):
            weight = _of(damping, name)
            correction = samples.T @ torch.linalg.solve(_damped(gram, len(samples) * weight), inner)
            result[name] = ((flat - correction) / weight).view_as(gradient).to(gradient.dtype)
    return results


def stored_bytes(name: str, target: Target, n_warmup: int) -> int:
    """Bytes of gradients and factors that an estimator holds at the same time, v included."""
    size = sum(gradient.numel() for gradient in target.values())
    if name == "woodbury":
        return 4 * size * (n_warmup + 1)
    if name in {"one_sided", "hyperinf"}:
        return 4 * size + 8 * sum(min(gradient.shape) ** 2 for gradient in target.values())
    return 4 * size + (8 * size if name == "datainf" else 0)


def _mean_factors(target: Target, chunks: Chunks) -> dict[str, Tensor]:
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


def _of(damping: Damping, name: str) -> float:
    return damping if isinstance(damping, (int, float)) else damping[name]


def _damped(factor: Tensor, damping: float) -> Tensor:
    return factor + damping * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)


def _check_count(count: int) -> None:
    if count < 1:
        raise DataError(
            "The curvature needs gradients of the warm-up set, and it is empty.",
            fix="raise init_ratio, or use preconditioner=identity",
        )
