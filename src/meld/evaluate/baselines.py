"""Baselines every result is shown beside: a constant, similarity + logistic regression, label-free and copying rules.

They read what any component may read (few-shot labels, masked tables, test queries) and answer every test query of a
unit. A baseline that cannot be computed for a unit returns an empty list: there is then no row to show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from meld.text import codes, normalise
from meld.types import Entity, Prediction, Query, Sample, UnitData

Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts to unit vectors, shape ``(n, d)``."""

Matrix = npt.NDArray[np.float64]

_CHUNK = 1024
_OPTIONS = 10
_KEPT = 50


def majority(data: UnitData) -> list[Prediction]:
    """One constant answer per unit or attribute.

    * EM and SM answer ``match`` and ED answers ``error`` everywhere. The few-shot pairs are often balanced by design,
      so that their majority says nothing about the test pairs; of the two constants the positive one is the best by
      F1 (the other scores 0).
    * DI and AVE answer the attribute's most frequent few-shot value, for AVE perhaps ``n/a``; invalid where no few-shot
      label has that attribute.
    * CTA and RE answer the most frequent few-shot label; invalid where there is none.
    * EL answers the cell's first candidate, in the order the dataset gives them; invalid where there is none.
    * DC answers the most frequent value of the cell's column in the dirty table.
    * BLK answers the first records of the table that the query is not from, the same ones for every query.

    Raises:
        ValueError: For a task without such a baseline.
    """
    if data.task in ("em", "sm"):
        return [_answer(query, "match", 0.5) for query in data.test]
    if data.task == "ed":
        return [_answer(query, "error", 0.5) for query in data.test]
    if data.task in ("di", "ave", "cta", "re"):
        return _frequent_labels(data)
    if data.task == "el":
        return [_first_candidate(query) for query in data.test]
    if data.task == "dc":
        return _frequent_values(data)
    if data.task == "blk":
        return [_first_records(query, data) for query in data.test]
    raise ValueError(f"no majority baseline for task {data.task!r}; known: em, sm, ed, di, ave, cta, re, el, dc, blk")


def similarity_lr(data: UnitData, embed: Embed) -> list[Prediction]:
    """EM by logistic regression on four similarities, fitted on the few-shot labels alone.

    Features of a pair as plain text: cosine of the tuples' embeddings, the indel and the token-set ratio (rapidfuzz),
    and how many codes (model numbers) the tuples share. The threshold maximises F1 over out-of-fold probabilities of
    the few-shot pairs (5 folds, fewer when a class has fewer labels; the highest threshold wins ties). No test label
    is involved.

    Returns:
        Empty if there are fewer than two labelled pairs of either class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    few: list[Sample] = [*data.train, *data.dev]
    labels = np.asarray([sample.label == "match" for sample in few], dtype=np.int64)
    smallest = int(min(labels.sum(), len(labels) - labels.sum())) if len(labels) else 0
    if smallest < 2 or not data.test:
        return []
    features = _pair_features([*(sample.query for sample in few), *data.test], embed)
    seen, asked = features[: len(few)], features[len(few) :]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedKFold(n_splits=min(5, smallest), shuffle=True, random_state=0)
    held_out = cross_val_predict(model, seen, labels, cv=folds, method="predict_proba")[:, 1]
    threshold = best_threshold(held_out, labels)
    probabilities = model.fit(seen, labels).predict_proba(asked)[:, 1]
    return [
        _answer(query, "match" if p >= threshold else "mismatch", float(p))
        for query, p in zip(data.test, probabilities, strict=True)
    ]


def mutual_nn(data: UnitData, embed: Embed) -> list[Prediction]:
    """EM without any label: match if and only if each tuple is the other's nearest neighbour in its table.

    Tuples are plain text ("v1 v2 v3"), the neighbours are sought in the whole tables, by cosine; the first record wins
    ties. Within one table (deduplication) a tuple is not its own neighbour.

    Returns:
        Empty if some test pair's tuples are not records of the unit's tables.
    """
    names = {ref.partition(":")[0] for query in data.test for ref in query.rows}
    if not data.test or any(len(query.rows) != 2 for query in data.test) or not names <= set(data.tables):
        return []
    order = {name: list(data.tables[name].rows) for name in names}
    place = {name: {record: i for i, record in enumerate(records)} for name, records in order.items()}
    texts = {name: [plain_text(data.tables[name].rows[record]) for record in order[name]] for name in names}
    vectors = {name: np.asarray(embed(texts[name]), dtype=np.float64) for name in names}
    nearest: dict[tuple[str, str], npt.NDArray[np.int64]] = {}

    def neighbour(source: str, target: str) -> npt.NDArray[np.int64]:
        if (source, target) not in nearest:
            nearest[source, target] = _nearest(vectors[source], vectors[target], own=source == target)
        return nearest[source, target]

    predictions = []
    for query in data.test:
        (left, a), (right, b) = (ref.partition(":")[::2] for ref in query.rows)
        if a not in place[left] or b not in place[right]:
            return []
        i, j = place[left][a], place[right][b]
        mutual = neighbour(left, right)[i] == j and neighbour(right, left)[j] == i
        cosine = float(vectors[left][i] @ vectors[right][j])
        predictions.append(_answer(query, "match" if mutual else "mismatch", _unit((1 + cosine) / 2)))
    return predictions


def knn_label(data: UnitData, embed: Embed) -> list[Prediction]:
    """DI by copying the label of the nearest few-shot tuple that was asked about the same attribute.

    Tuples are plain text, in which the missing attribute is empty; the first sample wins ties. Invalid where no
    few-shot label has the attribute.
    """
    few: list[Sample] = [*data.train, *data.dev]
    if not data.test:
        return []
    asked = [*(sample.query for sample in few), *data.test]
    vectors = np.asarray(embed([plain_text(query.entities[0]) for query in asked]), dtype=np.float64)
    predictions = []
    for i, query in enumerate(data.test, start=len(few)):
        same = [j for j, sample in enumerate(few) if sample.query.target == query.target]
        if not same:
            predictions.append(_answer(query, None, 0.0))
            continue
        cosines = vectors[same] @ vectors[i]
        best = int(np.argmax(cosines))
        predictions.append(_answer(query, few[same[best]].label, _unit((1 + float(cosines[best])) / 2)))
    return predictions


def nearest_name(data: UnitData) -> list[Prediction]:
    """EL without any label: the candidate whose name is spelt most like the cell.

    The name of a candidate is what stands before `` - ``; spelling is compared by the indel ratio (rapidfuzz) after
    :func:`meld.text.normalise`. The first candidate wins ties, so that among entities of one name nothing is known.

    Returns:
        Empty if no test query has candidates; invalid for single queries that have none.
    """
    from rapidfuzz import fuzz

    if not any(query.options for query in data.test):
        return []
    predictions = []
    for query in data.test:
        mention = normalise(query.entities[0].get(query.target or "", ""))
        ratios = [fuzz.ratio(mention, normalise(option.partition(" - ")[0])) / 100 for option in query.options]
        order = sorted(range(len(ratios)), key=lambda i: -ratios[i])
        options = tuple(query.options[i] for i in order[:_KEPT])
        best, ratio = (options[0], ratios[order[0]]) if order else (None, 0.0)
        predictions.append(_answer(query, best, ratio, options))
    return predictions


def best_threshold(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """The threshold t that maximises F1 of ``score >= t``; the highest of equally good ones.

    Args:
        scores: Shape ``(n,)``.
        labels: Shape ``(n,)``, 1 for the positive class.

    Returns:
        One of the scores.
    """
    candidates = np.unique(scores)[::-1]
    said = scores[None, :] >= candidates[:, None]
    hits = (said & (labels == 1)).sum(axis=1)
    f1 = 2 * hits / (said.sum(axis=1) + max(int(labels.sum()), 1))
    return float(candidates[int(np.argmax(f1))])


def plain_text(entity: Entity) -> str:
    """A tuple as plain text: its values in column order, without attribute names and missing values."""
    return " ".join(value for value in entity.values() if value)


def _answer(query: Query, output: str | None, score: float, options: tuple[str, ...] = ()) -> Prediction:
    return Prediction(query.id, output, score, status="ok" if output is not None else "invalid", options=options)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _most_frequent(values: Iterable[str]) -> tuple[str, float] | None:
    """The most frequent value (alphabetically first among equals) and its share; None without values."""
    counts = Counter(values)
    if not counts:
        return None
    value = min(counts, key=lambda v: (-counts[v], v))
    return value, counts[value] / counts.total()


def _frequent_labels(data: UnitData) -> list[Prediction]:
    labels: dict[str | None, list[str]] = {}
    for sample in (*data.train, *data.dev):
        labels.setdefault(sample.query.target, []).append(sample.label)
    best = {target: _most_frequent(values) for target, values in labels.items()}
    predictions = []
    for query in data.test:
        found = best.get(query.target)
        predictions.append(_answer(query, *found) if found else _answer(query, None, 0.0))
    return predictions


def _frequent_values(data: UnitData) -> list[Prediction]:
    best: dict[str, tuple[str, float] | None] = {}
    predictions = []
    for query in data.test:
        target = query.target or ""
        if target not in best:
            column = (row.get(target, "") for table in data.tables.values() for row in table.rows.values())
            best[target] = _most_frequent(value for value in column if value)
        found = best[target]
        predictions.append(_answer(query, *found) if found else _answer(query, None, 0.0))
    return predictions


def _first_records(query: Query, data: UnitData) -> Prediction:
    own = query.rows[0] if query.rows else ""
    name = next((name for name in data.tables if name != own.partition(":")[0]), own.partition(":")[0])
    records = data.tables[name].rows if name in data.tables else {}
    options = tuple(ref for record in records if (ref := f"{name}:{record}") != own)[:_OPTIONS]
    return _answer(query, options[0] if options else None, 1 / max(len(records), 1), options)


def _first_candidate(query: Query) -> Prediction:
    if not query.options:
        return _answer(query, None, 0.0)
    return _answer(query, query.options[0], 1 / len(query.options), query.options[:_KEPT])


def _pair_features(queries: Sequence[Query], embed: Embed) -> Matrix:
    """Four similarities per pair, shape ``(n, 4)``."""
    from rapidfuzz import fuzz

    pairs = [(plain_text(query.entities[0]), plain_text(query.entities[1])) for query in queries]
    texts = sorted({text for pair in pairs for text in pair})
    place = {text: i for i, text in enumerate(texts)}
    vectors = np.asarray(embed(texts), dtype=np.float64)
    rows = []
    for left, right in pairs:
        a, b = normalise(left), normalise(right)
        cosine = float(vectors[place[left]] @ vectors[place[right]])
        shared = len(codes(left) & codes(right))
        rows.append((cosine, fuzz.ratio(a, b) / 100, fuzz.token_set_ratio(a, b) / 100, float(shared)))
    return np.asarray(rows, dtype=np.float64)


def _nearest(source: Matrix, target: Matrix, *, own: bool) -> npt.NDArray[np.int64]:
    """Index of the nearest row of ``target`` for each row of ``source``, in chunks so that no n×m matrix is built."""
    found = np.empty(len(source), dtype=np.int64)
    for start in range(0, len(source), _CHUNK):
        cosines = source[start : start + _CHUNK] @ target.T
        if own:
            rows = np.arange(len(cosines))
            cosines[rows, rows + start] = -np.inf
        found[start : start + _CHUNK] = cosines.argmax(axis=1)
    return found
