"""Parquet round trips, deterministic bytes, shared entities, and what the digest sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meld.dataset.io import (
    digest_unit,
    load_gold,
    load_predictions,
    load_queries,
    load_samples,
    load_unit,
    save_gold,
    save_predictions,
    save_queries,
    save_samples,
    save_unit,
)
from meld.dataset.quickstart import QuickstartHospitals, QuickstartPeople, QuickstartProducts
from meld.errors import DataError
from meld.types import Prediction, Query, Sample, Table, UnitData

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
UNIT_FLOATS = st.floats(0, 1)
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Table]:
    found = {}
    names: list[str] = draw(st.lists(st.sampled_from(["A", "B", "T"]), unique=True, max_size=2))
    for name in names:
        columns = tuple(draw(st.lists(TEXT, unique=True, min_size=1, max_size=3)))
        ids = draw(st.lists(TEXT, unique=True, max_size=4))
        rows = {record: {column: draw(TEXT) for column in columns} for record in ids}
        found[name] = Table(name, draw(TEXT), columns, rows)
    return found


@st.composite
def query_of(draw: st.DrawFn, known: dict[str, Table]) -> Query:
    references = [f"{name}:{record}" for name, table in known.items() for record in table.rows]
    entities, rows = [], []
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()) and references:
            reference = draw(st.sampled_from(references))
            name, record = reference.split(":", 1)
            entity = dict(known[name].rows[record])
            if draw(st.booleans()):
                entity = draw(st.sampled_from([entity, {**entity, "more": "x"}, dict(reversed(entity.items()))]))
            entities.append(entity)
            rows.append(reference)
        else:
            entities.append(draw(st.dictionaries(TEXT, TEXT, max_size=3)))
            rows.append(draw(st.sampled_from(["", "Z:0"])))
    return Query(
        id=draw(TEXT),
        unit=draw(TEXT),
        task=draw(TEXT),
        entities=tuple(entities),
        rows=draw(st.sampled_from([tuple(rows), ()])),
        target=draw(st.none() | TEXT),
        title=draw(TEXT),
        context=tuple(draw(st.lists(st.tuples(TEXT, TEXT), max_size=2))),
        options=tuple(draw(st.lists(TEXT, max_size=2))),
    )


@st.composite
def units(draw: st.DrawFn) -> UnitData:
    known = draw(tables())
    questions = st.lists(query_of(known), max_size=3)

    def samples() -> tuple[Sample, ...]:
        return tuple(Sample(query, draw(TEXT), draw(TEXT), draw(UNIT_FLOATS)) for query in draw(questions))

    return UnitData(
        draw(TEXT),
        draw(TEXT),
        draw(TEXT),
        known,
        samples(),
        samples(),
        tuple(draw(questions)),
        tuple(draw(questions)),
        tuple(draw(st.lists(TEXT, max_size=2))),
    )


def exact(data: object) -> str:
    """Equality of mappings ignores their order; this does not."""
    return repr(data)


@QUICK
@given(units())
def test_unit_round_trip(tmp_path: Path, data: UnitData) -> None:
    save_unit(data, tmp_path)
    loaded = load_unit(tmp_path)
    assert loaded == data
    assert exact(loaded) == exact(data)
    assert digest_unit(loaded) == digest_unit(data)


@QUICK
@given(units())
def test_samples_and_queries_round_trip_without_tables(tmp_path: Path, data: UnitData) -> None:
    save_samples(data.train, tmp_path / "deeper" / "samples.parquet")
    assert exact(load_samples(tmp_path / "deeper" / "samples.parquet")) == exact(list(data.train))
    save_queries(data.pool, tmp_path / "queries.parquet")
    assert exact(load_queries(tmp_path / "queries.parquet")) == exact(list(data.pool))


@QUICK
@given(st.dictionaries(TEXT, st.lists(TEXT, max_size=3).map(tuple), max_size=4))
def test_gold_round_trip(tmp_path: Path, gold: dict[str, tuple[str, ...]]) -> None:
    save_gold(gold, tmp_path / "gold.parquet")
    assert load_gold(tmp_path / "gold.parquet") == gold


@QUICK
@given(
    st.lists(
        st.builds(
            Prediction,
            query_id=TEXT,
            output=st.none() | TEXT,
            score=UNIT_FLOATS,
            status=st.sampled_from(["ok", "invalid", "skipped"]),
            experts=st.lists(TEXT, max_size=2).map(tuple),
            weights=st.lists(UNIT_FLOATS, max_size=2).map(tuple),
            options=st.lists(TEXT, max_size=2).map(tuple),
            raw=TEXT,
        ),
        max_size=4,
    )
)
def test_predictions_round_trip(tmp_path: Path, predictions: list[Prediction]) -> None:
    path = tmp_path / "predictions.parquet"
    save_predictions(predictions, path)
    assert load_predictions(path) == predictions
    columns = ["query_id", "output", "score", "status", "experts", "weights", "options", "raw"]
    content = pq.read_table(path)
    assert content.column_names == columns
    pq.write_table(content.append_column("correct", pa.array([True] * len(predictions), pa.bool_())), path)
    assert load_predictions(path) == predictions


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_gold({"q": ("a",)}, tmp_path / "gold.parquet")
    with pytest.raises(DataError, match="lacks the column output"):
        load_predictions(tmp_path / "gold.parquet")


@pytest.mark.parametrize("component", [QuickstartProducts(), QuickstartPeople(), QuickstartHospitals()])
def test_files_are_lean_and_repeatable(
    tmp_path: Path, component: QuickstartProducts | QuickstartPeople | QuickstartHospitals
) -> None:
    for unit, data in component.load().units.items():
        for folder in ("one", "two"):
            save_unit(data, tmp_path / folder / unit)
        first, second = (sorted((tmp_path / folder / unit).iterdir()) for folder in ("one", "two"))
        assert [path.name for path in first] == [path.name for path in second]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        loaded = load_unit(tmp_path / "one" / unit)
        assert loaded == data
        rows = {id(row) for table in loaded.tables.values() for row in table.rows.values()}
        assert all(id(entity) in rows for query in (*loaded.pool, *loaded.test) for entity in query.entities)


def test_equal_entities_become_one_object(tmp_path: Path) -> None:
    samples = [Sample(Query(str(n), "x.di", "di", ({"a": "1"},)), "y") for n in range(3)]
    save_samples(samples, tmp_path / "s.parquet")
    assert len({id(sample.query.entities[0]) for sample in load_samples(tmp_path / "s.parquet")}) == 1


def test_rows_must_have_the_columns_of_their_table(tmp_path: Path) -> None:
    data = UnitData("x.di", "x", "di", {"T": Table("T", "", ("a", "b"), {"7": {"b": "1", "a": "2"}})}, (), (), (), ())
    with pytest.raises(DataError, match=r"x\.di, record 7"):
        save_unit(data, tmp_path)


def test_digest_sees_everything_visible() -> None:
    data = QuickstartPeople().load().units["quickstart_people.di"]
    digest = digest_unit(data)
    assert len(digest) == 64
    table = data.tables["T"]
    first = next(iter(table.rows))
    variants = [
        replace(data, unit="other.di"),
        replace(data, train=data.train[::-1]),
        replace(data, train=(replace(data.train[0], label="elsewhere"), *data.train[1:])),
        replace(data, dev=(replace(data.dev[0], confidence=0.5), *data.dev[1:])),
        replace(data, pool=data.pool[1:]),
        replace(data, pool=data.pool[1:], test=(data.pool[0], *data.test)),
        replace(data, test=(replace(data.test[0], target="street"), *data.test[1:])),
        replace(data, test=(replace(data.test[0], context=(("a", "b"),)), *data.test[1:])),
        replace(data, test=(replace(data.test[0], entities=({"name": "x"},)), *data.test[1:])),
        replace(data, tables={"T": replace(table, title="other")}),
        replace(
            data, tables={"T": replace(table, rows={**table.rows, first: {**table.rows[first], "zip": "changed"}})}
        ),
    ]
    digests = [digest_unit(variant) for variant in variants]
    assert len({digest, *digests}) == len(variants) + 1


def test_digest_ignores_object_identity_and_table_order() -> None:
    data = QuickstartProducts().load().units["quickstart_products.em"]
    copied = tuple(replace(query, entities=tuple(dict(entity) for entity in query.entities)) for query in data.test)
    swapped = dict(reversed(list(data.tables.items())))
    assert digest_unit(replace(data, test=copied, tables=swapped)) == digest_unit(data)


def test_the_order_of_attributes_survives(tmp_path: Path) -> None:
    table = Table("T", "", ("a", "b"), {"7": {"a": "1", "b": "2"}})
    query = Query("q", "x.di", "di", ({"b": "2", "a": "1"},), ("T:7",))
    data = UnitData("x.di", "x", "di", {"T": table}, (), (), (query,), ())
    save_unit(data, tmp_path)
    assert list(load_unit(tmp_path).pool[0].entities[0]) == ["b", "a"]
    assert digest_unit(data) != digest_unit(replace(data, pool=(replace(query, entities=(table.rows["7"],)),)))
