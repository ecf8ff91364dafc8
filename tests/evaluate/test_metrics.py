"""Metrics against hand-computed cases, scikit-learn, and a naive bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from meld.evaluate import metrics
from meld.evaluate.metrics import score
from meld.types import Gold, Prediction, Score


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {s.metric: s for s in scores}


def pairs(answers: list[str | None], truth: list[str]) -> tuple[list[Prediction], Gold]:
    predictions = [
        Prediction(f"u.em/{i}", a, 1.0, status="ok" if a is not None else "invalid") for i, a in enumerate(answers)
    ]
    return predictions, {f"u.em/{i}": (t,) for i, t in enumerate(truth)}


LABEL = st.sampled_from(["match", "mismatch"])


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=60))
@settings(deadline=None, max_examples=60)
def test_pair_scores_agree_with_scikit_learn(cases: list[tuple[str, str]]) -> None:
    said, truth = [list(column) for column in zip(*cases, strict=True)]
    found = by_name(score("em", *pairs(said, truth), {}, 0))
    p, r, f, _ = precision_recall_fscore_support(truth, said, labels=["match"], zero_division=0)
    assert found["f1"].value == pytest.approx(f[0])
    assert found["precision"].value == pytest.approx(p[0])
    assert found["recall"].value == pytest.approx(r[0])
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, said))
    assert found["precision"].n == said.count("match")
    assert found["recall"].n == truth.count("match")
    for s in found.values():
        assert 0.0 <= s.low <= s.high <= 1.0


@given(st.lists(st.tuples(st.one_of(st.none(), LABEL), LABEL), min_size=1, max_size=30), st.data())
@settings(deadline=None, max_examples=60)
def test_an_unparseable_answer_is_never_better_than_any_wrong_one(
    cases: list[tuple[str | None, str]], data: st.DataObject
) -> None:
    said, truth = [list(column) for column in zip(*cases, strict=True)]
    i = data.draw(st.integers(0, len(cases) - 1))
    wrong = ["mismatch" if t == "match" else "match" for t in truth]
    invalid, mistaken = said.copy(), said.copy()
    invalid[i], mistaken[i] = None, wrong[i]
    a, b = (by_name(score("em", *pairs(x, truth), {}, 0)) for x in (invalid, mistaken))
    assert all(a[m].value == b[m].value for m in ("f1", "precision", "recall", "accuracy"))


def test_invalid_pairs_by_hand() -> None:
    # truth  M M M - - ; said M ? - M ?  ->  TP 1, FN 2, FP 2 (one of them the unparseable mismatch)
    found = by_name(
        score(
            "em",
            *pairs(["match", None, "mismatch", "match", None], ["match"] * 3 + ["mismatch"] * 2),
            {},
            0,
        )
    )
    assert found["precision"].value == pytest.approx(1 / 3)
    assert found["recall"].value == pytest.approx(1 / 3)
    assert found["f1"].value == pytest.approx(1 / 3)
    assert found["accuracy"].value == pytest.approx(1 / 5)


def test_an_invalid_status_overrides_an_output_and_a_missing_prediction_counts_as_wrong() -> None:
    gold: Gold = {"u.em/0": ("match",), "u.em/1": ("match",)}
    found = by_name(score("em", [Prediction("u.em/0", "match", 1.0, status="invalid")], gold, {}, 0))
    assert found["recall"].value == 0.0
    assert found["recall"].n == 2
    assert by_name(score("em", [Prediction("u.em/0", "match", 1.0)], gold, {}, 0))["recall"].value == 0.5


@pytest.mark.parametrize("garbage", ["Match", " match", "yes", "", "match mismatch"])
def test_a_near_match_is_no_match(garbage: str) -> None:
    found = by_name(score("em", *pairs([garbage, garbage], ["match", "mismatch"]), {}, 0))
    assert found["f1"].value == 0.0
    assert found["accuracy"].value == 0.0


@pytest.mark.parametrize("task", ["em", "di", "ed"])
def test_a_prediction_twice_or_without_gold_is_refused(task: str) -> None:
    one = Prediction("u/1/a", "x", 1.0)
    with pytest.raises(ValueError, match="twice"):
        score(task, [one, one], {"u/1/a": ("x",)}, {}, 0)
    with pytest.raises(ValueError, match="no gold"):
        score(task, [one], {"u/2/a": ("x",)}, {}, 0)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no metric for task"):
        score("nonsense", [], {}, {}, 0)


@pytest.mark.parametrize("task", ["em", "blk", "di", "ed", "dc"])
def test_nothing_to_score_gives_zero_with_n_zero(task: str) -> None:
    scores = score(task, [], {}, {}, 0)
    assert scores[0].main
    assert sum(s.main for s in scores) == 1
    assert all((s.value, s.low, s.high, s.n) == (0.0, 0.0, 0.0, 0) for s in scores)


def test_blocking_by_hand() -> None:
    gold: Gold = {"u.blk/1": ("B:1", "B:9"), "u.blk/2": ("B:2",), "u.blk/3": ("B:3",), "u.blk/4": ()}
    eleven = (*tuple(f"B:x{i}" for i in range(10)), "B:3")
    predictions = [
        Prediction("u.blk/1", "B:9", 0.9, options=("B:9", "B:1")),  # any partner counts
        Prediction("u.blk/2", "B:7", 0.9, options=("B:7", "B:2")),  # second place
        Prediction("u.blk/3", "B:x0", 0.9, options=eleven),  # eleventh place: too deep
        Prediction("u.blk/4", "B:4", 0.9, options=("B:4",)),  # has no partner: not scored
        Prediction("u.blk/5", "B:4", 0.9, options=("B:4",)),
    ]
    found = by_name(score("blk", predictions, gold, {}, 0, records=100))
    assert found["recall@1"].value == pytest.approx(1 / 3)
    assert found["recall@1"].main
    assert found["recall@1"].n == 3
    assert found["recall@10"].value == pytest.approx(2 / 3)
    assert found["candidate_ratio"].value == pytest.approx((2 + 2 + 10) / 300)
    assert "candidate_ratio" not in by_name(score("blk", predictions, gold, {}, 0))


def test_blocking_without_a_ranking_uses_the_output() -> None:
    found = by_name(score("blk", [Prediction("u/1", "B:1", 1.0)], {"u/1": ("B:1",)}, {}, 0))
    assert found["recall@1"].value == 1.0


def test_imputation_by_hand() -> None:
    gold: Gold = {f"u.di/{i}": (g,) for i, g in enumerate(["New  York", "LA", "Rome", "Bern"])}
    predictions = [
        Prediction("u.di/0", " new york ", 1.0, options=("new york", "x")),
        Prediction("u.di/1", "l.a.", 1.0, options=("l.a.", "LA")),  # punctuation matters; the gold was on offer
        Prediction("u.di/2", "", 1.0, options=("Rome",)),
    ]
    found = by_name(score("di", predictions, gold, {}, 0))
    assert found["accuracy"].value == 0.25
    assert found["accuracy"].n == 4
    assert found["candidate_recall"].value == 0.75
    assert set(by_name(score("di", [Prediction("u.di/0", "x", 1.0)], gold, {}, 0))) == {"accuracy"}


def test_an_empty_answer_is_never_a_right_value() -> None:
    assert score("di", [Prediction("u/1", " ", 1.0)], {"u/1": ("",)}, {}, 0)[0].value == 0.0
    assert score("dc", [Prediction("u/1/a", "", 1.0)], {"u/1/a": ("",)}, {"u/1/a": "x"}, 0)[0].value == 0.0


def test_cleaning_by_hand() -> None:
    cells = [
        # dirty, clean, output
        ("birmingxam", "birmingham", "Birmingham "),  # right repair
        ("35xx2", "35002", "35003"),  # wrong repair of an error
        ("", "al", None),  # error, invalid answer: nothing repaired
        ("guntersvillx", "guntersville", "guntersvillx"),  # error left as it was: no repair
        ("xl", "al", ""),  # blanked: a repair made, not a right one
        ("al", "al", "AL"),  # the same value: no repair
        ("ok", "ok", "changed"),  # a clean cell broken
        ("ok", "ok", "-"),  # not asked
        ("bad", "good", "-"),  # an error that no detector flagged
    ]
    gold = {f"u.dc/{i}/a": (clean,) for i, (_, clean, _) in enumerate(cells)}
    dirty = {f"u.dc/{i}/a": before for i, (before, _, _) in enumerate(cells)}
    predictions = [
        Prediction(f"u.dc/{i}/a", out, 1.0, status="ok" if out is not None else "invalid", options=("birmingham", "al"))
        for i, (_, _, out) in enumerate(cells)
        if out != "-"
    ]
    found = by_name(score("dc", predictions, gold, dirty, 0))
    assert found["precision"].value == pytest.approx(1 / 4)
    assert found["precision"].n == 4
    assert found["recall"].value == pytest.approx(1 / 6)
    assert found["recall"].n == 6
    assert found["f1"].value == pytest.approx(2 / (4 + 6))
    assert found["f1"].main
    assert found["f1"].n == 9
    assert found["repair_accuracy"].value == pytest.approx(1 / 3)
    assert found["candidate_recall"].value == pytest.approx(3 / 6)  # birmingham, and twice al
    with pytest.raises(ValueError, match="no dirty value"):
        score("dc", predictions, gold, {}, 0)


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", ""])] * 3), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_cleaning_f1_is_the_harmonic_mean_of_its_parts(cells: list[tuple[str, str, str]]) -> None:
    gold = {f"u/{i}/a": (clean,) for i, (_, clean, _) in enumerate(cells)}
    dirty = {f"u/{i}/a": before for i, (before, _, _) in enumerate(cells)}
    predictions = [Prediction(f"u/{i}/a", out, 1.0) for i, (_, _, out) in enumerate(cells)]
    found = by_name(score("dc", predictions, gold, dirty, 0))
    p, r = found["precision"].value, found["recall"].value
    assert found["f1"].value == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)


def test_leaving_every_cell_alone_scores_zero_and_perfect_repair_one() -> None:
    gold = {f"u/{i}/a": ("clean",) for i in range(10)}
    dirty = {key: "clean" if i % 2 else "dirt" for i, key in enumerate(gold)}
    nothing = [Prediction(key, dirty[key], 1.0) for key in gold]
    perfect = [Prediction(key, "clean", 1.0) for key in gold]
    assert score("dc", nothing, gold, dirty, 0)[0].value == 0.0
    assert score("dc", perfect, gold, dirty, 0)[0].value == 1.0


def test_tuples_are_the_unit_of_resampling_for_cells() -> None:
    # Ten tuples of twenty identical cells carry the information of ten cells: the interval must not narrow.
    def cells(per_tuple: int) -> Score:
        gold = {f"u.ed/{t}/{c}": ("error",) for t in range(10) for c in range(per_tuple)}
        said = [Prediction(key, "error" if int(key.split("/")[1]) < 5 else "correct", 1.0) for key in gold]
        return by_name(score("ed", said, gold, {}, 0))["recall"]

    one, twenty = cells(1), cells(20)
    assert (one.value, twenty.value) == (0.5, 0.5)
    assert (twenty.low, twenty.high) == pytest.approx((one.low, one.high))
    assert twenty.high - twenty.low > 0.4


@pytest.mark.parametrize(
    ("query_id", "expected"),
    [("u.ed/T:3/city", "u.ed/T:3"), ("u.ed/T:3/price/unit", "u.ed/T:3"), ("u.em/3", "u.em/3"), ("x", "x")],
)
def test_tuple_of(query_id: str, expected: str) -> None:
    assert metrics.tuple_of(query_id) == expected


def test_intervals_agree_with_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(3)
    truth = ["match" if x else "mismatch" for x in rng.random(150) < 0.3]
    said = [t if keep else "match" for t, keep in zip(truth, rng.random(150) < 0.7, strict=True)]
    found = by_name(score("em", *pairs(said, truth), {}, 0))["f1"]
    t, s = np.asarray(truth) == "match", np.asarray(said) == "match"
    naive = []
    for _ in range(4000):
        i = rng.integers(0, 150, 150)
        naive.append(2 * (t[i] & s[i]).sum() / (t[i].sum() + s[i].sum()))
    low, high = np.percentile(naive, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_scores_do_not_depend_on_order_and_repeat_with_the_seed() -> None:
    said = ["match", "mismatch", "match", "mismatch", "match"] * 8
    truth = ["match", "match", "mismatch", "mismatch", "match"] * 8
    predictions, gold = pairs(said, truth)
    first = score("em", predictions, gold, {}, 1)
    assert score("em", predictions[::-1], dict(reversed(gold.items())), {}, 1) == first
    assert score("em", predictions, gold, {}, 2) != first


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = rng.random(200) < 0.6
        gold = {f"u/{i}": ("x",) for i in range(200)}
        s = score("di", [Prediction(f"u/{i}", "x" if r else "y", 1.0) for i, r in enumerate(right)], gold, {}, trial)
        covered += s[0].low <= 0.6 <= s[0].high
    assert 178 <= covered <= 200


@pytest.mark.parametrize(
    ("task", "output", "gold", "expected"),
    [
        ("em", "match", "match", True),
        ("em", "Match", "match", False),
        ("di", " Rome", "rome", True),
        ("di", "", "", False),
        ("dc", "a  b", "A b", True),
        ("blk", "B:1", "B:1", True),
        ("blk", "B:2", "B:1", False),
    ],
)
def test_is_correct(task: str, output: str, gold: str, expected: bool) -> None:
    assert metrics.is_correct(task, Prediction("q", output, 1.0), (gold,)) is expected
    assert not metrics.is_correct(task, Prediction("q", output, 1.0, status="invalid"), (gold,))
