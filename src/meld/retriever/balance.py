"""How common a match is where nobody has labelled, and what follows for the decision.

Few-shot labels are drawn with as many matches as mismatches, and what learns from them expects that of every question.
The unlabelled pool is drawn as the questions are, so that it tells how common matches are without a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

FEWEST = 50
"""Pool questions below which the labels' own share is kept: an estimate from fewer would be worse than none."""

_ROUNDS = 1000
_EDGE = 1e-3


@dataclass(frozen=True)
class Balance:
    """What is added to the log-odds of a match.

    Attributes:
        labelled: Share of matches among the labels that were learnt from.
        share: Estimated share of matches in the pool.
        threshold: Probability, at that share, from which *match* is the answer that maximises the expected F1.
        shift: Log-odds to add, so that one half is the threshold.
        pool: Questions it was estimated from.
    """

    labelled: float
    share: float
    threshold: float
    shift: float
    pool: int


def balance(log_odds: FloatArray, labelled: float) -> Balance:
    """Estimate how common matches are, and from what probability on to say so.

    Args:
        log_odds: Of a match by the evidence, for every question of the pool, shape (n,).
        labelled: Share of matches among the labels that the evidence was fitted on.

    Returns:
        No shift where the pool is smaller than ``FEWEST`` or the labels are all of one kind.
    """
    if len(log_odds) < FEWEST or not 0 < labelled < 1:
        return Balance(labelled, labelled, 0.5, 0.0, len(log_odds))
    share = estimate_share(log_odds, labelled)
    correction = _logit(share) - _logit(labelled)
    threshold = best_threshold(_sigmoid(log_odds + correction))
    return Balance(labelled, share, threshold, correction - _logit(threshold), len(log_odds))


def estimate_share(log_odds: FloatArray, labelled: float) -> float:
    """Share of positives in an unlabelled sample by expectation maximisation (Saerens, Latinne & Decaestecker, 2002).

    Args:
        log_odds: Of a positive, by a model fitted where positives have the share ``labelled``; shape (n,).
        labelled: In (0, 1).
    """
    share = labelled
    for _ in range(_ROUNDS):
        found = float(_sigmoid(log_odds + _logit(share) - _logit(labelled)).mean())
        found = min(1 - _EDGE, max(_EDGE, found))
        if abs(found - share) < 1e-9:
            break
        share = found
    return share


def best_threshold(probabilities: FloatArray) -> float:
    """The threshold that maximises the expected F1 (Lipton, Elkan & Naryanaswamy, 2014: half of that F1).

    Args:
        probabilities: Calibrated, of a positive, shape (n,), n > 0.

    Returns:
        In (0, 0.5].
    """
    falling = np.sort(probabilities)[::-1]
    said = np.arange(1, len(falling) + 1)
    f1 = 2 * np.cumsum(falling) / (said + falling.sum())
    return float(np.clip(f1.max() / 2, _EDGE, 0.5))


def reweigh(options: Sequence[str], probabilities: FloatArray, log_odds: Mapping[str, float]) -> FloatArray:
    """Probabilities of options after log-odds have been added to some, shape (n_options,); the sum stays one.

    Args:
        options: What the probabilities are of.
        probabilities: Shape (n_options,).
        log_odds: By option.
    """
    added = np.array([log_odds.get(option, 0.0) for option in options])
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities) + added
    result: FloatArray = np.exp(scores - np.logaddexp.reduce(scores))
    return result


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def _sigmoid(x: FloatArray) -> FloatArray:
    result: FloatArray = 1.0 / (1.0 + np.exp(-np.clip(x, -700, 700)))
    return result
