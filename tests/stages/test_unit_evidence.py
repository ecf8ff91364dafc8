"""What the evidence prior reads of a query: a meta-path's findings count where the path has attached them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meld.dataset.io import save_samples, save_unit
from meld.encoder.vectors import Embedder, Vectors
from meld.retriever.partners import assumed_pairs, link_facts, pair_partners
from meld.serializer.sentences import Sentences
from meld.stages.unit import Unit
from meld.task.base import Task
from meld.task.cta import ColumnTypeAnnotation
from meld.task.di import Imputation, value_text
from meld.task.el import EntityLinking
from meld.task.em import MATCH, MISMATCH, EntityMatching
from meld.types import Query, Sample, Table, UnitData

N = 12


def _pair(left: int, right: int) -> Query:
    return Query(
        f"shop.em/{left}-{right}", "shop.em", "em", ({"name": f"item {left}"}, {"name": f"item {right}"}),
        (f"A:{left}", f"B:{right}"),
    )  # fmt: skip


def _nobody() -> Embedder:
    raise AssertionError("every text has a vector")


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    """Twelve pairs whose vectors say who belongs together and whose words say nothing."""
    tables = {
        name: Table(name, "shop", ("name",), {str(i): {"name": f"item {i}"} for i in range(N)}) for name in ("A", "B")
    }
    samples = [Sample(_pair(i, i), MATCH) for i in range(6)] + [
        Sample(_pair(i, (i + 1) % 6), MISMATCH) for i in range(6)
    ]
    data = UnitData("shop.em", "shop", "em", tables, tuple(samples), (), (), ())
    save_unit(data, tmp_path / "data")
    serializer = Sentences()
    texts = sorted({serializer.text(entity) for table in tables.values() for entity in table.rows.values()})
    Vectors(texts, np.eye(len(texts), dtype=np.float32)).save(tmp_path / "index")
    (tmp_path / "annotate").mkdir()
    save_samples(samples, tmp_path / "annotate" / "samples.parquet")

    folders = [tmp_path / name for name in ("data", "index", "annotate")]
    return Unit("shop.em", EntityMatching(), serializer, *folders, _nobody, temperature=0.02)


def _linked(unit: Unit, query: Query) -> Query:
    assert unit.partners is not None
    return replace(query, context=link_facts(unit.partners.link(*query.rows), *query.entities))


def test_ranks_count_only_where_blocking_has_attached_them(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _pair(8, 8)
    before = unit.candidates([plain])[0].log_prior
    seen = unit.candidates([_linked(unit, plain)])[0].log_prior
    assert seen != before
    assert seen[0] > seen[1]

    def forbidden(*args: object) -> None:
        raise AssertionError("the neighbours of a pair were read without a path")

    monkeypatch.setattr(unit.partners, "link", forbidden)
    assert unit.candidates([plain])[0].log_prior == before


def test_each_view_sums_to_one(unit: Unit) -> None:
    for query in (_pair(8, 9), _linked(unit, _pair(8, 9))):
        assert np.exp(unit.candidates([query])[0].log_prior).sum() == pytest.approx(1.0)


def _withheld(folder: Path, data: UnitData, vectors: Vectors, task: Task, lenders: Sequence[Unit] = ()) -> Unit:
    """A unit without a label of its own."""
    save_unit(data, folder / "data")
    vectors.save(folder / "index")
    (folder / "annotate").mkdir()
    save_samples([], folder / "annotate" / "samples.parquet")
    folders = [folder / name for name in ("data", "index", "annotate")]
    return Unit(data.unit, task, Sentences(), *folders, _nobody, lenders, temperature=0.1)


def _two_tables() -> tuple[dict[str, Table], Vectors]:
    """Forty articles in two tables: who belongs together is what vectors and names say; every fourth has no partner."""
    rng = np.random.default_rng(0)
    names = {"A": [f"a{i}" for i in range(40)], "B": [f"a{i}" if i % 4 else f"b{i}" for i in range(40)]}
    tables = {
        side: Table(side, "shop", ("name",), {str(i): {"name": f"article {found[i]}"} for i in range(40)})
        for side, found in names.items()
    }
    base = rng.normal(size=(40, 16))
    texts: dict[str, np.ndarray] = {}
    for side, table in tables.items():
        for i, entity in enumerate(table.rows.values()):
            own = base[i] if i % 4 or side == "A" else rng.normal(size=16)
            texts[Sentences().text(entity)] = own + 0.3 * rng.normal(size=16)
    array = np.stack(list(texts.values()))
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    return tables, Vectors(list(texts), unit.astype(np.float32))


def _article(tables: Mapping[str, Table], left: int, right: int) -> Query:
    entities = (tables["A"].rows[str(left)], tables["B"].rows[str(right)])
    return Query(f"shop.em/{left}-{right}", "shop.em", "em", entities, (f"A:{left}", f"B:{right}"))


def test_without_any_label_the_tables_themselves_say_what_a_match_is(tmp_path: Path) -> None:
    tables, vectors = _two_tables()
    unit = _withheld(tmp_path, UnitData("shop.em", "shop", "em", tables, (), (), (), ()), vectors, EntityMatching())
    assert unit.partners is not None
    right = [_article(tables, i, i) for i in range(40) if i % 4]
    wrong = [_article(tables, i, (i + 1) % 40) for i in range(40)]
    for see in (lambda query: query, lambda query: _linked(unit, query)):
        matches = unit.match_odds([see(q) for q in right], linked=see(right[0]) is not right[0])
        mismatches = unit.match_odds([see(q) for q in wrong], linked=see(right[0]) is not right[0])
        assert (matches > 0).mean() > 0.9
        assert (mismatches < 0).mean() > 0.9


def test_assumed_pairs_are_mutual_neighbours_and_those_behind_somebody(tmp_path: Path) -> None:
    tables, vectors = _two_tables()
    partners = pair_partners(tables, vectors, Sentences().text)
    assert partners is not None
    matches, mismatches = assumed_pairs(partners, 10)
    assert 0 < len(matches) <= 10
    assert 0 < len(mismatches) <= 2 * len(matches)
    for rows in matches:
        assert partners.link(*rows).mutual
        assert partners.nearest(rows[0])[0][0] == rows[1]
        assert partners.nearest(rows[1])[0][0] == rows[0]
    assert all(partners.link(*rows).margin < 0 and not partners.link(*rows).mutual for rows in mismatches)


def test_labels_are_lent_where_no_tables_suggest_any(unit: Unit, tmp_path: Path) -> None:
    """The lender's labels say the opposite of what is nearest: the unit's own tables know better, if it has any."""
    tables, vectors = _two_tables()
    data = UnitData("shop.em", "shop", "em", tables, (), (), (), ())
    samples = [replace(s, label=MISMATCH if s.label == MATCH else MATCH) for s in unit.samples]
    unit.samples = tuple(samples)
    borrower = _withheld(tmp_path / "tables", data, vectors, EntityMatching(), [unit])
    asked = _linked(borrower, _article(tables, 5, 5))
    assert borrower.match_odds([asked], linked=True)[0] > 0
    bare = _withheld(tmp_path / "none", replace(data, tables={}), vectors, EntityMatching(), [unit])
    assert bare.match_odds([_article(tables, 5, 5)], linked=False)[0] != 0


def test_a_withheld_domain_is_weighed_by_similarity(tmp_path: Path) -> None:
    """Column types of which no column is known: the likeliest is the most similar, as far as the temperature says."""
    serializer = Sentences()
    query = Query("t.cta/1", "t.cta", "cta", ({"column": "Leeds, Hull"},), ("t:1",), target=None)
    options = ("city", "river", "person")
    task = ColumnTypeAnnotation()
    texts = [*task.encoder_texts(query, serializer.text), *(value_text("", option) for option in options)]
    array = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]], dtype=np.float32)
    data = UnitData("t.cta", "t", "cta", {}, (), (), (), (query,), options=options)
    found = _withheld(tmp_path, data, Vectors(texts, array), task).candidates([query])[0]
    assert found.values == options
    weights = np.exp(np.array([0.8, 0.6, 0.0]) / 0.1)
    assert np.exp(found.log_prior) == pytest.approx(weights / weights.sum(), rel=1e-5)


def test_a_withheld_attribute_is_read_from_the_tuple(tmp_path: Path) -> None:
    """Spans of the other cells in their order, as many as there is room for, none likelier than another."""
    entity = {"title": "sony walkman", "manufacturer": ""}
    query = Query("w.di/1", "w.di", "di", (entity,), ("w:1",), target="manufacturer")
    data = UnitData("w.di", "w", "di", {}, (), (), (), (query,))
    vectors = Vectors(["anything"], np.ones((1, 2), dtype=np.float32))
    found = _withheld(tmp_path, data, vectors, Imputation(max_candidates=2)).candidates([query])[0]
    assert found.values == ("sony", "sony walkman")
    assert found.log_prior == pytest.approx([-np.log(2)] * 2)


def test_too_few_suggestions_suggest_nothing(tmp_path: Path) -> None:
    tables = {side: Table(side, "shop", ("name",), {"0": {"name": f"article {side}"}}) for side in ("A", "B")}
    texts = [Sentences().text(table.rows["0"]) for table in tables.values()]
    data = UnitData("shop.em", "shop", "em", tables, (), (), (), ())
    unit = _withheld(tmp_path, data, Vectors(texts, np.eye(2, dtype=np.float32)), EntityMatching())
    assert unit.match_odds([_article(tables, 0, 0)], linked=False)[0] == 0


def test_other_tables_are_judged_by_what_the_units_own_suggested(tmp_path: Path) -> None:
    """One row a table suggests nothing; what a match is was read off the tables that the unit has learnt from."""
    tables, vectors = _two_tables()
    unit = _withheld(tmp_path, UnitData("shop.em", "shop", "em", tables, (), (), (), ()), vectors, EntityMatching())
    own = unit.match_odds([_article(tables, 5, 5), _article(tables, 5, 6)], linked=False)
    unit._embedder = lambda: Known(vectors)
    for right, odds in ((5, own[0]), (6, own[1])):
        few = {
            side: replace(t, rows={str(i): t.rows[str(i)]})
            for (side, t), i in zip(tables.items(), (5, right), strict=True)
        }
        moved = unit.over(few)
        assert moved.match_odds([_article(few, 5, right)], linked=False)[0] == pytest.approx(odds)


class Known:
    """Embeds texts whose vectors are known."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def embed(self, texts: Sequence[str], progress: object = None) -> np.ndarray:
        return self.vectors.get(texts)


def test_lent_labels_say_how_an_entity_is_chosen(tmp_path: Path) -> None:
    """Linking: another dataset's labels teach that the cell's own spelling counts; without them nothing does."""
    task = EntityLinking()

    def cell(unit: str, number: int, mention: str, options: tuple[str, ...]) -> Query:
        return Query(
            f"{unit}/{number}", unit, "el", ({"city": mention},), (f"t:{number}",), target="city", options=options
        )

    names = ["Leeds", "Hull", "York", "Bath"]
    learnt = [Sample(cell("a.el", i, name, (names[i - 1], name)), name) for i, name in enumerate(names)]
    asked = cell("b.el", 9, "Derby", ("Ripon", "Derby"))
    texts = {value_text("", option.lower()) for name in (*names, "Ripon", "Derby") for option in (name,)}
    texts |= {
        text for query in (*(s.query for s in learnt), asked) for text in task.encoder_texts(query, Sentences().text)
    }
    vectors = Vectors(sorted(texts), np.tile([[1.0, 0.0]], (len(texts), 1)).astype(np.float32))
    empty = UnitData("a.el", "a", "el", {}, (), (), (), ())
    lender = _withheld(tmp_path / "lender", empty, vectors, task)
    lender.samples = tuple(learnt)
    for name, lenders in (("alone", []), ("borrower", [lender])):
        unit = _withheld(tmp_path / name, replace(empty, unit="b.el"), vectors, task, lenders)
        prior = unit.candidates([asked])[0].log_prior
        assert (prior[1] > prior[0] + 0.5) == bool(lenders)
