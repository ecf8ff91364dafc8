"""Published conventions: by hand, against scikit-learn, and where they must equal the strict scores."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from meld.evaluate.compat import PREFIX, compat_scores
from meld.evaluate.metrics import TASKS, score
from meld.types import Gold, Prediction, Score

INVALID = Prediction("u.em/3", None, 0.0, "invalid")


def only(task: str, predictions: list[Prediction], gold: Gold, dirty: dict[str, str] | None = None) -> Score:
    (found,) = compat_scores(task, predictions, gold, dirty or {}, 0)
    assert found.metric.startswith(PREFIX)
    assert not found.main
    assert 0 <= found.low <= found.value <= found.high <= 1
    return found


def strict(
    task: str, metric: str, predictions: list[Prediction], gold: Gold, dirty: dict[str, str] | None = None
) -> float:
    return next(s.value for s in score(task, predictions, gold, dirty or {}, 0) if s.metric == metric)


@pytest.mark.parametrize(
    ("task", "yes", "no"), [("em", "match", "mismatch"), ("sm", "match", "mismatch"), ("ed", "error", "correct")]
)
def test_an_unread_pair_is_a_negative(task: str, yes: str, no: str) -> None:
    """One hit, one miss, and silence on a true mismatch: strictly a false alarm (F1 0.5), here nothing (F1 2/3)."""
    gold = {f"u.{task}/1": (yes,), f"u.{task}/2": (yes,), f"u.{task}/3": (no,)}
    given = [
        Prediction(f"u.{task}/1", yes, 1.0),
        Prediction(f"u.{task}/2", no, 1.0),
        Prediction(f"u.{task}/3", None, 0.0, "invalid"),
    ]
    assert only(task, given, gold).value == pytest.approx(2 / 3)
    assert strict(task, "f1", given, gold) == pytest.approx(0.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["match", "mismatch", None]), st.booleans()), min_size=1, max_size=12))
def test_unread_negatives_agree_with_scikit_learn(cases: list[tuple[str | None, bool]]) -> None:
    gold = {str(i): ("match" if truth else "mismatch",) for i, (_, truth) in enumerate(cases)}
    given = [Prediction(str(i), said, 0.5, "ok" if said else "invalid") for i, (said, _) in enumerate(cases)]
    expected = f1_score([t for _, t in cases], [s == "match" for s, _ in cases], zero_division=0)
    assert only("em", given, gold).value == pytest.approx(expected)


def test_only_flagged_cells_are_scored() -> None:
    """Two errors, one flagged and rightly repaired: strict recall 1/2 and F1 2/3, over the flagged cell alone F1 1."""
    gold = {"u.dc/1/a": ("x",), "u.dc/2/a": ("y",), "u.dc/3/a": ("z",)}
    dirty = {"u.dc/1/a": "xx", "u.dc/2/a": "yy", "u.dc/3/a": "z"}
    given = [
        Prediction("u.dc/1/a", "x", 1.0),
        Prediction("u.dc/2/a", "yy", 1.0, "skipped"),
        Prediction("u.dc/3/a", "z", 1.0, "skipped"),
    ]
    found = only("dc", given, gold, dirty)
    assert (found.value, found.n) == (1.0, 1)
    assert strict("dc", "f1", given, gold, dirty) == pytest.approx(2 / 3)
    asked = [Prediction(p.query_id, p.output, 1.0) for p in given]
    assert only("dc", asked, gold, dirty).value == strict("dc", "f1", asked, gold, dirty)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "other"]), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=12
    )
)
@pytest.mark.parametrize("task", ["cta", "re"])
def test_macro_f1_agrees_with_scikit_learn(task: str, cases: list[tuple[str, str]]) -> None:
    gold = {str(i): (truth,) for i, (_, truth) in enumerate(cases)}
    given = [Prediction(str(i), said, 0.5) for i, (said, _) in enumerate(cases)]
    expected = f1_score([t for _, t in cases], [s for s, _ in cases], average="macro", zero_division=0)
    found = only(task, given, gold).value
    assert found == pytest.approx(expected)
    assert found <= strict(task, "macro_f1", given, gold) + 1e-12


def test_pairs_are_recalled() -> None:
    """A tuple with three partners of which one is found, another whose one is found: 2 of 4 pairs, 2 of 2 tuples."""
    gold = {"q1": ("B:1", "B:2", "B:3"), "q2": ("B:7",), "q3": ()}
    given = [
        Prediction("q1", "B:1", 1.0, options=("B:1", "B:9")),
        Prediction("q2", "B:7", 1.0, options=("B:7",)),
        Prediction("q3", "B:5", 1.0, options=("B:5",)),
    ]
    found = only("blk", given, gold)
    assert (found.metric, found.value, found.n) == ("compat_pair_recall@10", 0.5, 4)
    assert strict("blk", "recall@10", given, gold) == 1.0
    deep = [Prediction("q2", "B:0", 1.0, options=(*(f"B:{i}" for i in range(20, 30)), "B:7"))]
    assert only("blk", deep, {"q2": ("B:7",)}).value == 0.0


def test_only_linkable_cells_are_scored() -> None:
    gold = {"u.el/1": ("Paris - city",), "u.el/2": ("Lyon - city",)}
    given = [
        Prediction("u.el/1", "Paris - city", 1.0, options=("Paris - city", "Paris - myth")),
        Prediction("u.el/2", "Lions - team", 1.0, options=("Lions - team",)),
    ]
    found = only("el", given, gold)
    assert (found.value, found.n) == (1.0, 1)
    assert strict("el", "accuracy", given, gold) == 0.5


def test_values_as_they_are_written() -> None:
    """A hit, one in another case (both wrong and missing), silence on a value and on none: P = 1/2, R = 1/3."""
    gold = {"u.ave/1/a": ("Red",), "u.ave/1/b": ("Blue",), "u.ave/2/a": ("Green",), "u.ave/2/b": ("n/a",)}
    given = [
        Prediction("u.ave/1/a", "Red", 1.0),
        Prediction("u.ave/1/b", "blue", 1.0),
        Prediction("u.ave/2/a", None, 0.0, "invalid"),
        Prediction("u.ave/2/b", None, 0.0, "invalid"),
    ]
    assert only("ave", given, gold).value == pytest.approx(2 / 5)
    # Strictly blue is Blue, and silence is a false alarm where there is nothing: P = 2/3, R = 2/3.
    assert strict("ave", "micro_f1", given, gold) == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_to_score(task: str) -> None:
    for found in compat_scores(task, [], {}, {}, 0):
        assert (found.value, found.n) == (0.0, 0)


def test_imputation_has_no_other_convention() -> None:
    assert compat_scores("di", [Prediction("q", "a", 1.0)], {"q": ("a",)}, {}, 0) == []
