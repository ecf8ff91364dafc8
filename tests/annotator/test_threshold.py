"""Thresholds for pseudo-labels, against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meld.annotator.base import take
from meld.annotator.threshold import confidence, describe, fit_threshold

MARGINS = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.1, 0.5, 1.0]) | st.floats(-1, 1), st.booleans()))


@given(MARGINS, st.sampled_from([0.0, 0.5, 0.75, 0.9, 1.0]))
def test_fit_threshold(pairs: list[tuple[float, bool]], precision: float) -> None:
    margins, right = [m for m, _ in pairs], [ok for _, ok in pairs]
    good = []
    for threshold in margins:
        kept = [ok for m, ok in pairs if m >= threshold]
        if sum(kept) / len(kept) >= precision:
            good.append(threshold)
    assert fit_threshold(margins, right, precision) == (min(good) if good else None)


@given(MARGINS, st.sampled_from([0.0, 0.5, 0.75, 0.9, 1.0]))
def test_what_the_report_says_of_a_threshold(pairs: list[tuple[float, bool]], precision: float) -> None:
    margins, right = [m for m, _ in pairs], [ok for _, ok in pairs]
    threshold = fit_threshold(margins, right, precision)
    found = describe(margins, right, threshold)
    assert found["fitted_on"] == len(pairs)
    if threshold is None:
        assert found["above"] == 0
        assert found["reason"]
    else:
        passing = [ok for m, ok in pairs if m >= threshold]
        assert found["above"] == len(passing)
        assert found["few_shot_precision"] == round(sum(passing) / len(passing), 6) >= round(precision, 6)
        assert "reason" not in found


@given(MARGINS, st.floats(-1, 1))
def test_confidence_is_a_smoothed_share(pairs: list[tuple[float, bool]], margin: float) -> None:
    value = confidence(margin, [m for m, _ in pairs], [ok for _, ok in pairs])
    above = [ok for m, ok in pairs if m >= margin]
    assert 0 < value < 1
    assert value == round((1 + sum(above)) / (2 + len(above)), 4)


@given(st.lists(st.integers(), unique=True), st.none() | st.integers(0, 10))
def test_take_keeps_the_order(items: list[int], limit: int | None) -> None:
    taken = take(items, limit, np.random.default_rng(0))
    assert len(taken) == (len(items) if limit is None else min(limit, len(items)))
    assert taken == [item for item in items if item in set(taken)]
