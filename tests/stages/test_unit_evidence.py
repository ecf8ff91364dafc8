"""What the evidence prior reads of a query: a meta-path's findings count where the path has attached them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meld.dataset.io import save_samples, save_unit
from meld.encoder.vectors import Embedder, Vectors
from meld.retriever.partners import link_facts
from meld.serializer.sentences import Sentences
from meld.stages.unit import Unit
from meld.task.em import MATCH, MISMATCH, EntityMatching
from meld.types import Query, Sample, Table, UnitData

N = 12


def _pair(left: int, right: int) -> Query:
    return Query(
        f"shop.em/{left}-{right}", "shop.em", "em", ({"name": f"item {left}"}, {"name": f"item {right}"}),
        (f"A:{left}", f"B:{right}"),
    )  # fmt: skip


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

    def nobody() -> Embedder:
        raise AssertionError("every text has a vector")

    folders = [tmp_path / name for name in ("data", "index", "annotate")]
    return Unit("shop.em", EntityMatching(), serializer, *folders, nobody)


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
