"""Scores by published conventions that differ from the strict ones, each under a name of its own.

They stand beside the strict scores and never in their place: a number of a paper compares with the one that was
computed its way. Every name begins with ``compat_``; a task without a differing convention has none.

==============================  =============================================================================
name                            convention and source
==============================  =============================================================================
``compat_f1_unread_negative``   EM, SM, ED: an unreadable answer counts as ``mismatch`` (``correct``). That is
                                what scikit-learn's ``f1_score`` gives on ``answer == "match"``; strictly, such an
                                answer is wrong whatever the truth is, as in Narayan et al. 2022.
``compat_f1_flagged``           DC: over the cells that were asked alone. The papers repair the cells that a saved
                                detection flagged; errors it missed are not missed repairs then.
``compat_macro_f1_all``         CTA, RE: the mean also runs over classes that were only predicted, each of which
                                counts zero: scikit-learn's ``average="macro"`` without ``labels``.
``compat_pair_recall@10``       BLK: share of all matching *pairs* among the candidates (DeepBlocker,
                                Thirumuruganathan et al. 2021), not of the tuples that find a partner.
``compat_accuracy_linkable``    EL: over the cells whose candidates hold the right entity, as evaluations of
                                disambiguation alone do.
``compat_micro_f1_extractgpt``  AVE: values compared as they are written, an unreadable answer taken for ``n/a``
                                (ExtractGPT, Brinkmann et al. 2024).
==============================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from meld.evaluate.counting import Counts, Values, bootstrap
from meld.evaluate.metrics import (
    cleaning_scores,
    detection_scores,
    linking_scores,
    pair_scores,
)
from meld.task.ave import ABSENT
from meld.text import normalise
from meld.types import Gold, Prediction, Score

PREFIX = "compat_"
_DEPTH = 10

Metric = Callable[[Values], Values]
"""From sums of counts, shape ``(r, m)``, to values, shape ``(r, 1)``."""


def compat_scores(
    task: str, predictions: Sequence[Prediction], gold: Gold, dirty: Mapping[str, str], seed: int
) -> list[Score]:
    """The published conventions of a task.

    Args:
        task: The task's short name.
        predictions: At most one per query.
        gold: Exactly the queries that are scored, with their acceptable answers.
        dirty: Query id to the cell's value before cleaning; read by ``dc`` only.
        seed: Seeds the resampling.

    Returns:
        None of them the main metric; empty for a task without a differing convention.
    """
    if task in ("em", "sm", "ed"):
        return [_unread_negative(task, predictions, gold, seed)]
    if task == "dc":
        return [_flagged(predictions, gold, dirty, seed)]
    if task in ("cta", "re"):
        return [_macro_all(predictions, gold, seed)]
    if task == "blk":
        return [_pair_recall(predictions, gold, seed)]
    if task == "el":
        return [_linkable(predictions, gold, seed)]
    if task == "ave":
        return [_extractgpt(predictions, gold, seed)]
    return []


def _unread_negative(task: str, predictions: Sequence[Prediction], gold: Gold, seed: int) -> Score:
    negative = "correct" if task == "ed" else "mismatch"
    read = {p.query_id: p for p in predictions if _answer(p) is not None}
    filled = [read.get(id_) or Prediction(id_, negative, 0.0) for id_ in gold]
    scores = detection_scores(filled, gold, seed) if task == "ed" else pair_scores(filled, gold, seed)
    return _named("f1_unread_negative", scores, "f1")


def _flagged(predictions: Sequence[Prediction], gold: Gold, dirty: Mapping[str, str], seed: int) -> Score:
    asked = [p for p in predictions if p.status != "skipped"]
    cells = {p.query_id: gold[p.query_id] for p in asked if p.query_id in gold}
    return _named("f1_flagged", cleaning_scores(asked, cells, dirty, seed), "f1")


def _linkable(predictions: Sequence[Prediction], gold: Gold, seed: int) -> Score:
    offered = {p.query_id: {normalise(option) for option in p.options} for p in predictions}
    cells = {id_: right for id_, right in gold.items() if {normalise(r) for r in right} & offered.get(id_, set())}
    kept = [p for p in predictions if p.query_id in cells]
    return _named("accuracy_linkable", linking_scores(kept, cells, seed), "accuracy")


def _named(name: str, scores: Sequence[Score], metric: str) -> Score:
    found = next(score for score in scores if score.metric == metric)
    return replace(found, metric=PREFIX + name, main=False)


def _pair_recall(predictions: Sequence[Prediction], gold: Gold, seed: int) -> Score:
    found = {p.query_id: p for p in predictions}
    queries = [id_ for id_ in gold if gold[id_]]
    rows = []
    for id_ in queries:
        given = found.get(id_)
        first = None if given is None else _answer(given)
        options = () if given is None or first is None else given.options or (first,)
        rows.append((len(set(gold[id_]) & set(options[:_DEPTH])), len(set(gold[id_]))))
    return _ratio(f"pair_recall@{_DEPTH}", queries, rows, seed, sum(row[1] for row in rows))


def _extractgpt(predictions: Sequence[Prediction], gold: Gold, seed: int) -> Score:
    found = {p.query_id: _answer(p) for p in predictions}
    rows = []
    for id_, accepted in gold.items():
        said = found.get(id_) or ABSENT
        value = said != ABSENT
        hit = value and said in accepted
        rows.append((2 * int(hit), int(value) + int(hit or ABSENT not in accepted)))
    titles = [id_.rpartition("/")[0] if id_.count("/") > 1 else id_ for id_ in gold]
    return _ratio("micro_f1_extractgpt", titles, rows, seed, len(gold))


def _macro_all(predictions: Sequence[Prediction], gold: Gold, seed: int) -> Score:
    found = {p.query_id: _answer(p) for p in predictions}
    pairs: list[tuple[str | None, str]] = []
    for id_, accepted in gold.items():
        answer = found.get(id_)
        said = None if answer is None else normalise(answer)
        right = [normalise(value) for value in accepted]
        pairs.append((said, said if said and said in right else next(iter(right), "")))
    classes = {name: place for place, name in enumerate(sorted({name for pair in pairs for name in pair if name}))}
    # Counts (right, said, owed) of class after class.
    counts = np.zeros((len(pairs), 3 * len(classes)), dtype=np.int64)
    for row, (said, owed) in enumerate(pairs):
        if owed:
            counts[row, 3 * classes[owed] + 2] = 1
        if said:
            counts[row, 3 * classes[said] + 1] = 1
            counts[row, 3 * classes[said]] = said == owed
    return _score("macro_f1_all", list(gold), counts, _mean_f1, seed, len(gold))


def _mean_f1(sums: Values) -> Values:
    right, said, owed = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    present = said + owed > 0
    f1 = np.divide(2 * right, said + owed, out=np.zeros_like(right), where=present)
    some = present.sum(axis=1)
    mean: Values = np.divide(f1.sum(axis=1), some, out=np.zeros(len(sums)), where=some > 0)
    return mean[:, None]


def _ratio(name: str, groups: Sequence[str], rows: Sequence[tuple[int, int]], seed: int, n: int) -> Score:
    """Sum of the first counts over the sum of the second."""

    def values(sums: Values) -> Values:
        return np.divide(sums[:, :1], sums[:, 1:], out=np.zeros((len(sums), 1)), where=sums[:, 1:] > 0)

    return _score(name, groups, np.asarray(rows, dtype=np.int64).reshape(len(rows), 2), values, seed, n)


def _score(name: str, groups: Sequence[str], counts: Counts, metric: Metric, seed: int, n: int) -> Score:
    point = metric(counts.sum(axis=0, keepdims=True).astype(np.float64))[0]
    low, high = bootstrap(groups, counts, metric, seed)
    return Score(PREFIX + name, float(point[0]), n, float(low[0]), float(high[0]))


def _answer(prediction: Prediction) -> str | None:
    return None if prediction.status == "invalid" else prediction.output
