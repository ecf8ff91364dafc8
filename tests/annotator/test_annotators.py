"""Pseudo-labels: right where the data are easy, silent where they are not, and never about test or dev pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.annotator.base import Surroundings, nothing_added
from meld.annotator.none import NoAnnotator
from meld.annotator.pairs import label_pairs
from meld.annotator.self import SelfAnnotator
from meld.annotator.values import label_repairs, label_values
from meld.encoder.vectors import Vectors
from meld.retriever.cells import CellEvidence
from meld.retriever.partners import Partners
from meld.task.di import value_text
from meld.types import Entity, Query, Sample, Table, UnitData


def render(entity: Entity) -> str:
    return entity["name"]


def normed(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def pairs_unit(n: int = 40, noise: float = 0.15, seed: int = 0) -> tuple[UnitData, Partners]:
    """Records i of both tables are partners; their ids hold hyphens, as real ones do."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, 8))
    names = [f"l{i}" for i in range(n)] + [f"r{i}" for i in range(n)]
    vectors = Vectors(names, normed(np.concatenate([base, base + noise * rng.normal(size=base.shape)])))
    left = Table("A", "Things", ("name",), {f"{i}-x": {"name": f"l{i}"} for i in range(n)})
    right = Table("B", "Things", ("name",), {f"x-{i}": {"name": f"r{i}"} for i in range(n)})

    def ask(part: str, i: int, j: int) -> Query:
        return Query(
            f"d.em/{part}/{i}-{j}", "d.em", "em", (left.rows[f"{i}-x"], right.rows[f"x-{j}"]), (f"A:{i}-x", f"B:x-{j}")
        )

    def samples(part: str, numbers: range) -> tuple[Sample, ...]:
        return tuple(
            Sample(ask(part, i, (i + shift) % n), "mismatch" if shift else "match") for i in numbers for shift in (0, 1)
        )

    data = UnitData(
        "d.em", "d", "em", {"A": left, "B": right},
        samples("few", range(6)), samples("few", range(6, 8)),
        tuple(ask("train", i, (i + s) % n) for i in range(8, 20) for s in (0, 1, 2)),
        tuple(ask("test", i, (i + s) % n) for i in range(20, 26) for s in (0, 1)),
    )  # fmt: skip
    return data, Partners(left, right, vectors, render)


def place(reference: str) -> str:
    return reference.partition(":")[2].replace("-", "").replace("x", "")


def test_pairs_are_labelled_rightly_and_never_from_test_or_dev() -> None:
    data, partners = pairs_unit()
    made, report = label_pairs(data, partners, 0.9, 60, 2.0, np.random.default_rng(0))
    assert report["matches"] == 20
    assert report["mismatches"] == 40
    taken = {q.rows for q in data.test} | {s.query.rows for s in (*data.train, *data.dev)}
    for sample in made:
        assert sample.query.rows not in taken
        assert sample.provenance == "pseudo"
        assert 0 < sample.confidence < 1
        assert (sample.label == "match") == (place(sample.query.rows[0]) == place(sample.query.rows[1]))
        expected = (data.tables["A"].rows[sample.query.rows[0][2:]], data.tables["B"].rows[sample.query.rows[1][2:]])
        assert sample.query.entities == expected
    assert len({s.id for s in made}) == len(made) == len({s.query.rows for s in made})


@settings(max_examples=30)
@given(st.integers(0, 12), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3]), st.integers(0, 50))
def test_never_more_pairs_than_asked(most: int, ratio: float, seed: int) -> None:
    data, partners = pairs_unit()
    made, _ = label_pairs(data, partners, 0.9, most, ratio, np.random.default_rng(seed))
    assert len(made) <= most
    assert {s.label for s in made} <= {"match", "mismatch"}


def test_imprecise_neighbours_label_nothing() -> None:
    data, partners = pairs_unit()
    turned = tuple(replace(s, label="mismatch") for s in data.train)
    made, report = label_pairs(replace(data, train=turned, dev=()), partners, 0.9, 60, 2.0, np.random.default_rng(0))
    assert made == []
    assert report["reason"]
    assert label_pairs(replace(data, train=(), dev=()), partners, 0.9, 60, 2.0, np.random.default_rng(0))[0] == []


def test_hyphens_in_record_ids_do_not_merge_pairs() -> None:
    """``1-2`` with ``3`` and ``1`` with ``2-3`` are two pairs."""
    rows = {"1-2": {"name": "a"}, "1": {"name": "b"}}, {"3": {"name": "c"}, "2-3": {"name": "d"}}
    left, right = (Table(name, "", ("name",), r) for name, r in zip("AB", rows, strict=True))
    angles = np.array([0.0, 1.5, 0.1, 1.4])
    vectors = Vectors(list("abcd"), normed(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    # Both true pairs are mutual neighbours; a labelled pair of another margin sets the threshold.
    few = Sample(Query("few", "d.em", "em", (rows[0]["1"], rows[1]["2-3"]), ("A:1", "B:2-3")), "match")
    data = UnitData("d.em", "d", "em", {"A": left, "B": right}, (few,), (), (), ())
    partners = Partners(left, right, vectors, render)
    from meld.annotator.pairs import _sample

    ids = {_sample(data, a, b, "match", 1.0).id for a, b in (("A:1-2", "B:3"), ("A:1", "B:2-3"))}
    assert len(ids) == 2
    made, _ = label_pairs(data, partners, 0.5, 10, 1.0, np.random.default_rng(0))
    assert {s.query.rows for s in made if s.label == "match"} == {("A:1-2", "B:3")}


def values_unit(seed: int = 0) -> tuple[UnitData, Surroundings, dict[str, str]]:
    """Two cities far apart, and pool queries near one of them or between both."""
    rng = np.random.default_rng(seed)
    centres = {"York": np.array([1.0, 0.0, 0.0]), "Leeds": np.array([0.0, 1.0, 0.0])}
    vectors, train, pool, truth = {}, [], [], {}
    for i in range(12):
        city = ["York", "Leeds"][i % 2]
        query = Query(f"t{i}", "d.di", "di", ({"city": "", "n": str(i)},), (f"T:{i}",), "city")
        train.append(Sample(query, city))
        vectors[query.id] = normed(centres[city] + 0.05 * rng.normal(size=3))
    for i in range(20):
        city = ["York", "Leeds", "?", "other"][i % 4]
        target = "zip" if city == "other" else "city"
        query = Query(f"p{i}", "d.di", "di", ({target: "", "n": str(i)},), (f"T:{100 + i}",), target)
        centre = centres.get(city, sum(centres.values()))
        pool.append(query)
        truth[query.id] = city
        vectors[query.id] = normed(centre + 0.05 * rng.normal(size=3))
    table = Table("T", "", ("city", "n"), {})
    data = UnitData("d.di", "d", "di", {"T": table}, tuple(train), (), tuple(pool), ())
    return data, Surroundings(vectors=vectors), truth


def test_values_of_separable_data() -> None:
    data, around, truth = values_unit()
    made, report = label_values(data, around, 0.9, 100, np.random.default_rng(0))
    labels = {s.id: s.label for s in made}
    clear = {q: city for q, city in truth.items() if city in {"York", "Leeds"}}
    assert all(labels[q] == city for q, city in clear.items() if q in labels)
    assert len(labels.keys() & clear.keys()) >= 0.7 * len(clear)
    assert not [q for q, city in truth.items() if city == "other" and q in labels]
    assert report["kept"] == len(made)
    few, report = label_values(data, around, 0.9, 3, np.random.default_rng(0))
    assert len(few) == report["kept"] == 3
    assert [s.id for s in few] == [s.id for s in made if s in few]


def test_values_without_agreement_are_not_guessed() -> None:
    data, around, _ = values_unit()
    scrambled = tuple(replace(s, label=f"city {i}") for i, s in enumerate(data.train))
    assert label_values(replace(data, train=scrambled), around, 0.9, 100, np.random.default_rng(0))[0] == []
    assert label_values(replace(data, train=()), around, 0.9, 100, np.random.default_rng(0))[0] == []


def repairs_unit() -> tuple[UnitData, CellEvidence, set[str]]:
    """zip determines city; three rows of the pool and two labelled ones hold typing errors."""
    rows = {str(i): {"name": f"n{i}", "zip": str(i % 3), "city": ["york", "leeds", "hull"][i % 3]} for i in range(60)}
    wrong = {"0": "yxrk", "4": "leedz", "30": "yoork", "31": "leads", "32": "hulll"}
    for row, value in wrong.items():
        rows[row]["city"] = value
    table = Table("T", "", ("name", "zip", "city"), rows)
    texts = sorted({render(r) for r in rows.values()} | {value_text("city", r["city"]) for r in rows.values()})
    array = normed(np.random.default_rng(0).normal(size=(len(texts), 8)))

    def ask(row: str) -> Query:
        return Query(f"d.dc/{row}/city", "d.dc", "dc", (rows[row],), (f"T:{row}",), "city")

    train = tuple(Sample(ask(str(i)), ["york", "leeds", "hull"][i % 3]) for i in range(10))
    pool = tuple(ask(str(i)) for i in range(20, 50))
    data = UnitData("d.dc", "d", "dc", {"T": table}, train, (), pool, ())
    return data, CellEvidence(table, Vectors(texts, array), render), {"30", "31", "32"}


def test_repairs_of_a_determined_column() -> None:
    data, cells, wrong = repairs_unit()
    made, report = label_repairs(data, cells, 0.9, 100, np.random.default_rng(0))
    repairs = {s.id.split("/")[1]: s.label for s in made if s.label != s.query.entities[0]["city"]}
    # A weight below the few labelled ones is left alone; what is repaired is repaired rightly, and nothing else is.
    assert repairs.items() <= {"30": "york", "31": "leeds", "32": "hull"}.items()
    assert len(repairs) == report["repairs"] >= 2
    kept = {s.id.split("/")[1] for s in made} - repairs.keys()
    assert not kept & wrong


def test_pool_queries_carry_no_labels_to_read() -> None:
    for data, *_ in (pairs_unit(), values_unit(), repairs_unit()):
        assert not [q for q in (*data.pool, *data.test) if hasattr(q, "label")]


@pytest.mark.parametrize("annotator", [SelfAnnotator(max_pseudo=30, max_transformed=2), NoAnnotator()])
def test_annotating_keeps_labels_and_repeats_no_id(annotator: SelfAnnotator | NoAnnotator) -> None:
    pairs, partners = pairs_unit()
    values, around, _ = values_unit()
    repairs, cells, _ = repairs_unit()
    for data, surroundings in (
        (pairs, Surroundings(partners=partners)),
        (values, around),
        (repairs, Surroundings(cells=cells)),
        (pairs, Surroundings()),
    ):
        donated = [
            Sample(replace(data.train[0].query, id=f"other>{data.task}/{i}"), "match", "transformed:x", 0.9)
            for i in range(5)
        ]
        made = annotator.annotate(data, surroundings, donated, seed=1)
        assert made == annotator.annotate(data, surroundings, donated, seed=1)
        ids = [s.id for s in made.samples]
        assert len(ids) == len(set(ids))
        assert {s.id: s for s in made.samples if s.provenance == "labelled"} == {s.id: s for s in data.train}
        assert [s.provenance for s in made.samples[: len(data.train)]] == ["labelled"] * len(data.train)
        hidden = {q.id for q in data.test} | {s.id for s in data.dev}
        assert not hidden & set(ids)
        assert sum(s.provenance == "pseudo" for s in made.samples) <= 30
        assert sum(s.provenance.startswith("transformed") for s in made.samples) <= 2
        assert sum(made.report["counts"].values()) == len(made.samples)


def test_a_fallback_to_few_shot_is_said() -> None:
    data, partners = pairs_unit()
    wrong = replace(data, train=tuple(replace(s, label="mismatch") for s in data.train), dev=())
    made = SelfAnnotator().annotate(wrong, Surroundings(partners=partners), [], 0)
    assert made.samples == wrong.train
    message = nothing_added(wrong, made)
    assert message == (
        "d.em: annotation adds nothing (no margin is precise enough on the few-shot labels); its expert trains on the "
        "12 few-shot samples alone"
    )
    assert nothing_added(data, SelfAnnotator().annotate(data, Surroundings(partners=partners), [], 0)) is None
    assert nothing_added(data, NoAnnotator().annotate(data, Surroundings(), [], 0)) is None
    # Transformed samples are something, though no pseudo-label is kept.
    donated = [Sample(replace(data.train[0].query, id="o>em/1"), "match", "transformed:x", 0.9)]
    assert nothing_added(wrong, SelfAnnotator().annotate(wrong, Surroundings(partners=partners), donated, 0)) is None


def test_dev_labels_count_for_the_threshold_of_values() -> None:
    """Dev samples are out of fold for what the training samples say, so they are worth a vote on the threshold."""
    data, around, _ = values_unit()
    held = data.train[-4:]
    with_dev = replace(data, train=data.train[:-4], dev=held)
    report = label_values(with_dev, around, 0.9, 100, np.random.default_rng(0))[1]
    alone = label_values(replace(with_dev, dev=()), around, 0.9, 100, np.random.default_rng(0))[1]
    assert report["fitted_on"] == alone["fitted_on"] + 4
    lied = tuple(replace(s, label="elsewhere") for s in held)
    strict = label_values(replace(with_dev, dev=lied), around, 1.0, 100, np.random.default_rng(0))[1]
    assert strict["above"] <= alone["above"]
