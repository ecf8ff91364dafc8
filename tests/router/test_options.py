"""Every router through its whole life: fitted, opened, asked, one more expert registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from meld.config.build import build
from meld.config.compose import load_config, plain
from meld.config.presets import shipped
from meld.errors import ConfigError, UserError
from meld.progress import Silent
from meld.router.arrow import ArrowRouter
from meld.router.base import RoutedQuery, Router, routed_query
from meld.trainer.fit import LightningTrainer

EXPERTS = ("shop.em", "trip.di")
OPTIONS = ("contrastive", "classifier", "own", "uniform", "arrow")
LEARNED = ("contrastive", "classifier")
SHOP = ["red leather shoes", "blue cotton shirt", "green wool scarf", "black suede boots"]
TRIP = ["Paris by night train", "two weeks in Lisbon", "ferry to the islands", "Berlin museum tour"]


def test_every_option_is_here() -> None:
    assert {path.stem for path in (shipped("conf") / "router").glob("*.yaml")} == set(OPTIONS)


def router(option: str, *overrides: str) -> Router:
    engine = ["engine=hf"] if option == "arrow" else []
    made: Router = build(plain(load_config([f"router={option}", *engine, *overrides]))["router"])
    return made


def answered(*right_for: tuple[bool, ...]) -> list[RoutedQuery]:
    """Shop queries answered as the first tuple says (one flag per expert), trips as the second."""
    made = []
    for unit, texts, right in zip(EXPERTS, (SHOP, TRIP), right_for, strict=True):
        probabilities = np.array([[0.9, 0.1] if flag else [0.2, 0.8] for flag in right])
        made += [routed_query(unit, text, probabilities, np.log(probabilities[:, 0])) for text in texts]
    return made


def fitted(option: str, folder: Path, queries: list[RoutedQuery], *overrides: str) -> Router:
    made = router(option, *overrides)
    (folder / "router").mkdir(parents=True)
    made.fit(EXPERTS, queries, folder / "none", folder / "router", folder / "work", LightningTrainer(), 0, Silent())
    return made


@pytest.mark.parametrize("option", OPTIONS)
def test_options_declare_what_they_need(option: str) -> None:
    made = router(option)
    assert made.needs_answers == (option in LEARNED)
    assert made.token_wise == (option == "arrow")
    arguments = yaml.safe_load((shipped("conf") / "router" / f"{option}.yaml").read_text())
    if option in LEARNED:
        assert arguments["queries_per_unit"] == "${limits.router_queries}"


@pytest.mark.parametrize("option", ["own", "uniform"])
def test_rules_spread_over_registered_experts_too(option: str, tmp_path: Path) -> None:
    made = fitted(option, tmp_path, [])
    assert made.register(tmp_path, EXPERTS, [], tmp_path, Silent()) == {}
    weights = made.open(tmp_path, EXPERTS, [tmp_path]).weights(["trip.di", "new.ave"], ["x", "y"], Silent())
    own = [[0, 1, 0], [1 / 3] * 3]
    np.testing.assert_allclose(weights, own if option == "own" else [[1 / 3] * 3] * 2)


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("contrastive", []),
        ("classifier", ["router.loss=cross_entropy"]),
        ("classifier", ["router.loss=multi_label"]),
    ],
)
def test_learned_routers_find_the_right_expert_and_take_in_another(
    option: str, more: list[str], tmp_path: Path
) -> None:
    queries = answered((True, False), (False, True))
    folder = tmp_path / "fit"
    (folder / "router").mkdir(parents=True)
    made = router(option, "router.epochs=12", "router.batch_size=8", *more)
    encoder = Path("embedded:minilm")
    made.fit(EXPERTS, queries, encoder, folder / "router", folder / "work", LightningTrainer(), 0, Silent())
    texts = ["brown leather belt", "a weekend in Madrid"]
    before = made.open(folder / "router", EXPERTS).weights(["?", "?"], texts, Silent())
    np.testing.assert_allclose(before.sum(axis=1), 1, atol=1e-6)
    assert before.argmax(axis=1).tolist() == [0, 1]

    frozen = {path: path.read_bytes() for path in sorted((folder / "router").rglob("*")) if path.is_file()}
    # The new expert alone answers trips right; nobody answers shop queries any better than before.
    row = tmp_path / "row"
    row.mkdir()
    numbers = made.register(
        folder / "router", EXPERTS, answered((True, False, False), (False, False, True)), row, Silent()
    )
    assert numbers["right"] == len(TRIP)
    assert numbers["loss_after"] < numbers["loss_before"]
    assert {path: path.read_bytes() for path in frozen} == frozen
    after = made.open(folder / "router", EXPERTS, [row]).weights(["?", "?"], texts, Silent())
    assert after.shape == (2, 3)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-6)
    assert after.argmax(axis=1).tolist() == [0, 2]
    # Between the experts that were there before, nothing has moved.
    np.testing.assert_allclose(after[:, 0] / after[:, 1], before[:, 0] / before[:, 1], rtol=1e-4)


@pytest.mark.parametrize("option", LEARNED)
def test_without_a_labelled_query_experts_weigh_alike(option: str, tmp_path: Path) -> None:
    """A table of two rows leaves no query to learn from; what comes out has to be numbers all the same."""
    made = router(option)
    (tmp_path / "router").mkdir()
    encoder = Path("embedded:minilm")
    numbers = made.fit(EXPERTS, [], encoder, tmp_path / "router", tmp_path / "work", LightningTrainer(), 0, Silent())
    assert numbers == {"queries": 0}
    weights = made.open(tmp_path / "router", EXPERTS).weights(EXPERTS, ["x", "y"], Silent())
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    if option == "contrastive":
        np.testing.assert_allclose(weights, 0.5, atol=1e-6)


def test_arrow_has_no_weights_and_refuses_senseless_numbers(tmp_path: Path) -> None:
    arrow = router("arrow", "k=2")
    assert isinstance(arrow, ArrowRouter)
    assert arrow.top_k == 2
    assert arrow.fit(EXPERTS, [], tmp_path, tmp_path, tmp_path, LightningTrainer(), 0, Silent()) == {}
    assert arrow.register(tmp_path, EXPERTS, [], tmp_path, Silent()) == {}
    with pytest.raises(UserError, match="no weights per query"):
        arrow.open(tmp_path, EXPERTS)
    with pytest.raises(ConfigError, match="at least 1"):
        ArrowRouter(0)
    with pytest.raises(ConfigError, match="above 0"):
        ArrowRouter(1, temperature=0)
