"""What retrieval alone makes of a question's options: a conditional logit over evidence, fitted on few labels.

A small backbone that has never read tables learns little from a few dozen prompts. Its score of an option is therefore
taken as a correction of what the evidence says (``backbone.evidence_prior``): a product of experts, as when kNN-LM lets
retrieved neighbours vote beside the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from meld.retriever.cells import Evidence
from meld.retriever.partners import Link, shared_codes
from meld.text import words
from meld.types import Entity

FloatArray = NDArray[np.float64]

_STEPS = 50
UNKNOWN = -8.0
"""Log-prior beside the best option, of an option the evidence does not know."""
RANKS = slice(6, 9)
"""Where :func:`pair_features` tells who is whose nearest neighbour."""


class ConditionalLogit:
    """P(option) proportional to exp(features of the option @ coefficients).

    Args:
        ridge: L2 penalty on the coefficients of standardised features.
    """

    def __init__(self, ridge: float = 1.0) -> None:
        self.ridge = ridge
        self._scale: FloatArray | None = None
        self.coefficients: FloatArray | None = None

    def fit(self, groups: Sequence[FloatArray], chosen: Sequence[int], weights: Sequence[float]) -> ConditionalLogit:
        """Fit by Newton's method; the problem is strictly convex.

        Args:
            groups: For each question the features of its options, shape (n_options, f).
            chosen: Index of the right option of each question.
            weights: Weight of each question.
        """
        if not groups:
            return self
        scale = np.concatenate(groups).std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        scaled = [group / scale for group in groups]
        w = np.zeros(len(scale))
        for _ in range(_STEPS):
            gradient, hessian = -self.ridge * w, self.ridge * np.eye(len(w))
            for x, right, weight in zip(scaled, chosen, weights, strict=True):
                p = _softmax(x @ w)
                mean = p @ x
                gradient = gradient + weight * (x[right] - mean)
                hessian = hessian + weight * ((x.T * p) @ x - np.outer(mean, mean))
            step = np.linalg.solve(hessian, gradient)
            # A full step may overshoot where probabilities saturate.
            w = w + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
            if float(np.abs(step).max()) < 1e-8:
                break
        self._scale, self.coefficients = scale, w
        return self

    def log_prior(self, features: FloatArray) -> FloatArray:
        """Log-probability of each option, shape (n_options,); uniform before a fit.

        Args:
            features: Shape (n_options, f).
        """
        if self.coefficients is None or self._scale is None:
            return np.full(len(features), -np.log(max(1, len(features))))
        scores = features / self._scale @ self.coefficients
        result: FloatArray = scores - np.logaddexp.reduce(scores)
        return result


def _softmax(scores: FloatArray) -> FloatArray:
    shifted = np.exp(scores - scores.max())
    result: FloatArray = shifted / shifted.sum()
    return result


def by_similarity(cosines: FloatArray, temperature: float) -> FloatArray:
    """Log-probabilities of options of which nothing is known but how alike they are to the query, shape (n_options,).

    P(option) proportional to exp(cosine / temperature): what the encoder's contrastive loss trains its cosines to mean.

    Args:
        cosines: Of the query and each option, shape (n_options,).
        temperature: Of the contrastive loss.
    """
    scores = cosines / temperature
    result: FloatArray = scores - np.logaddexp.reduce(scores)
    return result


def pair_features(link: Link | None, left: Entity, right: Entity, cosine: float = 0.0) -> FloatArray:
    """Evidence for *match*: what the encoder, the codes and the words of the two tuples say, shape (f,).

    Args:
        link: How the two stand to each other among all tuples; None for tuples that are in no table.
        left: The left tuple.
        right: The right tuple.
        cosine: Of the two tuples' vectors, where there is no link.
    """
    a, b = " ".join(left.values()), " ".join(right.values())
    words_a, words_b = set(words(a)), set(words(b))
    shared = len(words_a & words_b)
    smaller = max(1, min(len(words_a), len(words_b)))
    same = [fuzz.token_sort_ratio(left[c].lower(), right[c].lower()) / 100 for c in left if left[c] and right.get(c)]
    features = [
        1.0,
        shared / max(1, len(words_a | words_b)),
        shared / smaller,
        float(np.mean(same)) if same else 0.5,
    ]
    codes = shared_codes(left, right)
    known = [float(codes == "same"), float(codes == "different")]
    if link is None:
        return np.array([*features, cosine, *[0.0] * 4, *known])
    nearest = [1.0 / link.rank_right, 1.0 / link.rank_left, float(link.mutual)]
    return np.array([*features, link.similarity, link.margin, *nearest, *known])


def repair_features(value: str, evidence: Evidence, options: Sequence[str], judged: bool = True) -> FloatArray:
    """Evidence for each candidate repair of a cell, shape (n_options, f).

    Args:
        value: The cell as it is.
        evidence: What its table says.
        options: Candidates; the value itself may be among them.
        judged: Whether the value itself has been judged against its table, which is what error detection does.
    """
    weight = dict(evidence.suggestions)
    rank = {suggestion: number for number, (suggestion, _) in enumerate(evidence.suggestions, start=1)}
    by_name = evidence.features
    verdict = [by_name[0], by_name[2], by_name[4], by_name[7]] if judged else [0.0] * 4
    own = [1.0, *verdict, float(not value)]
    rows = []
    for option in options:
        if option == value:
            rows.append([*own, 0.0, 0.0, 0.0])
        else:
            near = fuzz.ratio(value, option) / 100
            rows.append([*[0.0] * len(own), weight.get(option, 0.0), 1.0 / rank.get(option, 99), near])
    return np.array(rows, dtype=np.float64).reshape(len(options), len(own) + 3)
