"""Strict scores with bootstrap intervals: predictions and hidden labels in, measured numbers out.

Conventions shared by all tasks:

* The queries scored are those of ``gold``: a query that has no prediction counts as an unanswered one, so that leaving
  hard questions out never raises a score. (Blocking scores only the queries that have a true partner. The precision of
  classes, :func:`class_scores`, is the exception: it is over the answers given.)
* ``status == "invalid"`` and ``output is None`` are the same thing: no answer, hence wrong.
* A ratio whose denominator is zero is 0, in the point estimate and in every resample (scikit-learn's
  ``zero_division=0``).
* Intervals are 95 % bootstrap percentile intervals (Efron and Tibshirani 1993, chapter 13) over queries; over *tuples*
  for cell tasks, because the cells of one tuple depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from meld.evaluate.counting import Counted, Counts, Macro, Ratio, evaluate, measure
from meld.task.ave import ABSENT
from meld.text import normalise
from meld.types import Gold, Prediction, Score

MATCH = "match"
ERROR = "error"
TASKS = ("em", "blk", "di", "ed", "dc", "cta", "re", "el", "sm", "ave")


def score(
    task: str,
    predictions: Sequence[Prediction],
    gold: Gold,
    dirty: Mapping[str, str],
    seed: int,
    *,
    records: int | None = None,
) -> list[Score]:
    """Score one unit with its task's metrics.

    Args:
        task: One of :data:`TASKS`.
        predictions: At most one per query.
        gold: Exactly the queries that are scored (the test split), with their acceptable answers.
        dirty: Query id to the cell's value before cleaning; read by ``dc`` only.
        seed: Seeds the resampling.
        records: Size of the table that blocking searches; gives ``blk`` its candidate ratio.

    Returns:
        The main metric first.

    Raises:
        ValueError: For an unknown task, a query predicted twice, a prediction without a gold label (except ``blk``),
            or a ``dc`` query without its dirty value.
    """
    return evaluate(counted(task, predictions, gold, dirty, records=records), seed)


def counted(
    task: str,
    predictions: Sequence[Prediction],
    gold: Gold,
    dirty: Mapping[str, str],
    *,
    records: int | None = None,
) -> Counted:
    """What :func:`score` computes its metrics from, for comparing systems on the same resamples.

    Args:
        task: As for :func:`score`, like everything else.
        predictions: At most one per query.
        gold: Exactly the queries that are scored.
        dirty: Read by ``dc`` only.
        records: Read by ``blk`` only.

    Raises:
        ValueError: As :func:`score`.
    """
    if task in ("em", "sm"):
        return _positive_class(predictions, gold, positive=MATCH, group=lambda query_id: query_id)
    if task == "blk":
        return _blocking(predictions, gold, records=records)
    if task in ("di", "el"):
        return _exact(predictions, gold)
    if task in ("cta", "re"):
        return _classes(predictions, gold)
    if task == "ave":
        return _slots(predictions, gold)
    if task == "ed":
        return _positive_class(predictions, gold, positive=ERROR, group=tuple_of)
    if task == "dc":
        return _repairs(predictions, gold, dirty)
    raise ValueError(f"no metric for task {task!r}; known: {', '.join(TASKS)}")


def pair_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """F1 of ``match`` (main), precision, recall and accuracy of binary pair decisions.

    F1 of the positive class: the convention of the Magellan and DeepMatcher benchmarks (Mudgal et al. 2018) for tuples,
    and of SMAT (Zhang et al. 2021) for attributes of schemas. A pair without a valid answer is wrong whatever the truth
    is: a false negative on a true match and a false *positive* on a true mismatch. F1 does not see true negatives, so
    without the latter a model that answers only when it sees a match would get its silence for free.
    """
    return evaluate(counted("em", predictions, gold, {}), seed)


def detection_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """F1 of ``error`` over all cells (main), precision, recall and accuracy; resampled by tuple.

    Convention of Raha (Mahdavi et al. 2019): cells pooled over the columns. Cells without a valid answer are wrong in
    the sense of :func:`pair_scores`.
    """
    return evaluate(counted("ed", predictions, gold, {}), seed)


def blocking_scores(
    predictions: Sequence[Prediction], gold: Gold, seed: int, *, records: int | None = None, k: int = 10
) -> list[Score]:
    """recall@1 (main), recall@k, and the candidate ratio when the size of the searched table is known.

    Per query, as retrieval is asked per tuple: recall@k is the share of queries that have a partner for which at least
    one partner is among the first k options. (DeepBlocker, Thirumuruganathan et al. 2021, pools recall over pairs
    instead; the two agree when each tuple has one partner.) The candidate ratio is what recall@k costs: candidates
    kept over all pairs of a query and a record.

    Args:
        predictions: Options best first; the output stands for the first option where a prediction lists none. May hold
            queries without a partner, which are not scored.
        gold: Query id to the records of all its partners.
        seed: Seeds the resampling.
        records: Size of the searched table.
        k: Depth of the second recall.
    """
    return evaluate(_blocking(predictions, gold, records=records, k=k), seed)


def _blocking(predictions: Sequence[Prediction], gold: Gold, *, records: int | None = None, k: int = 10) -> Counted:
    answers = _index(predictions, None)
    queries = [query_id for query_id in gold if gold[query_id]]
    rows: list[tuple[int, ...]] = []
    for query_id in queries:
        ranked = _ranking(answers.get(query_id))
        partners = set(gold[query_id])
        rows.append((bool(partners & set(ranked[:1])), bool(partners & set(ranked[:k])), len(ranked[:k]), 1))
    n = len(queries)
    ratios = [
        Ratio("recall@1", (1, 0, 0, 0), (0, 0, 0, 1), n, main=True),
        Ratio(f"recall@{k}", (0, 1, 0, 0), (0, 0, 0, 1), n),
    ]
    if records:
        ratios.append(Ratio("candidate_ratio", (0, 0, 1, 0), (0, 0, 0, records), n))
    return measure(queries, rows, 4, ratios)


def imputation_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """Accuracy (main) by normalised exact match, and candidate recall where options were ranked.

    Values are equal when :func:`meld.text.normalise` makes them so (strip, lower case, collapsed spaces), as in IPM
    (Mei et al. 2021), and no alias table is applied. Candidate recall, the ceiling of ranking, is the share of all
    queries whose gold value is among the options.
    """
    return evaluate(_exact(predictions, gold), seed)


def linking_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """Top-1 accuracy (main) over all cells, and candidate recall where options were ranked.

    The papers' top-1 accuracy. Cells whose candidates lack the right entity count as wrong, unlike in evaluations that
    only score the disambiguation; candidate recall is what they cost. Equality is :func:`meld.text.normalise`'s, over
    the whole candidate with its description.
    """
    return evaluate(_exact(predictions, gold), seed)


def class_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """Micro-F1 (main) and macro-F1 of column types or relations, precision, recall, and candidate recall.

    Every query has one answer at most. Micro-averaged as in SemTab 2019 (Jiménez-Ruiz et al. 2020): P = right answers /
    answers given, R = right answers / all queries, so that recall is accuracy, an unanswered query is a missing
    prediction, and with every query answered P = R = F1 = accuracy. An answer that is no class of the dataset was given
    and is wrong.

    Macro-F1 is the plain mean of the F1 of each class that gold has; an answer outside of these classes is a miss of
    the right one and nobody's false alarm. That is scikit-learn's ``f1_score(labels=classes of gold, average="macro",
    zero_division=0)``; without ``labels`` scikit-learn also averages over classes that were only predicted, each of
    which counts zero.

    Where gold lists several acceptable labels a query is right if the answer is one of them, and it belongs to the
    class it was rightly given, else to the one listed first. (Multi-label evaluations, as of TURL by Deng et al. 2020,
    ask for all of them instead.) Equality is :func:`meld.text.normalise`'s. Candidate recall is the share of all
    queries for which an acceptable label is among the options.
    """
    return evaluate(_classes(predictions, gold), seed)


def _classes(predictions: Sequence[Prediction], gold: Gold) -> Counted:
    answers = _index(predictions, gold)
    said: list[str | None] = []
    truth: list[str] = []
    rows: list[tuple[int, ...]] = []
    for query_id, accepted in gold.items():
        prediction = answers.get(query_id)
        output = _output(prediction)
        values = [normalise(value) for value in accepted]
        answer = None if output is None else normalise(output)
        right = bool(answer) and answer in values
        said.append(answer)
        truth.append(answer if right and answer else next(iter(values), ""))
        rows.append((right, answer is not None, 1, _offered(prediction, set(values))))
    place = {name: 4 + 3 * i for i, name in enumerate(sorted(set(truth)))}
    counts: Counts = np.zeros((len(rows), 4 + 3 * len(place)), dtype=np.int64)
    counts[:, :4] = np.asarray(rows, dtype=np.int64).reshape(len(rows), 4)
    for row, (answer, name) in enumerate(zip(said, truth, strict=True)):
        counts[row, place[name] + 2] = 1
        if answer in place:
            counts[row, place[answer] + 1] = 1
            counts[row, place[answer]] = rows[row][0]
    n = len(gold)
    metrics: list[Ratio | Macro] = [
        Ratio("micro_f1", (2,), (0, 1, 1), n, main=True),
        Macro("macro_f1", 4, n),
        Ratio("precision", (1,), (0, 1)),
        Ratio("recall", (1,), (0, 0, 1)),
    ]
    if any(prediction.options for prediction in answers.values()):
        metrics.append(Ratio("candidate_recall", (0, 0, 0, 1), (0, 0, 1)))
    return Counted(tuple(gold), counts, tuple(metrics))


def extraction_scores(predictions: Sequence[Prediction], gold: Gold, seed: int) -> list[Score]:
    """Accuracy over slots (main), micro-F1 of the values, precision, recall, and candidate recall.

    Accuracy is by normalised exact match, as for imputation, and ``n/a`` is an answer like any other.

    Micro-F1 is ExtractGPT's (Brinkmann et al. 2024), pooled over all slots: a right value is a true positive, a value
    where there is none a false positive, ``n/a`` where there is a value a false negative, a wrong value both, and a
    rightly absent one nothing. Hence P = right values / values extracted and R = right values / values there are. It
    differs from ExtractGPT's own evaluation in two points: values are compared after :func:`meld.text.normalise`
    instead of as they are written, and an answer that cannot be read is not taken for ``n/a``: as it is wrong whatever
    the truth is, it is a false negative where there is a value and a false *positive* where there is none.

    Resampled by title: the query ids are ``<unit>/<title>/<attribute>``, the title of any number of parts.

    Args:
        predictions: At most one per slot.
        gold: Slot to its acceptable values, ``n/a`` if the title has none; a slot that accepts both has no value that
            could be missed.
        seed: Seeds the resampling.
    """
    return evaluate(_slots(predictions, gold), seed)


def _slots(predictions: Sequence[Prediction], gold: Gold) -> Counted:
    answers = _index(predictions, gold)
    rows: list[tuple[int, ...]] = []
    for query_id, accepted in gold.items():
        prediction = answers.get(query_id)
        values = {normalise(value) for value in accepted}
        output = normalise(_output(prediction) or "")
        right = bool(output) and output in values
        empty = ABSENT in values
        extracted = output != ABSENT if output else empty
        hit = right and output != ABSENT
        rows.append((right, 1, hit, extracted, hit or not empty, _offered(prediction, values)))
    n = len(gold)
    metrics = [
        Ratio("accuracy", (1,), (0, 1), n, main=True),
        Ratio("micro_f1", (0, 0, 2), (0, 0, 0, 1, 1), n),
        Ratio("precision", (0, 0, 1), (0, 0, 0, 1)),
        Ratio("recall", (0, 0, 1), (0, 0, 0, 0, 1)),
    ]
    if any(prediction.options for prediction in answers.values()):
        metrics.append(Ratio("candidate_recall", (0, 0, 0, 0, 0, 1), (0, 1), n))
    return measure([_title_of(query_id) for query_id in gold], rows, 6, metrics)


def cleaning_scores(predictions: Sequence[Prediction], gold: Gold, dirty: Mapping[str, str], seed: int) -> list[Score]:
    """F1 of repairs (main), precision, recall, accuracy on attempted errors and candidate recall; resampled by tuple.

    Convention of Baran (Mahdavi and Abedjan 2020): P = right repairs / repairs made, R = right repairs / all errors,
    whichever cells a detector flagged. Equality is :func:`meld.text.normalise`'s, for errors, repairs and their
    correctness alike:

    * an *error* is a cell whose dirty value differs from every acceptable value;
    * a *repair* is a valid output that differs from the dirty value; an invalid answer changes nothing in the table,
      so it is none;
    * a repair is *right* when it equals an acceptable value of an erroneous cell; an empty output never is.

    ``repair_accuracy`` is right repairs over repaired errors: how good repairing is apart from detection.
    ``candidate_recall`` is the share of all errors whose gold value was among the options: the ceiling of recall when
    options were ranked.

    Args:
        predictions: Cells that were not asked may be missing or ``skipped``.
        gold: Every cell of the test split, not only those some detector flagged.
        dirty: Query id to the value before cleaning, for every query of ``gold``.
        seed: Seeds the resampling.

    Raises:
        ValueError: If a dirty value is missing.
    """
    return evaluate(_repairs(predictions, gold, dirty), seed)


def _repairs(predictions: Sequence[Prediction], gold: Gold, dirty: Mapping[str, str]) -> Counted:
    missing = [query_id for query_id in gold if query_id not in dirty]
    if missing:
        raise ValueError(f"{len(missing)} cells have no dirty value, the first is {missing[0]}")
    answers = _index(predictions, gold)
    rows: list[tuple[int, ...]] = []
    for query_id, accepted in gold.items():
        prediction = answers.get(query_id)
        values = {normalise(value) for value in accepted}
        before = normalise(dirty[query_id])
        output = _output(prediction)
        after = None if output is None else normalise(output)
        error = before not in values
        made = after is not None and after != before
        right = error and made and bool(after) and after in values
        rows.append((right, made, error, error and made, error and _offered(prediction, values)))
    ratios = [
        Ratio("f1", (2, 0, 0, 0, 0), (0, 1, 1, 0, 0), len(gold), main=True),
        Ratio("precision", (1, 0, 0, 0, 0), (0, 1, 0, 0, 0)),
        Ratio("recall", (1, 0, 0, 0, 0), (0, 0, 1, 0, 0)),
        Ratio("repair_accuracy", (1, 0, 0, 0, 0), (0, 0, 0, 1, 0)),
    ]
    if any(prediction.options for prediction in answers.values()):
        ratios.append(Ratio("candidate_recall", (0, 0, 0, 0, 1), (0, 0, 1, 0, 0)))
    return measure([tuple_of(query_id) for query_id in gold], rows, 5, ratios)


def is_correct(task: str, prediction: Prediction, gold: Sequence[str]) -> bool:
    """Whether one answer is right, by the equality its task's metric uses; for marking rows of a prediction table.

    Args:
        task: One of :data:`TASKS`.
        prediction: The answer.
        gold: The acceptable answers. A ``dc`` cell is right when its output is the clean value.
    """
    if task == "blk":
        return bool(set(_ranking(prediction)[:1]) & set(gold))
    output = _output(prediction)
    if output is None:
        return False
    if task in ("di", "dc", "cta", "re", "el", "ave"):
        return bool(normalise(output)) and normalise(output) in {normalise(value) for value in gold}
    return output in gold


def tuple_of(query_id: str) -> str:
    """The tuple a cell query ``<unit>/<row>/<column>`` is about, as ``<unit>/<row>``; other ids are their own group."""
    parts = query_id.split("/", 2)
    return "/".join(parts[:2]) if len(parts) == 3 else query_id


def _positive_class(
    predictions: Sequence[Prediction], gold: Gold, *, positive: str, group: Callable[[str], str]
) -> Counted:
    answers = _index(predictions, gold)
    rows: list[tuple[int, ...]] = []
    for query_id, accepted in gold.items():
        output = _output(answers.get(query_id))
        truth = positive in accepted
        said = output == positive if output is not None else not truth  # no answer: whatever is wrong
        right = output is not None and output in accepted
        rows.append((truth and said, said, truth, right, 1))
    n = len(gold)
    ratios = [
        Ratio("f1", (2, 0, 0, 0, 0), (0, 1, 1, 0, 0), n, main=True),
        Ratio("precision", (1, 0, 0, 0, 0), (0, 1, 0, 0, 0)),
        Ratio("recall", (1, 0, 0, 0, 0), (0, 0, 1, 0, 0)),
        Ratio("accuracy", (0, 0, 0, 1, 0), (0, 0, 0, 0, 1), n),
    ]
    return measure([group(query_id) for query_id in gold], rows, 5, ratios)


def _exact(predictions: Sequence[Prediction], gold: Gold) -> Counted:
    answers = _index(predictions, gold)
    rows: list[tuple[int, ...]] = []
    for query_id, accepted in gold.items():
        prediction = answers.get(query_id)
        values = {normalise(value) for value in accepted}
        output = _output(prediction)
        right = output is not None and bool(normalise(output)) and normalise(output) in values
        rows.append((right, _offered(prediction, values), 1))
    n = len(gold)
    ratios = [Ratio("accuracy", (1, 0, 0), (0, 0, 1), n, main=True)]
    if any(prediction.options for prediction in answers.values()):
        ratios.append(Ratio("candidate_recall", (0, 1, 0), (0, 0, 1), n))
    return measure(list(gold), rows, 3, ratios)


def _title_of(query_id: str) -> str:
    title, _, _ = query_id.rpartition("/")
    return title if "/" in title else query_id


def _index(predictions: Sequence[Prediction], gold: Gold | None) -> dict[str, Prediction]:
    answers: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.query_id in answers:
            raise ValueError(f"query {prediction.query_id} is predicted twice")
        if gold is not None and prediction.query_id not in gold:
            raise ValueError(f"query {prediction.query_id} has a prediction but no gold label")
        answers[prediction.query_id] = prediction
    return answers


def _output(prediction: Prediction | None) -> str | None:
    return None if prediction is None or prediction.status == "invalid" else prediction.output


def _ranking(prediction: Prediction | None) -> tuple[str, ...]:
    output = _output(prediction)
    if prediction is None or prediction.status == "invalid":
        return ()
    return prediction.options or ((output,) if output is not None else ())


def _offered(prediction: Prediction | None, values: set[str]) -> bool:
    return prediction is not None and any(normalise(option) in values for option in prediction.options)
