"""The synthetic sets: sizes, determinism, the dependencies and the noise they promise."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.dataset import noise
from meld.dataset.base import Dataset, Source
from meld.dataset.few_shot import derive_rng, few_shot_ids
from meld.dataset.io import digest_unit
from meld.dataset.quickstart import QuickstartHospitals, QuickstartPeople, QuickstartProducts
from meld.dataset.quickstart_tables import make_dirty, make_hospitals, make_person
from meld.errors import ConfigError
from meld.text import codes, normalise

SETS: list[Callable[..., Any]] = [QuickstartProducts, QuickstartPeople, QuickstartHospitals]


@pytest.mark.parametrize("build", SETS)
@pytest.mark.parametrize("seed", [0, 7])
def test_sound_and_a_function_of_the_seed(
    check_sound: Callable[[Source], None], build: Callable[..., Any], seed: int
) -> None:
    component = build(data_seed=seed)
    assert isinstance(component, Dataset)
    assert component.synthetic
    assert component.files() == ()
    source: Source = component.load()
    check_sound(source)
    again, other = build(data_seed=seed).load(), build(data_seed=seed + 1).load()
    assert again == source
    for unit in source.units:
        assert digest_unit(source.units[unit]) != digest_unit(other.units[unit])


GOLDEN = {
    "quickstart_products.em": "1672eb5deb1c",
    "quickstart_products.blk": "ad2caa83a324",
    "quickstart_people.di": "2a2c6e256c36",
    "quickstart_hospitals.ed": "210094d08174",
    "quickstart_hospitals.dc": "5e4d625e00f2",
}


def test_golden_digests() -> None:
    # A change here means that every artifact of the quickstart suite changes.
    found = {unit: digest_unit(data)[:12] for build in SETS for unit, data in build().load().units.items()}
    assert found == GOLDEN


@pytest.mark.parametrize("build", SETS)
def test_frozen_ids_give_the_same_sample(build: Callable[..., Any], tmp_path: Path) -> None:
    drawn = build().load()
    data = next(iter(drawn.units.values()))
    path = tmp_path / "ids.csv"
    ids = few_shot_ids((*data.train, *data.dev))
    if data.task == "em":
        path.write_text("ltable_id,rtable_id\n" + "".join(f"{identifier.replace('-', ',')}\n" for identifier in ids))
    else:
        path.write_text("row\n" + "".join(f"{identifier}\n" for identifier in ids))
    frozen = build(few_shot="ids", few_shot_ids=str(path))
    assert frozen.files() == (path,)
    assert frozen.load().units == drawn.units


class TestProducts:
    def test_sizes(self) -> None:
        source = QuickstartProducts().load()
        em, blk = source.units["quickstart_products.em"], source.units["quickstart_products.blk"]
        assert (len(em.train), len(em.dev), len(em.pool), len(em.test)) == (64, 16, 100, 120)
        assert [len(table.rows) for table in em.tables.values()] == [120, 120]
        gold = source.gold["quickstart_products.em"]
        assert sum(gold[query.id] == ("match",) for query in em.test) == round(0.25 * 120)
        assert sum(gold[query.id] == ("match",) for query in em.pool) == 45 - 40
        assert (len(blk.train), len(blk.dev)) == (32, 8)
        assert all(len(answers) == 1 for answers in source.gold["quickstart_products.blk"].values())

    def test_matches_share_the_model_number_and_mismatches_do_not(self) -> None:
        source = QuickstartProducts(noise=0.0).load()
        data, gold = source.units["quickstart_products.em"], source.gold["quickstart_products.em"]
        for query in (*data.pool, *data.test):
            left, right = (codes(entity["title"]) for entity in query.entities)
            assert bool(left & right) == (gold[query.id] == ("match",))

    def test_mismatches_are_near(self) -> None:
        source = QuickstartProducts(noise=0.0).load()
        data, gold = source.units["quickstart_products.em"], source.gold["quickstart_products.em"]
        pairs = [query.entities for query in data.test if gold[query.id] == ("mismatch",)]
        same = sum(left["title"].lower().split()[:2] == right["title"].lower().split()[:2] for left, right in pairs)
        assert same / len(pairs) > 0.4

    def test_noise_grows(self) -> None:
        def lost(strength: float) -> int:
            table = QuickstartProducts(noise=strength).load().units["quickstart_products.em"].tables["B"]
            return sum(value == "" for row in table.rows.values() for value in row.values())

        assert lost(0.0) == 0 < lost(1.0) < lost(3.0)

    def test_impossible_sizes_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="n_rows"):
            QuickstartProducts(n_rows=50)


class TestPeople:
    def test_sizes(self) -> None:
        data = QuickstartPeople().load().units["quickstart_people.di"]
        assert len(data.tables["T"].rows) == 130
        assert (len(data.train), len(data.dev), len(data.pool)) == (80, 20, 60)
        assert len({query.rows for query in data.test}) == 50 <= len(data.test) <= 100
        only = QuickstartPeople(targets=["city"]).load().units["quickstart_people.di"]
        assert {query.target for query in only.test} == {"city"}

    def test_dependencies_hold(self) -> None:
        people = [make_person(2.0, random.Random(seed)) for seed in range(400)]
        for source, target in (("zip", "city"), ("city", "state"), ("zip", "state")):
            assert _functional([row for row in people if row[source]], source, target)
        for row in people:
            row["area"] = "".join(letter for letter in row["phone"] if letter.isdigit())[:3]
        assert _functional([row for row in people if row["area"]], "area", "state")
        assert all(row["zip"] or row["phone"] for row in people)
        assert any(row["zip"].startswith("0") for row in people)

    def test_unknown_target(self) -> None:
        with pytest.raises(ConfigError, match="city"):
            QuickstartPeople(targets=["zip"])


class TestHospitals:
    def test_sizes_and_errors(self) -> None:
        source = QuickstartHospitals().load()
        data = source.units["quickstart_hospitals.ed"]
        assert len(data.tables["T"].columns) == 7
        assert len(data.train) + len(data.dev) == 14 * 7
        assert len(data.test) == 86 * 7
        errors = sum(sample.label == "error" for sample in (*data.train, *data.dev))
        errors += sum(answers == ("error",) for answers in source.gold[data.unit].values())
        assert errors == round(0.06 * 100 * 7)

    def test_dependencies_hold_when_clean(self) -> None:
        clean = make_hospitals(150, derive_rng(0, "test", "x"))
        assert len(clean) == 150
        for source, target in (
            ("provider", "name"),
            ("provider", "phone"),
            ("city", "county"),
            ("measure_code", "measure"),
        ):
            assert _functional(clean, source, target)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 1000), st.floats(0, 1))
    def test_exactly_the_promised_cells_are_wrong(self, seed: int, rate: float) -> None:
        rng = random.Random(seed)
        clean = make_hospitals(12, rng)
        dirty = make_dirty(clean, rate, rng)
        wrong = sum(
            normalise(one[key]) != normalise(two[key]) for one, two in zip(dirty, clean, strict=True) for key in one
        )
        assert wrong == round(rate * 12 * 7)


class TestNoise:
    @given(
        st.text(st.characters(codec="ascii", categories=["L", "N", "Pd", "Zs"]), min_size=1, max_size=12),
        st.integers(0, 99),
    )
    def test_a_typo_always_shows(self, text: str, seed: int) -> None:
        if normalise(text):
            assert normalise(noise.typo(text, random.Random(seed))) != normalise(text)
            assert normalise(noise.reformat(text, random.Random(seed))) != normalise(text)

    def test_each_kind(self) -> None:
        rng = random.Random(0)
        assert noise.typo("", rng) == ""
        assert noise.abbreviate(["wireless", "mouse"], {"wireless": "wl"}, 1.0, rng) == ["wl", "mouse"]
        assert noise.drop_words(["a", "b"], 1.0, rng) == ["a"]
        assert sorted(noise.rotate(["a", "b", "c"], rng)) == ["a", "b", "c"]
        assert all(
            codes(noise.recode("NX-4210B", random.Random(seed)).replace(" ", "")) == {"nx4210b"} for seed in range(20)
        )
        written = {noise.reprice("129.00", random.Random(seed)) for seed in range(40)}
        assert written == {"$129.00", "129,00", "129", "USD 129.00"}


def _functional(rows: list[dict[str, str]] | list[Mapping[str, str]], source: str, target: str) -> bool:
    found = defaultdict(set)
    for row in rows:
        found[row[source]].add(row[target])
    return all(len(values) == 1 for values in found.values())
