"""The synthetic sets for column types, relations, entities, schemas and listings: deterministic, sound, answerable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meld.dataset.base import Dataset
from meld.dataset.few_shot import derive_rng, few_shot_ids
from meld.dataset.io import digest_unit
from meld.dataset.quickstart_atlas import RELATIONS, TYPES, make_tables, make_towns
from meld.dataset.quickstart_more import QuickstartAtlas, QuickstartListings, QuickstartSchemas
from meld.errors import ConfigError
from meld.retriever.spans import spans
from meld.task.ave import ABSENT

SETS = (QuickstartAtlas, QuickstartSchemas, QuickstartListings)


@pytest.mark.parametrize("build", SETS)
def test_seeded_and_said_to_be_synthetic(build: Callable[..., Any]) -> None:
    assert isinstance(build(), Dataset)
    assert build.synthetic
    one, same, other = (build(data_seed=seed).load() for seed in (0, 0, 1))
    assert "synthetic" in one.notes[0]
    for unit, data in one.units.items():
        assert digest_unit(data) == digest_unit(same.units[unit]) != digest_unit(other.units[unit])
        assert data.train
        assert data.dev
        assert data.test
        ids = [q.id for q in (*(s.query for s in (*data.train, *data.dev)), *data.pool, *data.test)]
        assert len(ids) == len(set(ids))
        hidden = {q.id for q in (*data.pool, *data.test)}
        assert set(one.gold[unit]) == hidden


def test_atlas_domains() -> None:
    source = QuickstartAtlas().load()
    cta, re, el = (source.units[f"quickstart_atlas.{task}"] for task in ("cta", "re", "el"))
    assert cta.options == TYPES
    assert re.options == RELATIONS
    for unit in (cta, re):
        assert {answer for answers in source.gold[unit.unit].values() for answer in answers} <= set(unit.options)
    for query in (*el.pool, *el.test):
        assert len(query.options) == len(set(query.options)) == 8
        assert set(source.gold[el.unit][query.id]) <= set(query.options)
    # A table is either for learning or for testing.
    parts = [{q.id.split("/")[2] for q in part} for part in ((*(s.query for s in cta.train), *cta.pool), cta.test)]
    assert not parts[0] & parts[1]


def test_namesakes_must_be_told_apart_by_the_row() -> None:
    towns = make_towns(derive_rng(0, "test", "x"))
    assert len({t.name for t in towns}) < len(towns)
    assert len({t.entity for t in towns}) == len(towns)


def test_noise_hides_headers_and_blurs_cells() -> None:
    rng = derive_rng(0, "test", "x")
    towns = make_towns(rng)
    clean = make_tables(20, 0.0, towns, rng)
    assert all(header for table in clean for header in table.headers.values())
    assert all(value for table in clean for row in table.rows for value in row.values())
    noisy = make_tables(20, 2.0, towns, rng)
    assert not all(header for table in noisy for header in table.headers.values())


def test_schema_pairs() -> None:
    source = QuickstartSchemas().load()
    data = source.units["quickstart_schemas.sm"]
    assert (len(data.train), len(data.dev), len(data.pool), len(data.test)) == (48, 12, 60, 100)
    gold = source.gold[data.unit]
    assert sum(gold[q.id] == ("match",) for q in data.test) == 30
    assert len({q.rows for q in (*data.pool, *data.test)}) == 160
    with pytest.raises(ConfigError, match="80 matches"):
        QuickstartSchemas(n_train=400)


def test_listings_hold_what_they_are_asked_for() -> None:
    source = QuickstartListings().load()
    data = source.units["quickstart_listings.ave"]
    absent = 0
    for query in (*data.pool, *data.test):
        (answer,) = source.gold[data.unit][query.id]
        title = query.entities[0]["title"]
        if answer == ABSENT:
            absent += 1
        else:
            words = f" {title} "
            assert f" {answer} " in words or set(answer.split()) <= set(title.split())
            if f" {answer} " in words:
                assert answer in spans(title)
    assert absent > 20
    frozen = few_shot_ids((*data.train, *data.dev))
    assert len(frozen) == len(set(frozen)) == len(data.train) + len(data.dev)
