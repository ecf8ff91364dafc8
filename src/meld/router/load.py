"""How evenly a router uses its experts: entropy of the weights, and balance of the load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def entropy(weights: NDArray[np.float64]) -> float:
    """Mean over queries of the entropy of their weights, in nats; 0 for no queries.

    Args:
        weights: Shape (n, experts), rows sum to one.
    """
    if not len(weights):
        return 0.0
    return float(-(weights * np.log(np.maximum(weights, 1e-12))).sum(axis=1).mean())


def balance(load: Sequence[float]) -> dict[str, float]:
    """How evenly experts share the work.

    Args:
        load: Work of each expert, in any unit.

    Returns:
        ``normalised_entropy``: entropy of the shares over log(experts): 1 when all work alike, 0 when one does
        everything (1 for a single expert). ``cv``: standard deviation of the shares over their mean: 0 when all work
        alike, sqrt(experts - 1) when one does everything.
    """
    total = float(np.sum(load))
    if total <= 0:
        return {"normalised_entropy": 0.0, "cv": 0.0}
    share = np.asarray(load, dtype=np.float64) / total
    spread = entropy(share[None, :])
    most = float(np.log(len(share)))
    return {
        "normalised_entropy": round(spread / most, 6) if most > 0 else 1.0,
        "cv": round(float(share.std() / share.mean()), 6),
    }


def usage(
    experts: Sequence[str], weights: NDArray[np.float64], gates: NDArray[np.float64], path: Sequence[str]
) -> dict[str, Any]:
    """What ``routing.json`` of a unit says.

    Args:
        experts: Names of the columns.
        weights: Shape (n, experts), the router's weights.
        gates: Shape (n, experts), what the mixer made of them.
        path: The unit's meta-path.
    """
    n, m = len(weights), len(experts)
    mean = weights.mean(axis=0) if n else np.zeros(m)
    gate = gates.mean(axis=0) if n else np.zeros(m)
    chosen = (gates > 0).mean(axis=0) if n else np.zeros(m)
    first = np.bincount(weights.argmax(axis=1), minlength=m) / n if n else np.zeros(m)
    return {
        "experts": list(experts),
        "queries": n,
        "path": list(path),
        "entropy": round(entropy(weights), 6),
        "mean_weights": [round(float(w), 6) for w in mean],
        "mean_gates": [round(float(g), 6) for g in gate],
        "share_of_queries": [round(float(s), 6) for s in chosen],
        "share_first": [round(float(s), 6) for s in first],
        "balance": balance(gate.tolist()),
    }


def suite_usage(units: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The dataset x expert matrix and the load of every expert over all queries of a run.

    Args:
        units: Unit to what :func:`usage` gave. All units have the same experts. Units whose router yields no weights
            per query (``mean_weights`` missing) are listed without.

    Returns:
        ``experts``; ``units``: for each its line; ``load``: each expert's share of all queries' gates; ``balance`` of
        it; ``per_query``: whether there are weights at all.
    """
    weighed = {unit: line for unit, line in units.items() if "mean_weights" in line}
    experts = list(next(iter(units.values()))["experts"]) if units else []
    load = np.zeros(len(experts))
    for line in weighed.values():
        load += line["queries"] * np.asarray(line["mean_gates"])
    total = float(load.sum())
    kept = ("mean_weights", "mean_gates", "share_of_queries", "share_first", "entropy", "balance", "path", "queries")
    content: dict[str, Any] = {
        "experts": experts,
        "units": {unit: {name: line[name] for name in kept if name in line} for unit, line in units.items()},
        "per_query": len(weighed) == len(units),
    }
    if weighed and total > 0:
        content["load"] = [round(float(share), 6) for share in load / total]
        content["balance"] = balance(load.tolist())
    return content


def restrict(weights: NDArray[np.float64], experts: Sequence[str], exclude: Sequence[str]) -> NDArray[np.float64]:
    """Weights without some experts; a query that only asked those is spread over all others.

    For a softmax over experts this is what a router without their vectors would say.

    Args:
        weights: Shape (n, experts), rows sum to one.
        experts: Names of the columns.
        exclude: Experts to leave out, not all of them.

    Returns:
        Shape (n, experts), rows sum to one, zero in the columns left out.
    """
    kept = np.array([expert not in exclude for expert in experts])
    if kept.all():
        return weights
    left = weights * kept
    total = left.sum(axis=1, keepdims=True)
    spread: NDArray[np.float64] = np.where(total > 0, left / np.where(total > 0, total, 1.0), kept / kept.sum())
    return spread
