"""Transforms keep labels out of queries; alignments never hold a text as positive and negative at once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace as changed

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.task.blk import Blocking
from meld.task.corrupt import ErrorChannel, corrupt, learn_channel
from meld.task.dc import DataCleaning
from meld.task.di import Imputation, value_text
from meld.task.ed import ErrorDetection
from meld.task.em import EntityMatching
from meld.types import Query, Sample, Table, UnitData

TASKS = {"em": EntityMatching(), "ed": ErrorDetection(), "dc": DataCleaning(), "di": Imputation()}


def render(entity: Mapping[str, str]) -> str:
    return " | ".join(f"{k}={v}" for k, v in entity.items())


@pytest.fixture(params=sorted(TASKS))
def unit(request: pytest.FixtureRequest) -> UnitData:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("seed", range(5))
def test_transforms_hide_their_labels(unit: UnitData, seed: int) -> None:
    task = TASKS[unit.task]
    made = task.transforms(unit.train, unit, np.random.default_rng(seed))
    assert made or unit.task == "di"
    assert len({s.id for s in made} | {s.id for s in unit.train}) == len(made) + len(unit.train)
    for sample in made:
        query = sample.query
        assert sample.provenance == f"transformed:{unit.task}"
        assert 0 < sample.confidence <= 1
        assert query.target in query.entities[0]
        assert sample.label
        cell = query.entities[0][query.target]
        assert cell != sample.label
        if query.task == "di":
            assert cell == ""
        assert query.id.partition(">")[0] in {s.id for s in unit.train}


def test_transforms_repeat_with_their_seed(unit: UnitData) -> None:
    task = TASKS[unit.task]
    runs = [task.transforms(unit.train, unit, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    if unit.task in {"ed", "dc", "em"}:
        assert runs[0] != runs[2]


def test_transforms_leave_their_input_alone(unit: UnitData) -> None:
    before = [dict(e) for s in unit.train for e in s.query.entities]
    TASKS[unit.task].transforms(unit.train, unit, np.random.default_rng(0))
    assert [dict(e) for s in unit.train for e in s.query.entities] == before


def test_em_gives_imputation_from_matches_alone(em: UnitData) -> None:
    made = EntityMatching().transforms(em.train, em, np.random.default_rng(0))
    matches = {s.id: s for s in em.train if s.label == "match"}
    assert len(made) == len(matches)
    for sample in made:
        source = matches[sample.id.partition(">")[0]].query.entities
        assert sample.label == source[0][sample.query.target]
        assert source[1][sample.query.target]
        assert len(sample.query.entities) == 1


def test_ed_samples_are_made_of_correct_cells_alone(ed: UnitData) -> None:
    made = ErrorDetection(corrupted_per_cell=2).transforms(ed.train, ed, np.random.default_rng(0))
    assert {s.id.partition(">")[0] for s in made} == {s.id for s in ed.train if s.label == "correct"}
    for sample in made:
        clean = next(s for s in ed.train if s.id == sample.id.partition(">")[0]).query.entities[0]["city"]
        assert sample.label == ("error" if sample.query.task == "ed" else clean)


def test_dc_samples_start_from_the_repaired_cell(dc: UnitData) -> None:
    made = DataCleaning().transforms(dc.train, dc, np.random.default_rng(0))
    labels = {s.id: s.label for s in dc.train}
    assert {s.query.task for s in made} == {"ed", "dc"}
    for sample in made:
        assert sample.label == ("error" if sample.query.task == "ed" else labels[sample.id.partition(">")[0]])
        assert sample.query.entities[0][sample.query.target] != labels[sample.id.partition(">")[0]]


def test_alignments_never_contradict_themselves(unit: UnitData) -> None:
    task = TASKS[unit.task]
    groups = task.mining_texts(unit, render)
    made = task.alignments(unit, render, np.random.default_rng(0))
    assert made or unit.task == "ed"
    aligned: dict[str, set[str]] = {}
    for alignment in made:
        assert alignment.positives
        assert not set(alignment.positives) & set(alignment.negatives)
        assert alignment.negatives or alignment.group in groups, "nothing to mine negatives among"
        aligned.setdefault(alignment.anchor, set()).update(alignment.positives)
    for alignment in made:
        minable = set(groups.get(alignment.group, ())) - {alignment.anchor, *alignment.positives, *alignment.excluded}
        assert not aligned[alignment.anchor] & {*minable, *alignment.negatives}


def test_pair_alignments(em: UnitData) -> None:
    # A pair labelled both ways (two records with the same text) must not be a negative.
    twisted = Sample(changed(em.train[0].query, id="d.em/train/x"), "mismatch")
    data = changed(em, train=(*em.train, twisted))
    made = {(a.group, a.anchor): a for a in EntityMatching().alignments(data, render, np.random.default_rng(0))}
    left, right = em.tables["A"].rows, em.tables["B"].rows
    first = made["B", render(left["l0"])]
    assert set(first.positives) == {render(right["r0"]), render(right["r5"])}
    assert set(first.negatives) == {render(right[f"r{i}"]) for i in (1, 2, 3)}
    back = made["A", render(right["r0"])]
    assert back.positives == (render(left["l0"]),)
    assert set(back.negatives) == {render(left[f"l{i}"]) for i in (1, 2, 3)}
    assert ("A", render(right["r4"])) not in made


def test_blocking_partners_are_never_negatives_of_each_other(em: UnitData) -> None:
    def sample(partner: str) -> Sample:
        return Sample(
            Query(f"d.blk/{partner}", "d.blk", "blk", (em.tables["A"].rows["l0"],), ("A:l0",)), f"B:{partner}"
        )

    data = changed(em, unit="d.blk", task="blk", train=(sample("r0"), sample("r5"), sample("gone")))
    made = Blocking().alignments(data, render, np.random.default_rng(0))
    partners = {render(em.tables["B"].rows[r]) for r in ("r0", "r5")}
    assert {p for a in made for p in a.positives} == partners
    for alignment in made:
        assert partners <= {*alignment.positives, *alignment.excluded}
    with pytest.raises(ValueError, match="encoder"):
        Blocking("llm")


def test_cleaning_excludes_every_right_value_of_one_wrong_value(dc: UnitData) -> None:
    made = DataCleaning(corrupted_per_cell=0).alignments(dc, render, np.random.default_rng(0))
    [alignment] = [a for a in made if a.anchor == value_text("city", "yxrk")]
    assert set(alignment.positives) == {value_text("city", "york"), value_text("city", "leeds")}


def test_imputation_aligns_equal_values_whatever_their_case(di: UnitData) -> None:
    lower = di.train[2]
    data = changed(di, train=(*di.train[:2], changed(lower, label=lower.label.upper()), *di.train[3:]))
    made = Imputation(max_positives=1).alignments(data, render, np.random.default_rng(0))
    texts = {render(s.query.entities[0]): s.label.lower() for s in data.train}
    rows = [a for a in made if a.group == "row:city"]
    assert len(rows) == 5
    for a in rows:
        assert len(a.positives) == 1
        assert all(texts[p] == texts[a.anchor] for p in a.positives)
        assert {t for t, label in texts.items() if label == texts[a.anchor]} <= {a.anchor, *a.positives, *a.excluded}


def test_learn_channel() -> None:
    channel = learn_channel([("birmingham", "birminghxm"), ("heart", "heaart"), ("pain", "pan"), ("yes", "42")])
    assert channel == ErrorChannel((("a", "x"),), ("a",), 1, 1)
    assert learn_channel([]) == ErrorChannel()
    assert learn_channel([("value", ""), ("", "value")]) == ErrorChannel(swaps=2)
    # Replacements of another length also insert or lose characters.
    assert learn_channel([("12 oz", "12 ounces z")]).insertions
    assert learn_channel([("abcdefgh", "abXYcdefgh")]) == ErrorChannel(insertions=("X", "Y"))
    assert learn_channel([("abQcdefgh", "abXYcdefgh")]) == ErrorChannel((("Q", "X"),), ("Y",))
    assert learn_channel([("abXYcdefgh", "abQcdefgh")]) == ErrorChannel((("X", "Q"),), (), 1)


@given(
    st.text(max_size=12),
    st.lists(st.text(max_size=5), max_size=4),
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4),
    st.integers(0, 1000),
)
def test_corruption_changes_the_value(value: str, column: list[str], repairs: list[tuple[str, str]], seed: int) -> None:
    channel = learn_channel(repairs)
    dirty = corrupt(value, column, channel, np.random.default_rng(seed))
    assert dirty is None or dirty != value
    assert dirty == corrupt(value, column, channel, np.random.default_rng(seed))


def test_corruption_copies_the_observed_noise() -> None:
    channel = learn_channel([("abcabc", "xbcabc"), ("banana", "bxnxnx")] * 20)
    made = [corrupt("grapefruit", (), channel, np.random.default_rng(seed)) for seed in range(60)]
    assert sum(dirty == "grxpefruit" for dirty in made) > 40


def test_nothing_can_be_made_of_nothing() -> None:
    assert corrupt("", ["", ""], ErrorChannel(), np.random.default_rng(0)) is None
    assert corrupt("", [], ErrorChannel(), np.random.default_rng(0)) is None


def test_every_task_offers_the_protocol() -> None:
    from meld.task.base import Task

    for task in [*TASKS.values(), Blocking()]:
        for name in ("encoder_texts", "alignments", "mining_texts", "transforms", "parse"):
            assert list(inspect.signature(getattr(Task, name)).parameters)[1:] == list(
                inspect.signature(getattr(task, name)).parameters
            )


def test_encoder_texts_know_the_cell(dc: UnitData, table: Table) -> None:
    query = dc.train[0].query
    assert DataCleaning().encoder_texts(query, render) == (render(query.entities[0]), "city: yxrk")
