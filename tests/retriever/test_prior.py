"""The evidence prior: the conditional logit against its definition, and what each task's evidence says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.retriever.candidates import ValueCandidates, tokens_of
from meld.retriever.cells import FEATURES, Evidence
from meld.retriever.partners import Link
from meld.retriever.prior import RANKS, ConditionalLogit, by_similarity, pair_features, repair_features
from meld.types import Query, Sample

Questions = tuple[list[np.ndarray], list[int], list[float]]


def questions(seed: int, n: int, f: int) -> Questions:
    rng = np.random.default_rng(seed)
    groups = [rng.normal(size=(int(rng.integers(2, 6)), f)) * rng.uniform(0.1, 5, size=f) for _ in range(n)]
    return groups, [int(rng.integers(len(g))) for g in groups], list(rng.uniform(0.2, 1, size=n))


def penalised_likelihood(w: np.ndarray, data: Questions, scale: np.ndarray, ridge: float) -> float:
    total = -ridge / 2 * float(w @ w)
    for group, right, weight in zip(*data, strict=True):
        scores = [sum(x / s * c for x, s, c in zip(row, scale, w, strict=True)) for row in group]
        total += weight * (scores[right] - np.log(sum(np.exp(v) for v in scores)))
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 5), st.floats(0.1, 3))
def test_the_fit_maximises_the_penalised_likelihood(seed: int, n: int, f: int, ridge: float) -> None:
    data = questions(seed, n, f)
    model = ConditionalLogit(ridge).fit(*data)
    assert model.coefficients is not None
    scale = np.concatenate(data[0]).std(axis=0)
    best = penalised_likelihood(model.coefficients, data, scale, ridge)
    for axis in range(f):
        for step in (-1e-3, 1e-3):
            moved = model.coefficients.copy()
            moved[axis] += step
            assert penalised_likelihood(moved, data, scale, ridge) <= best + 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_a_weight_of_two_is_two_questions(seed: int) -> None:
    groups, chosen, _ = questions(seed, 6, 3)
    once = ConditionalLogit().fit(groups, chosen, [2.0] * 6)
    twice = ConditionalLogit().fit(groups * 2, chosen * 2, [1.0] * 12)
    assert once.log_prior(groups[0]) == pytest.approx(twice.log_prior(groups[0]), abs=1e-6)
    assert np.exp(once.log_prior(groups[0])).sum() == pytest.approx(1.0)


def test_without_labels_options_are_even() -> None:
    assert ConditionalLogit().fit([], [], []).log_prior(np.zeros((4, 2))) == pytest.approx([-np.log(4)] * 4)


def test_separable_evidence_neither_overflows_nor_is_doubted() -> None:
    groups = [np.array([[1000.0, 1.0], [-1000.0, 1.0]])] * 50
    model = ConditionalLogit(ridge=1e-6).fit(groups, [0] * 50, [1.0] * 50)
    assert np.exp(model.log_prior(groups[0]))[0] > 0.99


def address(name: str, city: str, zip_code: str, phone: str) -> Sample:
    entity = {"street": f"{name} road", "zip": zip_code, "phone": phone, "city": ""}
    return Sample(Query(name, "d.di", "di", (entity,), (f"T:{name}",), "city"), city)


ADDRESSES = [
    address(f"{city}{i}", city, f"{prefix}{i}0", f"{area}-{i}5-99")
    for city, prefix, area in (("York", "561", "568"), ("Leeds", "610", "619"), ("Hull", "320", "432"))
    for i in range(4)
]
SAME = np.ones((len(ADDRESSES), 2), dtype=np.float32) / np.sqrt(2)


def test_the_first_digits_of_a_number_tell_the_place() -> None:
    values = ValueCandidates(ADDRESSES, SAME, {}, limit=3)
    for zip_code, city in (("56177", "York"), ("61077", "Leeds"), ("32077", "Hull")):
        asked = address("new", "", zip_code, "").query
        assert values.of(asked, SAME[0]).values[0] == city


def test_tokens_leave_out_the_cell_that_is_asked_about() -> None:
    query = address("a", "", "56110", "568-1").query
    assert tokens_of(query) == {"a", "road", "56110", "56~", "561~", "568", "1"}
    filled = replace(query, entities=({**query.entities[0], "city": "secret"},))
    assert tokens_of(filled) == tokens_of(query)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, len(ADDRESSES) - 1), st.sampled_from(["York", "Leeds", "Hull"]))
def test_a_sample_is_judged_without_its_own_label(index: int, label: str) -> None:
    """Whatever the label of a sample, what the others say about its query is the same."""
    changed = [replace(s, label=label) if i == index else s for i, s in enumerate(ADDRESSES)]
    target = ADDRESSES[index].query
    before = ValueCandidates(ADDRESSES, SAME, {}, limit=9)._targets["city"].judge(target, SAME[0])
    after = ValueCandidates(changed, SAME, {}, limit=9)._targets["city"].judge(target, SAME[0])
    assert before[0] == after[0]
    assert before[1] == pytest.approx(after[1])


def test_pair_evidence() -> None:
    left = {"title": "Acme X-100 drill", "price": "9"}
    same, other = {"title": "acme drill X-100", "price": ""}, {"title": "Bolt Y-200 saw", "price": "7"}
    near, far = Link(0.9, 1, 1, 0.2), Link(0.1, 11, 11, -0.6)
    match, mismatch = pair_features(near, left, same), pair_features(far, left, other)
    assert match.shape == mismatch.shape == pair_features(None, left, same).shape
    assert np.isfinite(match).all()
    assert match[1] > mismatch[1]
    assert match[3] > mismatch[3]
    assert pair_features(None, {"a": ""}, {"a": ""})[3] == 0.5  # nothing to compare


def test_repair_evidence() -> None:
    evidence = Evidence(np.arange(len(FEATURES), dtype=float), (("york", 2.0), ("leeds", 0.5)))
    features = repair_features("yxrk", evidence, ("yxrk", "york", "leeds"))
    assert features.shape[0] == 3
    assert features[0, 0] == 1
    assert not features[1:, 0].any()
    assert features[1, -3] == 2.0
    assert features[1, -2] == 1.0
    assert features[2, -2] == 0.5
    assert features[1, -1] > features[2, -1]
    assert repair_features("x", evidence, ()).shape == (0, features.shape[1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(0.01, 2))
def test_similarities_weigh_as_the_contrastive_loss_has_it(cosines: list[float], temperature: float) -> None:
    found = by_similarity(np.array(cosines), temperature)
    top = max(cosines)
    weights = [math.exp((cosine - top) / temperature) for cosine in cosines]
    assert np.exp(found) == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-12)


def test_the_ranks_are_where_they_are_said_to_be() -> None:
    near, far = Link(0.7, 1, 1, 0.1), Link(0.7, 3, 2, 0.1)
    left, right = {"name": "lamp x20"}, {"name": "lamp x21"}
    changed = np.flatnonzero(pair_features(near, left, right) != pair_features(far, left, right))
    assert list(changed) == list(range(RANKS.start, RANKS.stop))
