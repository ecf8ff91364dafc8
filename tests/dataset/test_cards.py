"""Cards of published datasets: one each, complete, and true of the files where these are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from meld.dataset.card import NOT_CONFIRMED, Card, card_names, load_card
from meld.evaluate.metrics import TASKS

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
PUBLISHED = [name for name in OPTIONS if not name.startswith(("quickstart", "csv_"))]
PAPERS = {
    "abt_buy", "amazon_google", "walmart_amazon", "wdc_all", "semi_text_watch", "semi_text_computer", "hospital",
    "rayyan", "beers", "semtab19", "webtables", "wikigs_re", "wikigs_el", "cms", "synthea", "walmart", "amazon",
    "restaurant", "oa_mine",
}  # fmt: skip
"""The papers' 19 datasets."""


def card_of(name: str) -> Card:
    card = load_card(name)
    assert card is not None
    return card


def test_every_published_dataset_has_a_card_and_nothing_else_has() -> None:
    assert list(card_names()) == PUBLISHED
    assert load_card("quickstart_people") is None
    assert len(PAPERS) == 19
    assert set(PUBLISHED) >= PAPERS


@pytest.mark.parametrize("name", PUBLISHED)
def test_cards_are_complete(name: str) -> None:
    card, node = card_of(name), OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    assert card.publisher == node.publisher
    assert card.licence
    assert (card.few_shot is not None) == (card.instances is not None) == bool(card.published) == (name in PAPERS)
    if name in PAPERS:
        assert 0 < (card.few_shot or 0) <= (card.instances or 0)
        # Some papers' numbers are about a task that this option's files do not serve alone: no task may be missing.
        assert {entry.task for entry in card.published} == set(node.tasks)
    for entry in card.published:
        assert entry.task in TASKS
        assert entry.metric in {"f1", "recall@1", "accuracy", "micro_f1", "macro_f1"}
        assert entry.source.startswith("MELD")
        assert all(isinstance(value, float) and 0 <= value <= 100 for value in entry.scores.values())
    assert all(len(digest) == 64 for digest in card.sha256.values())


def test_known_numbers() -> None:
    """Read off the papers' tables by hand."""
    by_source = {(e.task, e.metric, e.source.rpartition(" ")[2]): e.scores for e in card_of("abt_buy").published}
    assert by_source["em", "f1", "1"]["meld"] == by_source["em", "f1", "I"]["meld"] == 91.12
    assert by_source["blk", "recall@1", "I"] == {"meld": 86.2, "non_llm": 40.66}
    assert by_source["em", "f1", "II"] == {"meld_ds": 89.57}
    relations = {
        (e.metric, e.source.rpartition(" ")[2]): e.scores["meld"]
        for e in card_of("wikigs_re").published
        if "meld" in e.scores
    }
    assert relations == {("micro_f1", "1"): 89.3, ("micro_f1", "I"): 77.19, ("macro_f1", "I"): 60.89}
    assert card_of("cms").few_shot == 20505
    assert card_of("turl_re").licence == NOT_CONFIRMED


def test_other_files_are_noticed(tmp_path: Path) -> None:
    card = card_of("hospital")
    first, second = list(card.sha256)[:2]
    assert card.other_files(tmp_path) == card.other_files(None) == ()
    (tmp_path / first).parent.mkdir(parents=True)
    (tmp_path / first).write_text("something else")
    assert card.other_files(tmp_path) == (first,)
    assert second not in card.other_files(tmp_path)


@pytest.mark.data
def test_the_files_at_hand_are_those_of_the_cards(data_root: Path) -> None:
    assert {name: card_of(name).other_files(data_root) for name in PUBLISHED} == dict.fromkeys(PUBLISHED, ())
