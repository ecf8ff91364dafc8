"""Whole selectors: budgets, terms, ablations, baselines and their configuration."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from meld.errors import ConfigError, DataError
from meld.selector.base import Features, budget
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.dsir import Dsir, dsir_scores, hashed_ngrams, resample
from meld.selector.influence.base import complexity
from meld.selector.influence.batch import BatchInfluence
from meld.selector.influence.none import NoInfluence
from meld.selector.meld_ds import MeldDS
from meld.selector.none import NoSelector
from meld.selector.optimizer.incremental import Incremental
from meld.selector.quality.none import NoQuality
from meld.selector.quality.perplexity_ratio import PerplexityRatio, ratio_scores
from meld.selector.random import RandomSelector

CONF = Path(__file__).resolve().parents[2] / "conf"


def features(n: int = 30, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(n, 6)).astype(np.float32), rng.random(n), rng.random(n))


def meld_ds(**changes) -> MeldDS:
    parts = {
        "diversity": GraphCut(),
        "quality": PerplexityRatio(),
        "influence": BatchInfluence(),
        "optimizer": Incremental(),
        "c": 0.3,
    }
    return MeldDS(**{**parts, **changes})


def test_initial_is_eq_7_and_pick_is_eq_9() -> None:
    """Both against a greedy written out with the printed terms."""
    pool = features()
    influence = np.random.default_rng(1).normal(size=30)
    x = pool.embeddings.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    w = (1 + x @ x.T) / 2
    quality, complex_ = ratio_scores(pool.loss_cond, pool.loss_prior), complexity(influence)
    factors = [1 / (2 * w.sum(axis=0) - np.diag(w)).std(), 1 / quality.std(), 1 / complex_.std()]

    def greedy(n_select: int, use_complexity: bool) -> list[int]:
        chosen: list[int] = []
        for _ in range(n_select):
            best, best_value = -1, -np.inf
            for a in range(30):
                if a in chosen:
                    continue
                s = [*chosen, a]
                value = factors[0] * (2 * w[:, s].sum() - w[np.ix_(s, s)].sum()) + factors[1] * quality[s].sum()
                value += factors[2] * complex_[s].sum() if use_complexity else 0.0
                if value > best_value:
                    best, best_value = a, value
            chosen.append(best)
        return chosen

    selector = meld_ds()
    initial = selector.initial(pool)
    assert initial.indices.tolist() == greedy(9, False)
    assert set(initial.terms) == {"diversity", "quality", "gain"}
    final = selector.pick(pool, influence, 9, 0)
    assert final.indices.tolist() == greedy(9, True)
    assert final.indices.tolist() != initial.indices.tolist()
    np.testing.assert_allclose(final.terms["complexity"], complex_[final.indices])
    np.testing.assert_allclose(final.terms["quality"], quality[final.indices])
    assert final.factors == pytest.approx(dict(zip(("diversity", "quality", "complexity"), factors, strict=True)))
    total = sum(final.factors[name] * final.terms[name] for name in final.factors)
    np.testing.assert_allclose(final.terms["gain"], total)


def test_initial_does_not_depend_on_c_and_a_larger_c_extends_the_pick() -> None:
    pool, influence = features(), np.random.default_rng(1).normal(size=30)
    small, large = meld_ds(c=0.1), meld_ds(c=0.5)
    assert small.initial(pool).indices.tolist() == large.initial(pool).indices.tolist()
    few = small.pick(pool, influence, small.size(30), 0).indices.tolist()
    many = large.pick(pool, influence, large.size(30), 0).indices.tolist()
    assert (len(few), len(many)) == (3, 15)
    assert many[:3] == few


@pytest.mark.parametrize(
    ("terms", "losses", "influence"),
    [
        (["diversity"], False, False),
        (["quality"], True, False),
        (["diversity", "quality"], True, False),
        (["diversity", "quality", "complexity"], True, True),
        (["complexity"], True, True),  # its S'_init still is Eq. 7
    ],
)
def test_ablations_need_only_what_they_use(terms: list[str], losses: bool, influence: bool) -> None:
    selector = meld_ds(terms=terms)
    assert selector.needs_losses is losses
    assert selector.needs_influence is influence
    pool = features()
    if not losses:
        pool = Features(pool.embeddings, np.full(30, np.nan), np.full(30, np.nan))
    scores = np.random.default_rng(1).normal(size=30) if influence else None
    selection = selector.pick(pool, scores, 9, 0)
    assert set(selection.terms) == {*terms, "gain"}
    assert len(set(selection.indices.tolist())) == 9


def test_single_terms_rank_by_themselves() -> None:
    pool, influence = features(), np.random.default_rng(1).normal(size=30)
    best = meld_ds(terms=["complexity"]).pick(pool, influence, 5, 0)
    assert best.indices.tolist() == np.argsort(influence)[:5].tolist()  # most negative influence first
    quality = ratio_scores(pool.loss_cond, pool.loss_prior)
    assert meld_ds(terms=["quality"]).pick(pool, None, 5, 0).indices.tolist() == np.argsort(-quality)[:5].tolist()


def test_without_influence_component_there_is_no_complexity_term() -> None:
    selector = meld_ds(influence=NoInfluence(), quality=NoQuality())
    assert not selector.needs_influence
    assert not selector.needs_losses
    assert "complexity" not in selector.pick(features(), None, 9, 0).terms


def test_identical_embeddings_leave_the_choice_to_quality() -> None:
    rng = np.random.default_rng(0)
    loss = rng.random(20)
    pool = Features(np.ones((20, 7), np.float32), loss, np.ones(20))
    assert meld_ds().initial(pool, 4).indices.tolist() == np.argsort(-loss)[:4].tolist()


def test_meld_ds_says_what_is_wrong() -> None:
    pool = features()
    with pytest.raises(DataError, match=r"for each of the 30 items; there are none"):
        meld_ds().pick(pool, None, 9, 0)
    with pytest.raises(DataError, match=r"there are 29"):
        meld_ds().pick(pool, np.zeros(29), 9, 0)
    with pytest.raises(DataError, match="influence of 1 of 30"):
        meld_ds().pick(pool, np.where(np.arange(30) == 3, np.nan, 0.0), 9, 0)
    with pytest.raises(DataError, match="Cannot select 31 of 30"):
        meld_ds().initial(pool, 31)
    with pytest.raises(DataError, match="pool of augmented data is empty"):
        meld_ds().initial(Features.unmeasured(0))
    with pytest.raises(DataError, match="losses of 30 of 30"):
        meld_ds().initial(Features(pool.embeddings, np.full(30, np.nan), pool.loss_prior))
    with pytest.raises(DataError, match="do not belong together"):
        Features(pool.embeddings, np.zeros(29), np.zeros(30))
    for c in (0.0, 1.1, -0.3, float("nan")):
        with pytest.raises(ConfigError, match="selection ratio c"):
            meld_ds(c=c)
    with pytest.raises(ConfigError, match="init_ratio"):
        meld_ds(init_ratio=0.0)
    for terms in ([], ["diversity", "influence"], ["quality", "quality"]):
        with pytest.raises(ConfigError, match="terms"):
            meld_ds(terms=terms)
    with pytest.raises(ConfigError, match="weights for"):
        meld_ds(weights={"speed": 1.0})
    with pytest.raises(ConfigError, match="at least 0"):
        meld_ds(weights={"quality": -1.0})
    with pytest.raises(ConfigError, match="normalisation"):
        meld_ds(normalize="max")


def test_budget_is_at_least_one_and_at_most_the_pool() -> None:
    assert [budget(0.3, n) for n in (1, 2, 10, 1500)] == [1, 1, 3, 450]
    assert budget(1.0, 7) == 7
    with pytest.raises(DataError, match="empty"):
        budget(0.3, 0)


def test_none_keeps_everything() -> None:
    assert NoSelector().size(5) == 5
    assert NoSelector().pick(Features.unmeasured(5), None, 2, 0).indices.tolist() == [0, 1, 2, 3, 4]


def test_random_is_seeded_uniform_and_nested() -> None:
    selector = RandomSelector(0.3)
    pool = Features.unmeasured(20)
    first = selector.pick(pool, None, 6, 0).indices.tolist()
    assert first == selector.pick(pool, None, 6, 0).indices.tolist()
    assert first == selector.pick(pool, None, 12, 0).indices.tolist()[:6]
    assert first != selector.pick(pool, None, 6, 1).indices.tolist()
    counts = np.zeros(20)
    for seed in range(400):
        counts[selector.pick(pool, None, 6, seed).indices] += 1
    assert counts.min() > 80  # 120 expected
    assert counts.max() < 160
    with pytest.raises(DataError, match="Cannot select 21"):
        selector.pick(pool, None, 21, 0)


POOL = ["red shoe leather", "red shoe canvas", "quarterly revenue report", "annual revenue report", "shoe", "", "!!"]
TARGET = ["leather shoe red", "red shoe"]


def test_dsir_scores_equal_the_formula() -> None:
    """With more buckets than n-grams by far, and so no collisions, against plain dictionaries."""
    buckets, smoothing = 1_000_003, 0.01

    def grams(text: str) -> list[str]:
        tokens = text.replace("!", "").split()
        return tokens + [f"{a} {b}" for a, b in itertools.pairwise(tokens)]

    def log_p(gram: str, texts: list[str]) -> float:
        every = [g for text in texts for g in grams(text)]
        return float(np.log((1 - smoothing) * every.count(gram) / len(every) + smoothing / buckets))

    expected = [sum(log_p(g, TARGET) - log_p(g, POOL) for g in grams(text)) for text in POOL]
    np.testing.assert_allclose(dsir_scores(POOL, TARGET, buckets=buckets, smoothing=smoothing), expected, atol=1e-9)


def test_dsir_prefers_the_target_domain_and_keeps_short_texts() -> None:
    scores = dsir_scores(POOL, TARGET)
    assert scores[0] > scores[1]
    assert min(scores[[0, 1, 4]]) > max(scores[[2, 3]])
    assert scores[5] == scores[6] == 0.0
    repeated = dsir_scores(TARGET * 9, TARGET)
    np.testing.assert_allclose(repeated, 0.0, atol=1e-9)  # as the target, whatever the sizes
    selection = Dsir(0.3).pick(Features.unmeasured(7, POOL, TARGET), None, 7, 0)
    assert sorted(selection.indices.tolist()) == list(range(7))  # nothing is dropped


def test_hash_is_the_same_in_every_process() -> None:
    assert hashed_ngrams("Red shoe", 10_000).tolist() == [5455, 8857, 8843]


def test_resampling_is_proportional_to_the_weights() -> None:
    scores = np.log(np.array([1.0, 2.0, 7.0]))
    first = np.array([resample(scores, 1, seed)[0] for seed in range(3000)])
    np.testing.assert_allclose(np.bincount(first, minlength=3) / 3000, [0.1, 0.2, 0.7], atol=0.03)
    assert resample(scores, 3, 5).tolist() == resample(scores, 3, 5).tolist()


def test_dsir_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="no words"):
        dsir_scores(POOL, [])
    with pytest.raises(DataError, match="no words"):
        dsir_scores(POOL, ["?!"])
    with pytest.raises(DataError, match="empty"):
        dsir_scores([], TARGET)
    with pytest.raises(ConfigError, match="smoothing"):
        dsir_scores(POOL, TARGET, smoothing=0.0)
    with pytest.raises(DataError, match="needs the texts"):
        Dsir(0.3).pick(Features.unmeasured(3), None, 1, 0)


ROOT = """
defaults:
  - selector: meld_ds
  - _self_
c: 0.25
B: 4
lambda1: 3.0
lambda2: 1.5
damping: 0.5
limits: {warm_up: 9}
expert: {lr: 0.001, batch_size: 4}
"""


def build(tmp_path: Path, *overrides: str):
    (tmp_path / "root.yaml").write_text(ROOT)
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"):
        return instantiate(
            compose("root", overrides=[f"hydra.searchpath=[file://{CONF}]", *overrides]).selector, _convert_="all"
        )


def test_the_default_options_build_with_the_root_values(tmp_path: Path) -> None:
    selector = build(tmp_path)
    assert isinstance(selector, MeldDS)
    assert (selector.c, selector.influence.B, selector.influence.damping) == (0.25, 4, 0.5)
    assert (selector.diversity.lambda1, selector.diversity.lambda2) == (3.0, 1.5)
    assert selector.terms == ("diversity", "quality", "complexity")


OPTIONS = sorted(f"selector/{path.parent.name}={path.stem}" for path in (CONF / "selector").glob("*/*.yaml")) + [
    f"selector={path.stem}" for path in sorted((CONF / "selector").glob("*.yaml"))
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds_and_starts_with_what_it_is(tmp_path: Path, option: str) -> None:
    selector = build(tmp_path, option)
    group, name = option.split("=")
    path = CONF / group / f"{name}.yaml"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    module = f"meld.{group.replace('/', '.')}.{name}."
    assert any(line.startswith(f"_target_: {module}") for line in lines)
    assert selector.size(10) in (2, 10)
    built = selector if group == "selector" else getattr(selector, group.split("/")[1])
    assert type(built).__module__ == module[:-1]
