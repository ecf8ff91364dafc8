"""Evidence about cells: counted naively, blind to the cell's own row, and right about planted errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.encoder.vectors import Vectors
from meld.retriever.cells import FEATURES, CellEvidence, Evidence, _trigrams, cell_facts, evidence_of
from meld.retriever.detect import Detector, best_threshold
from meld.task.di import value_text
from meld.text import pattern
from meld.types import Entity, Query, Sample, Table

CITIES = {"100": "york", "200": "leeds", "300": "hull"}


def render(entity: Entity) -> str:
    return " ".join(entity.values())


def by_key(entity: Entity) -> str:
    """A rendering that does not see the cell under test, so that the neighbours stay the same."""
    return entity["key"]


def table(n: int = 30, **changes: str) -> Table:
    """zip determines city; ``row_attribute=value`` changes a cell."""
    rows = {}
    for i in range(n):
        zip_code = list(CITIES)[i % 3]
        rows[f"r{i}"] = {"key": f"k{i % 6}", "zip": zip_code, "city": CITIES[zip_code]}
    for place, value in changes.items():
        row, _, attribute = place.partition("_")
        rows[row][attribute] = value
    return Table("T", "", ("key", "zip", "city"), rows)


def judge(t: Table, k: int = 3, how: object = by_key) -> CellEvidence:
    rng = np.random.default_rng(0)
    texts = sorted(
        {how(row) for row in t.rows.values()} | {value_text(a, v) for r in t.rows.values() for a, v in r.items()}
    )  # type: ignore[operator]
    array = rng.normal(size=(len(texts), 8)).astype(np.float32)
    return CellEvidence(t, Vectors(texts, array / np.linalg.norm(array, axis=1, keepdims=True)), how, k)  # type: ignore[arg-type]


def ask(t: Table, row: str, attribute: str, value: str | None = None) -> Query:
    entity = dict(t.rows[row])
    if value is not None:
        entity[attribute] = value
    return Query(f"d.ed/{row}/{attribute}", "d.ed", "ed", (entity,), (f"T:{row}",), attribute)


def named(evidence: Evidence) -> dict[str, float]:
    return dict(zip(FEATURES, evidence.features.tolist(), strict=True))


VALUES = st.sampled_from(["york", "yorkk", "leeds", "leds", "hull", "", "42", "Hull!"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 29), VALUES, VALUES)
def test_counts_equal_naive_counts_without_the_own_row(index: int, stored: str, value: str) -> None:
    t = table(**{f"r{index}_city": stored})
    cells = judge(t)
    found = named(cells.of(ask(t, f"r{index}", "city", value)))
    others = [row for name, row in t.rows.items() if name != f"r{index}"]
    column = [row["city"] for row in others]
    assert found["count"] == pytest.approx(np.log1p(column.count(value)))
    assert found["pattern_count"] == pytest.approx(np.log1p(sum(pattern(v) == pattern(value) for v in column)))
    rare = min(sum(g in _trigrams(v) for v in column) for g in _trigrams(value))
    assert found["rare_trigram"] == pytest.approx(np.log1p(rare))
    assert found["empty"] == float(value == "")
    same_zip = [row["city"] for row in others if row["zip"] == t.rows[f"r{index}"]["zip"]]
    assert found["dependency_agreement"] == pytest.approx(same_zip.count(value) / len(same_zip))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 29), VALUES, VALUES, VALUES)
def test_what_the_own_row_holds_does_not_matter(index: int, first: str, second: str, value: str) -> None:
    """Else a corrupted copy would be betrayed by its original, as no real error is."""
    found = []
    for stored in (first, second):
        t = table(**{f"r{index}_city": stored})
        found.append(judge(t).of(ask(t, f"r{index}", "city", value)))
    left, right = named(found[0]), named(found[1])
    for name in FEATURES:
        if name not in {"column_empty", "column_distinct", "cosine"}:  # of the column, and of the encoder
            assert left[name] == pytest.approx(right[name]), name
    assert dict(found[0].suggestions) == pytest.approx(dict(found[1].suggestions))


def test_a_unique_original_is_not_suggested_for_its_copy() -> None:
    t = table(r4_city="scarborough")
    suggestions = dict(judge(t).of(ask(t, "r4", "city", "scarboroug")).suggestions)
    assert "scarborough" not in suggestions


@pytest.mark.parametrize("wrong", ["yxrk", "yor", "leeds", "", "zzz"])
def test_the_right_value_of_a_determined_cell_comes_first(wrong: str) -> None:
    t = table(r3_city=wrong)
    evidence = judge(t).of(ask(t, "r3", "city"))
    assert evidence.suggestions[0][0] == "york"
    assert wrong not in dict(evidence.suggestions)
    assert "" not in dict(evidence.suggestions)
    weights = [weight for _, weight in evidence.suggestions]
    assert weights == sorted(weights, reverse=True)
    assert named(evidence)["dependency_disagreement"] == 1
    assert named(evidence)["dependency_agreement"] == 0
    assert ("table says", "york") in cell_facts(evidence)
    assert cell_facts(evidence, 0.9)[0] == ("cell", "wrong")
    fine = judge(t).of(ask(t, "r0", "city"))
    assert named(fine)["dependency_agreement"] > 0.8


def test_neighbours_are_the_nearest_other_rows() -> None:
    t = table()
    cells = judge(t, k=4, how=render)
    array = cells.vectors.get([render(row) for row in t.rows.values()])
    similarity = array @ array.T
    for i in range(30):
        chosen = list(cells._neighbours[i])
        assert i not in chosen
        assert len(set(chosen)) == 4
        rest = [j for j in range(30) if j != i and j not in chosen]
        assert min(similarity[i, chosen]) >= max(similarity[i, rest]) - 1e-6


def test_tiny_tables_and_foreign_tuples() -> None:
    t = Table("T", "", ("key", "zip", "city"), {"r0": {"key": "k", "zip": "1", "city": "york"}})
    cells = judge(t)
    assert cells.of(ask(t, "r0", "city")).suggestions == ()
    free = Query("q", "d.ed", "ed", ({"key": "new", "zip": "1", "city": "yorc"},), (), "city")
    assert dict(cells.of(free).suggestions).keys() == {"york"}
    assert len(evidence_of([free, free], cells)) == 2


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1), st.booleans()), min_size=1)
)
def test_best_threshold_is_the_best(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])

    def f1(threshold: float) -> float:
        said = scores >= threshold
        return 2 * (said & positive).sum() / (said.sum() + positive.sum())

    threshold = best_threshold(scores, positive)
    if not positive.any():
        assert threshold == 0.5
        return
    assert f1(threshold) == pytest.approx(max(f1(t) for t in scores))


def labelled(n: int, wrong: set[int]) -> tuple[list[Sample], np.ndarray]:
    rng = np.random.default_rng(0)
    samples = [
        Sample(Query(f"q{i}", "d.ed", "ed", ({"a": "v"},), (f"T:{i // 2}",), "a"), "error" if i in wrong else "correct")
        for i in range(n)
    ]
    features = rng.normal(size=(n, 3))
    features[:, 0] += [4.0 * (i in wrong) for i in range(n)]
    return samples, features


def test_the_detector_learns() -> None:
    wrong = {1, 8, 15, 22, 30}
    samples, features = labelled(40, wrong)
    detector = Detector(seed=2**62 + 1).fit(samples, features, [], np.zeros((0, 3)))
    said = {i for i, p in enumerate(detector.probability(features)) if detector.label(float(p)) == "error"}
    assert len(said ^ wrong) <= 1
    again = Detector(seed=2**62 + 1).fit(samples, features, [], np.zeros((0, 3)))
    assert again.threshold == detector.threshold
    assert np.array_equal(again.probability(features), detector.probability(features))


def test_the_detector_learns_from_corrupted_cells_alone() -> None:
    clean, features = labelled(20, set())
    made, made_features = labelled(20, set(range(20)))
    detector = Detector().fit(clean, features, made, made_features)
    assert detector.threshold == 0.5
    assert detector.probability(made_features).mean() > 0.8 > 0.2 > detector.probability(features).mean()


@pytest.mark.parametrize("wrong", [set(), set(range(6))])
def test_one_class_gives_a_constant(wrong: set[int]) -> None:
    samples, features = labelled(6, wrong)
    detector = Detector().fit(samples, features, [], np.zeros((0, 3)))
    assert detector.probability(features).tolist() == [float(bool(wrong))] * 6


def test_a_held_out_tuple_is_not_seen_through_its_corrupted_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    from meld.retriever import detect

    samples, features = labelled(12, {1, 4, 9})
    features[:, 2] = [i // 2 for i in range(12)]  # the tuple, as a tracer
    made, made_features = samples[:6], features[:6].copy()
    folds = []
    real = detect._fit

    def spy(x: np.ndarray, y: np.ndarray, extra: np.ndarray) -> object:
        model = real(x, y, extra)

        def predict(rows: np.ndarray) -> np.ndarray:
            folds.append((set(rows[:, 2]), set(x[:, 2]) | set(extra[:, 2])))
            return model(rows)

        return predict

    monkeypatch.setattr(detect, "_fit", spy)
    Detector().fit(samples, features, made, made_features)
    assert len(folds) == 5
    assert all(not held_out & seen for held_out, seen in folds)
