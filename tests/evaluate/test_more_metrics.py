"""Metrics of CTA, RE, EL, SM and AVE by hand and against scikit-learn; their baselines."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from meld.evaluate import baselines, metrics
from meld.evaluate.metrics import score
from meld.types import Gold, Prediction, Query, Sample, Score, UnitData


def by_name(scores: list[Score]) -> dict[str, Score]:
    assert [s.main for s in scores] == [True, *[False] * (len(scores) - 1)]
    return {s.metric: s for s in scores}


def answers(said: list[str | None], unit: str = "u.cta", options: tuple[str, ...] = ()) -> list[Prediction]:
    return [
        Prediction(f"{unit}/test/{i}", a, 1.0, status="ok" if a is not None else "invalid", options=options)
        for i, a in enumerate(said)
    ]


def gold_of(truth: list[tuple[str, ...]], unit: str = "u.cta") -> Gold:
    return {f"{unit}/test/{i}": t for i, t in enumerate(truth)}


CLASS = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(CLASS, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_classes_agree_with_scikit_learn(cases: list[tuple[str, str]]) -> None:
    said, truth = [list(column) for column in zip(*cases, strict=True)]
    found = by_name(score("cta", answers(said), gold_of([(t,) for t in truth]), {}, 0))
    labels = sorted(set(truth))
    assert found["micro_f1"].value == pytest.approx(f1_score(truth, said, average="micro"))
    macro = f1_score(truth, said, labels=labels, average="macro", zero_division=0)
    assert found["macro_f1"].value == pytest.approx(macro)
    assert found["precision"].value == found["recall"].value == pytest.approx(found["micro_f1"].value)
    for s in found.values():
        assert 0.0 <= s.low <= s.high <= 1.0
        assert s.n == len(cases)
    # Letters and spaces make no difference, nor does the order of the queries.
    shouted = answers([f" {s.upper()} " for s in said])[::-1]
    assert by_name(score("re", shouted, dict(reversed(gold_of([(t,) for t in truth]).items())), {}, 0)) == found


@given(st.lists(st.tuples(st.one_of(st.none(), CLASS), CLASS), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_an_unanswered_column_is_a_missing_prediction(cases: list[tuple[str | None, str]]) -> None:
    said, truth = [list(column) for column in zip(*cases, strict=True)]
    found = by_name(score("cta", answers(said), gold_of([(t,) for t in truth]), {}, 0))
    # scikit-learn knows a missing prediction as a class that is not averaged over.
    written = ["-" if s is None else s for s in said]
    micro = f1_score(truth, written, labels=["a", "b", "c", "d"], average="micro", zero_division=0)
    assert found["micro_f1"].value == pytest.approx(micro)
    macro = f1_score(truth, written, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert found["macro_f1"].value == pytest.approx(macro)
    # Leaving predictions out is the same as invalid ones, and lowers recall as much as a wrong answer does.
    assert by_name(score("cta", [p for p in answers(said) if p.output], gold_of([(t,) for t in truth]), {}, 0)) == found
    wrong = answers([s if s is not None else "?" for s in said])
    mistaken = by_name(score("cta", wrong, gold_of([(t,) for t in truth]), {}, 0))
    assert mistaken["recall"].value == found["recall"].value
    assert mistaken["micro_f1"].value <= found["micro_f1"].value


def test_classes_by_hand() -> None:
    truth: list[tuple[str, ...]] = [("city",), ("city",), ("city",), ("person",), ("person", "artist"), ("film",)]
    said = ["city", "city", "person", None, "Artist", "planet"]
    found = by_name(score("cta", answers(said, options=("city", "artist")), gold_of(truth), {}, 0))
    assert found["precision"].value == pytest.approx(3 / 5)
    assert found["precision"].n == 5
    assert found["recall"].value == pytest.approx(3 / 6)
    assert found["micro_f1"].value == pytest.approx(2 * 3 / (5 + 6))
    # TP, said, owed: city 2, 2, 3; person 0, 1, 1; artist 1, 1, 1; film 0, 0, 1; planet is none of gold's.
    assert found["macro_f1"].value == pytest.approx((4 / 5 + 0 + 1 + 0) / 4)
    assert found["candidate_recall"].value == pytest.approx(4 / 6)
    # Answered wrongly, the fifth belongs to the class listed first: city 4/5, person said 1 owed 2, film 0.
    said[4] = "film"
    found = by_name(score("cta", answers(said), gold_of(truth), {}, 0))
    assert found["macro_f1"].value == pytest.approx((4 / 5 + 0 + 0) / 3)
    assert "candidate_recall" not in found


def test_an_empty_answer_is_an_answer_and_wrong() -> None:
    found = by_name(score("cta", answers(["", "a"]), gold_of([("",), ("a",)]), {}, 0))
    assert found["precision"].value == 0.5
    assert found["precision"].n == 2


def test_intervals_of_macro_f1_agree_with_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(5)
    truth = [["a", "b", "c"][i] for i in rng.choice(3, 120, p=[0.7, 0.25, 0.05])]
    said = [t if keep else "a" for t, keep in zip(truth, rng.random(120) < 0.6, strict=True)]
    found = by_name(score("cta", answers([*said]), gold_of([(t,) for t in truth]), {}, 0))["macro_f1"]
    t, s = np.asarray(truth), np.asarray(said)
    naive = []
    for _ in range(1000):
        i = rng.integers(0, 120, 120)
        naive.append(f1_score(t[i], s[i], labels=sorted(set(t[i])), average="macro", zero_division=0))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), abs=0.03)


def test_a_class_that_a_resample_lacks_is_not_averaged_over_there() -> None:
    # One c among 31, and c is said ten times too often: without it macro-F1 is that of a alone, about 0.8.
    truth, said = [*["a"] * 30, "c"], [*["a"] * 20, *["c"] * 11]
    found = by_name(score("cta", answers([*said]), gold_of([(t,) for t in truth]), {}, 0))["macro_f1"]
    assert found.value == pytest.approx((40 / 50 + 2 / 12) / 2)
    assert found.low < found.value < 0.8 < found.high


def test_three_hundred_classes_are_scored_in_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = [(f"type {i}",) for i in rng.integers(0, 300, 4000)]
    said: list[str | None] = [f"type {i}" for i in rng.integers(0, 300, 4000)]
    start = time.perf_counter()
    score("cta", answers(said), gold_of(truth), {}, 0)
    assert time.perf_counter() - start < 20


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from(["match", "mismatch"])), st.booleans()), max_size=20))
@settings(deadline=None, max_examples=30)
def test_schema_matching_is_scored_as_pairs_are(cases: list[tuple[str | None, bool]]) -> None:
    predictions = answers([a for a, _ in cases])
    gold = gold_of([("match" if t else "mismatch",) for _, t in cases])
    assert score("sm", predictions, gold, {}, 0) == score("em", predictions, gold, {}, 0)


def test_linking_by_hand() -> None:
    gold = gold_of([("Paris - capital of France",), ("Bath",), ("York",), ("Rome",)], "u.el")
    predictions = [
        Prediction("u.el/test/0", "paris - capital of france", 1.0, options=("Paris - capital of France", "Paris")),
        Prediction("u.el/test/1", "Bath, Maine", 1.0, options=("Bath, Maine", "Bath")),
        Prediction("u.el/test/2", "York", 1.0, status="invalid", options=("York",)),
    ]
    found = by_name(score("el", predictions, gold, {}, 0))
    assert found["accuracy"].value == 0.25
    assert found["accuracy"].n == 4
    assert found["candidate_recall"].value == 0.75


SLOTS = [
    # gold, output
    (("Nike",), "nike "),  # right value
    (("Red",), "blue"),  # wrong value: false positive and false negative
    (("10 D US",), "n/a"),  # missed
    (("n/a",), "N/A"),  # rightly absent: counts for accuracy alone
    (("n/a",), "Leather"),  # made up
    (("n/a",), None),  # unreadable: wrong, hence not n/a
    (("Air",), None),  # unreadable: the value is missed
    (("n/a", "Men"), "men"),  # both are right
    (("n/a", "Men"), "n/a"),
    (("n/a", "Men"), "Women"),  # nothing missed, but made up
]


def test_extraction_by_hand() -> None:
    gold = {f"u.ave/test/{i // 3}/a{i}": truth for i, (truth, _) in enumerate(SLOTS)}
    predictions = [
        Prediction(key, out, 1.0, status="ok" if out is not None else "invalid", options=("n/a", "red"))
        for key, (_, out) in zip(gold, SLOTS, strict=True)
    ]
    found = by_name(score("ave", predictions, gold, {}, 0))
    assert found["accuracy"].value == pytest.approx(4 / 10)
    assert found["precision"].value == pytest.approx(2 / 6)  # nike, blue, leather, the unreadable one, men, women
    assert found["precision"].n == 6
    assert found["recall"].value == pytest.approx(2 / 5)  # nike, red, 10 D US, air, men
    assert found["recall"].n == 5
    assert found["micro_f1"].value == pytest.approx(2 * 2 / (6 + 5))
    assert found["candidate_recall"].value == pytest.approx(7 / 10)


@given(st.lists(st.tuples(st.sampled_from(["x", "y", "n/a"]), st.sampled_from(["x", "y", "n/a"])), min_size=1))
@settings(deadline=None, max_examples=60)
def test_values_agree_with_scikit_learn(cases: list[tuple[str, str]]) -> None:
    # Over the classes of values alone, n/a left out, micro-F1 is that of multi-class classification.
    said, truth = [list(column) for column in zip(*cases, strict=True)]
    found = by_name(score("ave", answers(said, "u.ave"), gold_of([(t,) for t in truth], "u.ave"), {}, 0))
    micro = f1_score(truth, said, labels=["x", "y"], average="micro", zero_division=0)
    assert found["micro_f1"].value == pytest.approx(micro)
    assert found["accuracy"].value == pytest.approx(np.mean([s == t for s, t in cases]))


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.sampled_from(["x", "n/a"])), st.sampled_from(["x", "n/a"]))), st.data()
)
@settings(deadline=None, max_examples=60)
def test_silence_is_never_better_than_n_a(cases: list[tuple[str | None, str]], data: st.DataObject) -> None:
    cases = [*cases, (None, data.draw(st.sampled_from(["x", "n/a"])))]
    gold = gold_of([(t,) for _, t in cases], "u.ave")
    silent = by_name(score("ave", answers([s for s, _ in cases], "u.ave"), gold, {}, 0))
    spoken = by_name(score("ave", answers([*(s for s, _ in cases[:-1]), "n/a"], "u.ave"), gold, {}, 0))
    assert all(silent[m].value <= spoken[m].value for m in ("accuracy", "micro_f1", "recall", "precision"))


def test_titles_are_the_unit_of_resampling() -> None:
    def slots(per_title: int) -> Score:
        gold = {f"u.ave/test/{t}/{c}": ("x",) for t in range(10) for c in range(per_title)}
        said = [Prediction(key, "x" if int(key.split("/")[2]) < 5 else "y", 1.0) for key in gold]
        return score("ave", said, gold, {}, 0)[0]

    one, twenty = slots(1), slots(20)
    assert (twenty.low, twenty.high) == pytest.approx((one.low, one.high))
    assert twenty.high - twenty.low > 0.4


@pytest.mark.parametrize("task", ["cta", "re", "el", "sm", "ave"])
def test_nothing_to_score_and_mistakes_of_the_caller(task: str) -> None:
    scores = score(task, [], {}, {}, 0)
    by_name(scores)
    assert all((s.value, s.low, s.high, s.n) == (0.0, 0.0, 0.0, 0) for s in scores)
    one = Prediction("u/1/a", "x", 1.0)
    with pytest.raises(ValueError, match="twice"):
        score(task, [one, one], {"u/1/a": ("x",)}, {}, 0)
    with pytest.raises(ValueError, match="no gold"):
        score(task, [one], {"u/2/a": ("x",)}, {}, 0)


@pytest.mark.parametrize(
    ("task", "output", "gold", "expected"),
    [
        ("cta", "City ", ("place", "city"), True),
        ("re", "born in", ("place of birth",), False),
        ("el", "York", ("york",), True),
        ("sm", "match", ("match",), True),
        ("sm", "Match", ("match",), False),
        ("ave", "N/A", ("n/a",), True),
        ("ave", "", ("",), False),
    ],
)
def test_a_row_is_correct_as_its_metric_says(task: str, output: str, gold: tuple[str, ...], expected: bool) -> None:
    prediction = Prediction("u.x/1/a", output, 1.0)
    assert metrics.is_correct(task, prediction, gold) is expected
    by_metric = {s.metric: s.value for s in score(task, [prediction], {"u.x/1/a": gold}, {}, 0)}
    assert by_metric["recall" if task in {"cta", "re"} else "accuracy"] == expected
    assert not metrics.is_correct(task, dataclasses.replace(prediction, status="invalid"), gold)


def unit(task: str, labels: list[tuple[str | None, str]], test: list[Query]) -> UnitData:
    few = tuple(
        Sample(Query(f"u.{task}/train/{i}", f"u.{task}", task, ({"c": str(i)},), target=target), label)
        for i, (target, label) in enumerate(labels)
    )
    return UnitData(f"u.{task}", "u", task, {}, few[:2], few[2:], (), tuple(test))


def asked(task: str, target: str | None = None, options: tuple[str, ...] = (), cell: str = "x") -> Query:
    return Query(f"u.{task}/{target}/{cell}", f"u.{task}", task, ({"cell": cell},), target=target, options=options)


@pytest.mark.parametrize("task", ["cta", "re"])
def test_the_constant_for_classes_is_the_most_frequent_few_shot_label(task: str) -> None:
    data = unit(task, [(None, "city"), (None, "film"), (None, "film")], [asked(task)])
    (found,) = baselines.majority(data)
    assert (found.output, found.score) == ("film", pytest.approx(2 / 3))
    (lost,) = baselines.majority(dataclasses.replace(data, train=(), dev=()))
    assert (lost.output, lost.status) == (None, "invalid")


def test_the_constant_for_slots_is_the_most_frequent_value_of_the_attribute() -> None:
    few = [
        ("Brand", "Nike"),
        ("Color", "n/a"),
        ("Color", "n/a"),
        ("Color", "red"),
        ("Brand", "Puma"),
        ("Brand", "Puma"),
    ]
    found = baselines.majority(unit("ave", [*few], [asked("ave", t) for t in ("Brand", "Color", "Size")]))
    assert [p.output for p in found] == ["Puma", "n/a", None]


def test_the_constant_for_schemas_is_match() -> None:
    assert baselines.majority(unit("sm", [(None, "mismatch")] * 3, [asked("sm")]))[0].output == "match"


def test_linking_baselines() -> None:
    options = ("Paris Hilton - heiress", "Paris - city of France", "Paris - city of Texas")
    data = unit("el", [], [asked("el", "cell", options, "PARIS"), asked("el", "cell", (), "Rome")])
    first, none = baselines.majority(data)
    assert (first.output, first.options) == (options[0], options)
    assert (none.output, none.status) == (None, "invalid")
    nearest, none = baselines.nearest_name(data)
    assert nearest.output == options[1]
    assert nearest.options == (options[1], options[2], options[0])
    assert nearest.score == 1.0
    assert none.status == "invalid"
    assert baselines.nearest_name(dataclasses.replace(data, test=data.test[1:])) == []
    assert baselines.nearest_name(dataclasses.replace(data, test=())) == []
