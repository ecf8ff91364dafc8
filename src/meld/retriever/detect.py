"""Error detection without a language model: a classifier over the table's evidence, fitted on few labelled tuples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from meld.task.ed import CORRECT, ERROR
from meld.types import Sample


class Detector:
    """Probability that a cell is wrong.

    Fitted on labelled cells and on corrupted ones; the threshold maximises F1 over the labelled cells alone, each
    scored by a model that has not seen its tuple.

    Args:
        seed: Seeds which tuples share a fold.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.threshold = 0.5
        self._model: Any = None
        self._constant = 0.0

    def fit(
        self,
        labelled: Sequence[Sample],
        features: NDArray[np.float64],
        made: Sequence[Sample],
        made_features: NDArray[np.float64],
    ) -> Detector:
        """Fit the classifier and its threshold.

        Args:
            labelled: Human-labelled cells.
            features: Shape (len(labelled), f).
            made: Corrupted cells, all labelled error.
            made_features: Shape (len(made), f).
        """
        wrong = np.array([s.label == ERROR for s in labelled], dtype=bool)
        groups = np.array([s.query.rows[0] if s.query.rows else s.id for s in labelled])
        made_groups = np.array([s.query.rows[0] if s.query.rows else s.id for s in made])
        both = np.concatenate([wrong, np.ones(len(made), dtype=bool)])
        if both.all() or not both.any():
            self._constant = float(both.any())
            return self
        held_out = np.zeros(len(labelled))
        folds = min(5, len(set(groups)))
        if folds >= 2:
            split = GroupKFold(folds, shuffle=True, random_state=self.seed % 2**32)
            for train, test in split.split(features, wrong, groups):
                keep = ~np.isin(made_groups, groups[test])
                held_out[test] = _fit(features[train], wrong[train], made_features[keep])(features[test])
            self.threshold = best_threshold(held_out, wrong)
        self._model = _fit(features, wrong, made_features)
        return self

    def probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (n,), the probability of an error."""
        if self._model is None:
            return np.full(len(features), self._constant)
        probabilities: NDArray[np.float64] = self._model(features)
        return probabilities

    def label(self, probability: float) -> str:
        """``error`` above the threshold."""
        return ERROR if probability >= self.threshold else CORRECT


def _fit(features: NDArray[np.float64], wrong: NDArray[np.bool_], made: NDArray[np.float64]) -> Any:
    x = np.concatenate([features, made.reshape(-1, features.shape[1])])
    y = np.concatenate([wrong, np.ones(len(made), dtype=bool)])
    if y.all() or not y.any():
        constant = float(y.any())
        return lambda rows: np.full(len(rows), constant)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(x, y)
    return lambda rows: model.predict_proba(rows)[:, 1]


def best_threshold(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The threshold with the highest F1, in the middle between two neighbouring scores; 0.5 without positives.

    Args:
        scores: Shape (n,).
        positive: Shape (n,).
    """
    if not positive.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    best = int(np.argmax(np.where(last_of_tie, f1, -1.0)))
    upper = scores[order[best]]
    lower = scores[order[best + 1]] if best + 1 < len(scores) else 0.0
    middle = (upper + lower) / 2
    # Between two scores there may be no further number; the threshold is inclusive, so it is then the upper one.
    return float(middle if lower < middle else upper)
