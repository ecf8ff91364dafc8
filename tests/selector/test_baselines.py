"""The published baselines against their formulas, written out."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from meld.backbone.language_model import Encoded
from meld.backbone.lora import lora_parameters, with_lora
from meld.errors import ConfigError, DataError, UserError
from meld.selector.base import Features, Material, MeasuringSelector, ScoringSelector
from meld.selector.costs import Meter
from meld.selector.datainf import DataInf
from meld.selector.dsir import Dsir
from meld.selector.less import Less, RademacherProjection, adam_directions
from meld.selector.qurating import QuRating
from meld.selector.superfilter import SuperFilter
from meld.selector.warmup import BETAS, EPSILON, Checkpoint, epochs_of_adam, warm_up_items

from .conftest import make_items, make_tiny_lm, plain_gradient, plain_loss

TARGETS = ["q_proj", "v_proj"]


def material(pool, validation, texts=(), seed: int = 0) -> Material:
    lm = make_tiny_lm()

    @contextmanager
    def refuse(positions, most):
        raise AssertionError("this baseline warms its adapter up itself")
        yield

    return Material(
        features=Features.unmeasured(len(pool)),
        pool=pool,
        validation=validation,
        dev=(),
        texts=lambda: texts,
        attach=lambda: with_lora(lm, TARGETS, 2, 4, 0.0, 3),
        warm_up=refuse,
        seed=seed,
        meter=Meter(),
    )


# -- SuperFilter -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_superfilter_is_the_ratio_of_the_two_perplexities() -> None:
    lm, pool = make_tiny_lm(), make_items(20, seed=3)
    selector = SuperFilter(0.3, max_tokens=50, max_rows=4)
    assert isinstance(selector, MeasuringSelector)
    cond, prior = selector.measure(lm, pool, pool)
    ifd = []
    for item in pool:
        alone = Encoded((lm.tokenizer.bos_token_id,), item.options[:1])
        ifd.append(math.exp(float(plain_loss(lm, item))) / math.exp(float(plain_loss(lm, alone))))
    np.testing.assert_allclose(np.exp(cond - prior), ifd, rtol=1e-4)
    below = sorted((i for i in range(20) if ifd[i] < 1), key=lambda i: -ifd[i])
    assert 2 < len(below) < 18  # both kinds are there
    features = Features(np.zeros((20, 0), np.float32), cond, prior)
    few = selector.pick(features, None, 2, 0)
    assert few.indices.tolist() == below[:2]
    every = selector.pick(features, None, 20, 0).indices.tolist()
    above = sorted((i for i in range(20) if ifd[i] >= 1), key=lambda i: ifd[i])
    assert every == below + above
    np.testing.assert_allclose(few.every["log_ifd"], np.log(ifd), atol=1e-4)
    with pytest.raises(DataError, match="not numbers"):
        selector.pick(Features.unmeasured(20), None, 2, 0)


def test_superfilter_starts_from_the_end_token_where_there_is_no_other() -> None:
    lm, pool = make_tiny_lm(), make_items(3, seed=3)
    lm.start_ids = ()
    _, prior = SuperFilter(0.3).measure(lm, pool, pool)
    with torch.no_grad():
        expected = [float(plain_loss(lm, Encoded((lm.end_id,), item.options[:1]))) for item in pool]
    np.testing.assert_allclose(prior, expected, rtol=1e-4)


# -- QuRating ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random sequence classifier with two outputs, as a folder."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("rater")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "good", "bad"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=2,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the initial weights are so small that all ratings are alike
            if parameter.dim() == 2:
                parameter.mul_(20)
    model.save_pretrained(folder)
    BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return folder


TEXTS = ["a good b", "bad", "c d e f", "good good good", "a", "h g f e d c b a"]


@pytest.mark.parametrize("criterion", [None, 1])
def test_ratings_equal_a_plain_loop(rater: Path, criterion: int | None) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    selector = QuRating(0.5, str(rater), criterion=criterion, max_length=6, max_tokens=20, device="cpu")
    assert isinstance(selector, ScoringSelector)
    found = selector.score(material(make_items(6, 0), [], TEXTS))
    model = AutoModelForSequenceClassification.from_pretrained(rater)
    tokenizer = AutoTokenizer.from_pretrained(rater)
    with torch.no_grad():
        rows = [model(**tokenizer(t, return_tensors="pt", truncation=True, max_length=6)).logits[0] for t in TEXTS]
    expected = [float(row.mean() if criterion is None else row[1]) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected) > 1e-3


def test_ratings_are_standardised_and_sampled_with_the_temperature() -> None:
    ratings = np.array([10.0, 12.0, 14.0, 20.0])
    features = Features.unmeasured(4)
    best = QuRating(0.5, temperature=0.0).pick(features, ratings, 2, 0)
    assert best.indices.tolist() == [3, 2]
    assert best.every["rating"].tolist() == ratings.tolist()
    weights = np.exp((ratings - ratings.mean()) / ratings.std() / 2.0)
    sampler = QuRating(0.5, temperature=2.0)
    first = [sampler.pick(features, ratings, 1, seed).indices[0] for seed in range(2000)]
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 2000, weights / weights.sum(), atol=0.04)
    assert sampler.pick(features, np.ones(4), 4, 0).indices.shape == (4,)
    with pytest.raises(DataError, match="there are none"):
        sampler.pick(features, None, 2, 0)
    with pytest.raises(DataError, match="first is item 1"):
        sampler.pick(features, np.array([0.0, np.nan, 0.0, 0.0]), 2, 0)


def test_a_rater_is_required_and_must_fit(rater: Path) -> None:
    with pytest.raises(UserError, match="QuRating needs a rater"):
        QuRating(0.3).fingerprint()
    with pytest.raises(UserError, match="no model folder"):
        QuRating(0.3, "/nowhere/rater").fingerprint()
    with pytest.raises(UserError, match="no number 2"):
        QuRating(0.3, str(rater), criterion=2).score(material(make_items(1, 0), [], ["a"]))
    with pytest.raises(ConfigError, match="temperature"):
        QuRating(0.3, temperature=-1.0)
    assert QuRating(0.3, str(rater)).fingerprint().startswith("content:")


# -- LESS --------------------------------------------------------------------------------------------------------------


def test_adam_directions_are_the_step_that_adam_would_take() -> None:
    """Against torch's own optimizer: the change it makes to a weight, over its rate."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=BETAS, eps=EPSILON)
    for _ in range(4):
        weight.grad = torch.randn(3, 2)
        optimizer.step()
    state = optimizer.state[weight]
    checkpoint = Checkpoint(0.1, 4, {"w": state["exp_avg"].clone()}, {"w": state["exp_avg_sq"].clone()})
    samples = torch.randn(5, 3, 2)
    found = adam_directions({"w": samples}, checkpoint)["w"]
    before = weight.detach().clone()
    weight.grad = samples[2].clone()
    optimizer.step()
    torch.testing.assert_close(found[2], (before - weight.detach()) / 0.1, rtol=1e-3, atol=1e-4)


def test_the_projection_keeps_inner_products_and_needs_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    project = RademacherProjection(5000, 4096, seed=1)
    projected = project(vectors)
    error = (projected @ projected.T - vectors @ vectors.T).abs().max() / 5000
    assert error < 0.08
    monkeypatch.setattr("meld.selector.less._KEPT_BYTES", 0)
    torch.testing.assert_close(RademacherProjection(5000, 4096, seed=1)(vectors), projected)


def test_less_equals_its_formula() -> None:
    """Without a projection worth the name (so many dimensions that inner products stay), by per-sample autograd."""
    pool, validation = make_items(10, seed=4), make_items(3, seed=5)
    given = material(pool, validation, seed=7)
    selector = Less(0.3, warm_up=0.5, epochs=2, dimensions=20_000, lr=0.05, batch_size=2)
    found = selector.score(given)
    expected = np.zeros(10)
    from meld.seeds import derive

    with given.attach() as lm:
        items = [pool[i] for i in warm_up_items(10, 0.5, derive(7, "warm-up"))]
        for checkpoint in epochs_of_adam(lm, items, 2, 0.05, 2, derive(7, "order")):
            parts = [plain_gradient(lm, item) for item in validation]
            aim = torch.cat([sum(p[name] for p in parts).flatten() / 3 for name in sorted(parts[0])])
            for index, item in enumerate(pool):
                own = {name: g[None] for name, g in plain_gradient(lm, item).items()}
                gamma = adam_directions(own, checkpoint)
                flat = torch.cat([gamma[name].flatten() for name in sorted(gamma)])
                expected[index] += checkpoint.lr * float(torch.nn.functional.cosine_similarity(flat, aim, dim=0))
    assert np.corrcoef(found, expected)[0, 1] > 0.98
    np.testing.assert_allclose(found, expected, atol=0.05 * 2 * 0.05)
    assert selector.pick(given.features, found, 3, 0).indices.tolist() == np.argsort(-found)[:3].tolist()
    names = [step.name for step in given.meter.steps]
    assert names.count("warm-up") == names.count("gradient features of the pool") == 2
    assert given.meter.steps[-1].stored_mb == pytest.approx(4e-6 * 10 * 20_000 * 2)


def test_the_plain_warm_up_lowers_the_loss_and_shows_each_epoch() -> None:
    items = make_items(6, seed=1)
    with material(items, items).attach() as lm:
        losses, rates, steps = [], [], []
        for checkpoint in epochs_of_adam(lm, items, 3, 0.05, 4, seed=0):
            with torch.no_grad():
                losses.append(float(sum(plain_loss(lm, item) for item in items)))
            rates.append(checkpoint.lr)
            steps.append(checkpoint.steps)
            assert set(checkpoint.first) == set(lora_parameters(lm))
    assert losses == sorted(losses, reverse=True)
    assert steps == [2, 4, 6]
    np.testing.assert_allclose(rates, [0.05 * 5.5 / 6, 0.05 * 3.5 / 6, 0.05 * 1.5 / 6])
    with material(items, items).attach() as lm, pytest.raises(DataError, match="warm-up set is empty"):
        next(epochs_of_adam(lm, [], 1, 0.1, 2, 0))


# -- DataInf -----------------------------------------------------------------------------------------------------------


def test_datainf_equals_its_formula() -> None:
    """Eq. 5 of the paper with dense inverses of the rank-one Fishers, by per-sample autograd."""
    pool, validation = make_items(7, seed=4), make_items(3, seed=5)
    given = material(pool, validation, seed=7)
    selector = DataInf(0.3, epochs=1, lr=0.05, batch_size=4)
    found = selector.score(given)
    from meld.seeds import derive

    with given.attach() as lm:
        items = [pool[i] for i in warm_up_items(7, 1.0, derive(7, "warm-up"))]
        for _ in epochs_of_adam(lm, items, 1, 0.05, 4, derive(7, "order")):
            pass
        own = [plain_gradient(lm, item) for item in pool]
        parts = [plain_gradient(lm, item) for item in validation]
    expected = np.zeros(7)
    for name in own[0]:
        target = sum(part[name] for part in parts).double().flatten() / 3
        g = torch.stack([gradient[name].double().flatten() for gradient in own])
        damping = 0.1 * float(g.square().mean())
        eye = torch.eye(g.shape[1], dtype=torch.float64)
        v = sum(torch.linalg.inv(torch.outer(row, row) + damping * eye) @ target for row in g) / 7
        expected += (g @ v).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert selector.pick(given.features, found, 2, 0).indices.tolist() == np.argsort(-found)[:2].tolist()
    stored = next(step for step in given.meter.steps if step.name == "gradients of the pool").stored_mb
    with given.attach() as lm:
        assert stored == pytest.approx(4e-6 * 7 * sum(p.numel() for p in lora_parameters(lm).values()))


def test_datainf_says_when_gradients_do_not_fit() -> None:
    pool = make_items(5, seed=4)
    with pytest.raises(UserError, match="stores the gradients of 5 samples"):
        DataInf(0.3, max_store_gb=1e-9).score(material(pool, pool))


@pytest.mark.parametrize(
    "build", [lambda c: Less(c), lambda c: DataInf(c), lambda c: SuperFilter(c), lambda c: QuRating(c)]
)
def test_bad_numbers_are_named(build) -> None:
    for c in (0.0, 1.5):
        with pytest.raises(ConfigError, match="selection ratio c"):
            build(c)
    with pytest.raises(DataError, match="pool of augmented data is empty"):
        build(0.3).size(0)
    assert build(0.3).size(10) == 3
    assert not build(0.3).needs_features


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("selector", [Less(0.3, dimensions=64), DataInf(0.3)], ids=["less", "datainf"])
def test_a_tiny_pool_is_scored_and_one_item_is_picked(selector: ScoringSelector, n: int) -> None:
    given = material(make_items(n, seed=4), make_items(3, seed=5))
    scores = selector.score(given)
    assert scores.shape == (n,)
    assert np.isfinite(scores).all()
    assert len(selector.pick(given.features, scores, selector.size(n), 0).indices) == 1


@pytest.mark.parametrize("selector", [Less(0.3), DataInf(0.3), SuperFilter(0.3)], ids=["less", "datainf", "ifd"])
def test_a_proxy_that_yields_no_numbers_is_named(
    selector: ScoringSelector | MeasuringSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, pool = make_tiny_lm(), make_items(4, seed=4)
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(float("nan"))
    monkeypatch.setitem(material.__globals__, "make_tiny_lm", lambda: lm)
    if isinstance(selector, ScoringSelector):
        run = partial(selector.score, material(pool, pool))
    else:
        run = partial(selector.measure, lm, pool, pool)
    with pytest.raises(DataError, match=r"not finite|not a number"):
        run()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        Less(0.3, epochs=0)
    with pytest.raises(ConfigError, match="damping_ratio"):
        DataInf(0.3, damping_ratio=0.0)
    with pytest.raises(ConfigError, match="no target 'test'"):
        Dsir(0.3, target="test")
    with pytest.raises(ConfigError, match=r"selector\.warm_up"):
        Less(0.3, warm_up=0.0)
