"""DSIR: importance resampling toward a target domain by hashed n-grams (Xie et al., 2023).

Also the first filter of the auxiliary set (method section 3). Nothing is dropped for being short.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from meld.errors import ConfigError, DataError
from meld.selector.base import Features, FloatArray, IntArray, Selection, budget, check_budget, check_ratio
from meld.text import words

TARGETS = ("few_shot", "test_inputs")


def hashed_ngrams(text: str, buckets: int) -> IntArray:
    """Buckets of a text's word unigrams and bigrams, repeated as often as they occur.

    The hash is CRC-32, which is the same on every machine and in every process.

    Returns:
        Shape (number of n-grams,), values in [0, buckets).
    """
    tokens = words(text)
    grams = [*tokens, *(f"{left} {right}" for left, right in itertools.pairwise(tokens))]
    return np.array([zlib.crc32(gram.encode()) % buckets for gram in grams], dtype=np.int64)


def dsir_scores(
    pool_texts: Sequence[str], target_texts: Sequence[str], *, buckets: int = 10_000, smoothing: float = 0.01
) -> FloatArray:
    """Log importance weight of every pool text: sum over its n-grams of log p_target - log p_pool.

    Both distributions are bags of hashed n-grams. The targets here are a few dozen texts, so that most buckets are
    empty; each distribution is therefore mixed with a little of the uniform one. The share is the same for both, so
    that n-grams which are as frequent here as there weigh nothing, however few the targets are.

    Args:
        pool_texts: What is selected from.
        target_texts: What the selection should look like.
        buckets: Number of hash buckets.
        smoothing: Share of the uniform distribution, in (0, 1).

    Returns:
        Shape (n_pool,), in nats.

    Raises:
        ConfigError: If the smoothing is not in (0, 1).
        DataError: If the pool or the target is empty, or no target text has a word.
    """
    if not 0.0 < smoothing < 1.0:
        raise ConfigError(
            f"The smoothing is {smoothing}; it must be in (0, 1).", where="selector.smoothing", fix="0.01"
        )
    budget(1.0, len(pool_texts))
    pool = [hashed_ngrams(text, buckets) for text in pool_texts]
    target = [hashed_ngrams(text, buckets) for text in target_texts]
    if not any(len(grams) for grams in target):
        raise DataError(
            "The target texts of the importance resampling hold no words.", fix="give at least one labelled query"
        )
    log_ratio = _log_probabilities(target, buckets, smoothing) - _log_probabilities(pool, buckets, smoothing)
    return np.array([log_ratio[grams].sum() for grams in pool])


def _log_probabilities(grams: Sequence[IntArray], buckets: int, smoothing: float) -> FloatArray:
    counts = np.bincount(np.concatenate(grams), minlength=buckets)
    return np.asarray(np.log((1.0 - smoothing) * counts / max(1, counts.sum()) + smoothing / buckets))


def resample(scores: FloatArray, n_select: int, seed: int) -> IntArray:
    """Draw without replacement with probability proportional to exp(score), by Gumbel top-k.

    Args:
        scores: Shape (n,), log weights.
        n_select: How many.
        seed: Seeds the noise.

    Returns:
        Shape (n_select,), in the order drawn.
    """
    check_budget(n_select, len(scores))
    noisy = scores + np.random.default_rng(seed).gumbel(size=len(scores))
    return np.argsort(-noisy, kind="stable")[:n_select].astype(np.int64)


class Dsir:
    """Importance resampling as a selector.

    Args:
        c: Share of the pool to select.
        buckets: Number of hash buckets of the n-grams.
        smoothing: Share of the uniform distribution in the smoothed ones.
        target: What the selection should look like: ``few_shot`` (the labelled training samples) or ``test_inputs``
            (the test queries without their labels, as in the paper's baseline; labels are then left out of the pool's
            texts too).

    Raises:
        ConfigError: If ``c`` is not in (0, 1], or the target is unknown.
    """

    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = True
    needs_influence: ClassVar[bool] = False

    def __init__(self, c: float, buckets: int = 10_000, smoothing: float = 0.01, target: str = "few_shot") -> None:
        if target not in TARGETS:
            raise ConfigError(
                f"DSIR has no target '{target}'.", where="selector.target", fix=f"one of {', '.join(TARGETS)}"
            )
        self.target = target
        self.c = check_ratio(c)
        self.buckets = buckets
        self.smoothing = smoothing

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Select by importance; reads only the texts.

        Raises:
            DataError: If there are no texts, or the budget does not fit the pool.
        """
        del influence
        check_budget(n_select, features.size)
        if not features.texts:
            raise DataError(
                "DSIR needs the texts of the pool, and got none.", fix="fill Features.texts and target_texts"
            )
        scores = dsir_scores(features.texts, features.target_texts, buckets=self.buckets, smoothing=self.smoothing)
        indices = resample(scores, n_select, seed)
        return Selection(indices, {"log_weight": scores[indices]}, every={"log_weight": scores})
