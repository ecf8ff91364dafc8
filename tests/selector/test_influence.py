"""Influence against per-sample autograd, and preconditioners against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from meld.backbone.lora import lora_parameters
from meld.errors import ConfigError, DataError, UserError
from meld.selector.cluster import k_centre_clusters
from meld.selector.costs import Meter
from meld.selector.influence.base import check_scores, complexity
from meld.selector.influence.batch import BatchInfluence
from meld.selector.influence.direction import CANDIDATES, choose_damping
from meld.selector.influence.dot import DotInfluence
from meld.selector.influence.fd import FiniteDifferenceInfluence
from meld.selector.influence.gradients import lora_matrices, mean_gradient, per_sample_gradients
from meld.selector.influence.none import NoInfluence
from meld.selector.influence.per_sample import PerSampleInfluence
from meld.selector.influence.perturb import length, moved
from meld.selector.influence.preconditioner import preconditioner, preconditioners, schulz_inverse, stored_bytes
from meld.selector.losses import label_losses

from .conftest import make_items, plain_gradient

NAMES = ["one_sided", "woodbury", "datainf", "hyperinf", "identity"]
LAMBDA = 0.03


def gradients(n: int = 7) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A target and n per-sample gradients of a wide, a tall and a square block."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (3, 8), "tall": (9, 2), "square": (4, 4)}
    target = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return target, {name: torch.randn((n, *shape), generator=generator) for name, shape in shapes.items()}


def chunked(samples: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: part[at : at + 3] for name, part in samples.items()} for at in range(0, 7, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_streaming_changes_nothing(name: str) -> None:
    target, samples = gradients()
    estimate = preconditioner(name)
    whole, parts = estimate(target, [samples], LAMBDA), estimate(target, iter(chunked(samples)), LAMBDA)
    for block, value in whole.items():
        assert value.shape == target[block].shape
        torch.testing.assert_close(value, parts[block], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_several_dampings_in_one_reading(name: str) -> None:
    target, samples = gradients()
    each = {block: 0.1 * (i + 1) for i, block in enumerate(target)}  # one of its own for every block
    found = preconditioners(name)(target, iter(chunked(samples)), [LAMBDA, 1.0, each])
    for damping, result in zip((LAMBDA, 1.0), found, strict=False):
        for block, value in preconditioner(name)(target, [samples], damping).items():
            torch.testing.assert_close(result[block], value, rtol=1e-4, atol=1e-4)
    for block, value in found[2].items():
        alone = preconditioner(name)(target, [samples], each[block])[block]
        torch.testing.assert_close(value, alone, rtol=1e-4, atol=1e-4)


def test_what_estimators_hold() -> None:
    target, _ = gradients()
    size = 24 + 18 + 16
    assert stored_bytes("woodbury", target, 7) == 4 * size * 8
    assert stored_bytes("one_sided", target, 7) == 4 * size + 8 * (9 + 4 + 16)
    assert stored_bytes("identity", target, 7) == 4 * size


def test_woodbury_equals_the_dense_inverse() -> None:
    target, samples = gradients()
    result = preconditioner("woodbury")(target, [samples], LAMBDA)
    for name, t in target.items():
        g = samples[name].double().flatten(1)
        fisher = g.T @ g / len(g) + LAMBDA * torch.eye(g.shape[1], dtype=torch.float64)
        dense = (torch.linalg.inv(fisher) @ t.double().flatten()).view_as(t)
        torch.testing.assert_close(result[name].double(), dense, rtol=1e-4, atol=1e-4)


def test_datainf_equals_its_formula() -> None:
    target, samples = gradients()
    result = preconditioner("datainf")(target, [samples], LAMBDA)
    for name, t in target.items():
        total = torch.zeros(t.numel(), dtype=torch.float64)
        v = t.double().flatten()
        for g in samples[name].double().flatten(1):
            # The inverse of one sample's damped Fisher (Sherman and Morrison), dense; DataInf is their mean.
            total += torch.linalg.inv(torch.outer(g, g) + LAMBDA * torch.eye(len(g), dtype=torch.float64)) @ v
        torch.testing.assert_close(result[name].double(), (total / 7).view_as(t), rtol=1e-4, atol=1e-4)


def test_one_sided_equals_its_formula_and_hyperinf_equals_it() -> None:
    target, samples = gradients()
    direct, schulz = (preconditioner(name)(target, [samples], LAMBDA) for name in ("one_sided", "hyperinf"))
    for name, t in target.items():
        wide = t.shape[0] < t.shape[1]
        factor = sum((g @ g.T if wide else g.T @ g).double() for g in samples[name]) / 7
        inverse = torch.linalg.inv(factor + LAMBDA * torch.eye(len(factor), dtype=torch.float64))
        assert len(factor) == min(t.shape)
        expected = inverse @ t.double() if wide else t.double() @ inverse
        torch.testing.assert_close(direct[name].double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(schulz[name].double(), expected, rtol=1e-4, atol=1e-4)


def test_schulz_follows_its_recurrence_and_converges() -> None:
    root = torch.randn((5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(5, dtype=torch.float64)
    start = schulz_inverse(matrix, steps=0)
    once = start @ (2 * torch.eye(5, dtype=torch.float64) - matrix @ start)
    torch.testing.assert_close(schulz_inverse(matrix, steps=1), once)
    torch.testing.assert_close(schulz_inverse(matrix), torch.linalg.inv(matrix))


def test_identity_and_bad_names() -> None:
    target, samples = gradients()
    for name, value in preconditioner("identity")(target, [samples], LAMBDA).items():
        torch.testing.assert_close(value, target[name])
    with pytest.raises(ConfigError, match="no preconditioner 'exact'"):
        preconditioner("exact")
    for name in NAMES[:-1]:
        with pytest.raises(DataError, match="warm-up set"):
            preconditioner(name)(target, [], LAMBDA)


def test_per_sample_gradients_equal_autograd(lora_lm) -> None:
    items = make_items(9, seed=1)
    lora_lm.model.eval()
    expected = [plain_gradient(lora_lm, item) for item in items]
    lora_lm.model.train()
    seen = set()
    with torch.no_grad():  # a caller that measures under no_grad must not change anything
        for batch, found in per_sample_gradients(lora_lm, items, max_tokens=40, max_rows=4, what="pool"):
            assert set(found) == set(lora_parameters(lora_lm))
            for row, index in enumerate(batch):
                seen.add(index)
                for name, part in found.items():
                    torch.testing.assert_close(part[row], expected[index][name], rtol=1e-3, atol=1e-5)
    assert seen == set(range(9))
    assert lora_lm.model.training
    assert max(float(part.abs().max()) for part in expected[0].values()) > 1e-2
    assert all(not module._forward_hooks for module in lora_lm.model.modules())
    assert all(parameter.grad is None for parameter in lora_lm.model.parameters())


def test_mean_gradient_is_the_mean(lora_lm) -> None:
    items = make_items(6, seed=2)
    found = mean_gradient(lora_lm, items, max_tokens=30, max_rows=2, what="pool")
    lora_lm.model.eval()
    expected = [plain_gradient(lora_lm, item) for item in items]
    for name, part in found.items():
        torch.testing.assert_close(part, sum(g[name] for g in expected) / 6, rtol=1e-3, atol=1e-5)


def reference_influence(lm, pool, validation, warmup, name: str) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """The direction v and every item's own gradient, by per-sample autograd."""
    lm.model.eval()
    parts = [plain_gradient(lm, item) for item in validation]
    target = {block: sum(part[block] for part in parts) / len(parts) for block in parts[0]}
    warm = [plain_gradient(lm, item) for item in warmup]
    samples = {block: torch.stack([g[block] for g in warm]) for block in target}
    return preconditioner(name)(target, [samples], LAMBDA), [plain_gradient(lm, item) for item in pool]


def inner(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return sum(float((left[name] * right[name]).sum()) for name in left)


@pytest.mark.parametrize("name", NAMES)
def test_dot_and_batch_equal_per_sample_autograd(lora_lm, name: str) -> None:
    pool, validation = make_items(13, seed=4), make_items(5, seed=5)
    embeddings = np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32)
    initial = np.array([6, 2, 9, 11])
    direction, own = reference_influence(lora_lm, pool, validation, [pool[i] for i in initial], name)
    expected = np.array([-inner(direction, gradient) for gradient in own])
    lora_lm.model.train()

    dot = DotInfluence(damping=LAMBDA, preconditioner=name, max_tokens=50, max_rows=5)
    found = dot.scores(lora_lm, pool, validation, initial, embeddings)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-4)

    batch = BatchInfluence(B=3, damping=LAMBDA, preconditioner=name, max_tokens=50, max_rows=2)
    found = batch.scores(lora_lm, pool, validation, initial, embeddings)
    clusters = k_centre_clusters(embeddings, 3, initial)
    means = np.array([expected[clusters.labels == label].mean() for label in clusters.labels])
    np.testing.assert_allclose(found / scale, means / scale, atol=2e-4)

    single = BatchInfluence(B=1, damping=LAMBDA, preconditioner=name)
    found = single.scores(lora_lm, pool, validation, initial, embeddings)
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-4)

    one_by_one = PerSampleInfluence(damping=LAMBDA, preconditioner=name)
    found = one_by_one.scores(lora_lm, pool, validation, initial, embeddings)
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-4)

    differences = FiniteDifferenceInfluence(damping=LAMBDA, preconditioner=name, max_tokens=50, max_rows=5)
    before = {n: parameter.detach().clone() for n, parameter in lora_parameters(lora_lm).items()}
    found = differences.scores(lora_lm, pool, validation, initial, embeddings)
    np.testing.assert_allclose(found / scale, expected / scale, atol=5e-3)
    for n, parameter in lora_parameters(lora_lm).items():
        assert torch.equal(parameter, before[n])  # the weights are the very same afterwards


def test_several_tasks_in_one_pass(lora_lm) -> None:
    pool, initial = make_items(9, seed=4), np.array([1, 4, 7])
    tasks = [make_items(3, seed=10), make_items(5, seed=11), make_items(2, seed=12)]
    dot = DotInfluence(damping=LAMBDA, max_tokens=40, max_rows=4)
    together = dot.scores_of_tasks(lora_lm, pool, tasks, initial)
    assert together.shape == (9, 3)
    for column, task in enumerate(tasks):
        alone = dot.scores(lora_lm, pool, task, initial, np.zeros((9, 1), np.float32))
        np.testing.assert_allclose(together[:, column], alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [BatchInfluence, DotInfluence, FiniteDifferenceInfluence, PerSampleInfluence])
def test_two_processes_give_the_same_scores(lora_lm, kind) -> None:
    pool, validation, initial = make_items(11, seed=4), make_items(4, seed=5), np.array([6, 2, 9])
    embeddings = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    small = {"damping": LAMBDA, "max_tokens": 40, "max_rows": 3}
    one = kind(**small).scores(lora_lm, pool, validation, initial, embeddings)
    two = kind(**small, workers=2).scores(lora_lm, pool, validation, initial, embeddings)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6 * np.abs(one).max())
    assert np.std(one) > 0.0


def test_errors_in_a_process_reach_the_user(lora_lm) -> None:
    pool = make_items(6, seed=4)
    x = np.zeros((6, 1), np.float32)
    with torch.no_grad():
        next(iter(lora_parameters(lora_lm).values())).fill_(float("inf"))
    with pytest.raises(DataError, match="not finite"):
        DotInfluence(preconditioner="identity", workers=2, max_rows=2).scores(lora_lm, pool, pool, np.array([0]), x)
    with pytest.raises(ConfigError, match="processes"):
        DotInfluence(workers=0)


def test_every_estimator_says_what_its_steps_took(lora_lm) -> None:
    pool, validation, initial = make_items(6, seed=4), make_items(3, seed=5), np.array([1, 2])
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for kind, passes in ((BatchInfluence, 2.0), (DotInfluence, 2.0), (FiniteDifferenceInfluence, 2.0)):
        meter = Meter()
        kind(damping=LAMBDA).scores(lora_lm, pool, validation, initial, x, meter=meter)
        last = meter.steps[-1]
        assert last.tokens == sum(len(item.prompt) + len(item.options[0]) for item in pool)
        assert last.passes == passes
        assert all(step.seconds > 0 and step.peak_memory_mb > 0 for step in meter.steps)
        assert {step.name for step in meter.steps} >= {"gradient of the validation set", "curvature and its inverse"}
        assert meter.notes == {"damping": LAMBDA}
        assert last.stored_mb == pytest.approx(4e-6 * sum(p.numel() for p in lora_parameters(lora_lm).values()))


def test_the_damping_is_chosen_where_held_out_labels_gain_most(lora_lm) -> None:
    """Against a plain search over all candidates and steps."""
    validation, dev = make_items(6, seed=5), make_items(5, seed=6)
    pool, initial = make_items(8, seed=7), np.arange(8)
    meter = Meter()
    auto = DotInfluence(damping="auto")
    scores = auto.scores(lora_lm, pool, validation, initial, np.zeros((8, 1), np.float32), dev, meter)
    chosen = float(meter.notes["damping"])
    target = mean_gradient(lora_lm, validation, 4096, 16, "validation set")
    loss = label_losses(lora_lm, validation).mean()
    warm = [chunk for _, chunk in per_sample_gradients(lora_lm, pool, 4096, 16, "warm-up set")]
    after = {}
    for damping in CANDIDATES:
        v = preconditioner("one_sided")(target, warm, damping)
        for drop in (0.03, 0.1, 0.3):
            with moved(lora_lm, v, -drop * float(loss) / inner(target, v)):
                after[damping, drop] = label_losses(lora_lm, dev).mean()
    best = min(after, key=after.__getitem__)
    assert after[best] < label_losses(lora_lm, dev).mean()
    assert chosen == best[0]
    fixed = DotInfluence(damping=chosen).scores(lora_lm, pool, validation, initial, np.zeros((8, 1), np.float32))
    np.testing.assert_allclose(scores, fixed, rtol=1e-4)
    with pytest.raises(DataError, match="auto chooses on dev labels"):
        auto.scores(lora_lm, pool, validation, initial, np.zeros((8, 1), np.float32))
    uphill = {name: -part for name, part in target.items()}
    assert choose_damping(lora_lm, target, [target, uphill], validation, dev, 4096, 16) == 0


def test_influence_predicts_what_a_training_step_does(lora_lm) -> None:
    """The sign of Eq. 8: with the identity for H, a step of size s on z changes the validation loss by s * I(z)."""
    validation = make_items(4, seed=5)
    pool = [*validation, *make_items(12, seed=6)]
    dot = DotInfluence(preconditioner="identity", damping=LAMBDA)
    scores = dot.scores(lora_lm, pool, validation, np.array([0]), np.zeros((16, 1), np.float32))
    assert scores[:4].mean() < 0  # the validation items themselves help
    lora_lm.model.eval()
    before = label_losses(lora_lm, validation).mean()
    parameters = lora_parameters(lora_lm)
    for item in (int(scores.argmin()), int(scores.argmax())):
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        gradient = plain_gradient(lora_lm, pool[item])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter -= 1e-3 * gradient[name]
            after = label_losses(lora_lm, validation).mean()
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
        assert (after - before) / 1e-3 == pytest.approx(scores[item], rel=0.02)


def test_warm_up_gradients_are_capped_at_the_first_picks(lora_lm) -> None:
    pool, validation = make_items(8, seed=4), make_items(3, seed=5)
    x = np.zeros((8, 1), np.float32)
    capped = DotInfluence(max_warmup=2).scores(lora_lm, pool, validation, np.array([5, 1, 3]), x)
    two = DotInfluence().scores(lora_lm, pool, validation, np.array([5, 1]), x)
    three = DotInfluence().scores(lora_lm, pool, validation, np.array([5, 1, 3]), x)
    np.testing.assert_allclose(capped, two)
    assert not np.allclose(capped, three, rtol=1e-3)


def test_bad_input_is_named(tiny_lm, lora_lm) -> None:
    pool = make_items(3, seed=0)
    x = np.zeros((3, 1), np.float32)
    with pytest.raises(UserError, match="no trainable LoRA"):
        DotInfluence().scores(tiny_lm, pool, pool, np.array([0]), x)
    with pytest.raises(DataError, match="validation set is empty"):
        DotInfluence().scores(lora_lm, pool, [], np.array([0]), x)
    with pytest.raises(DataError, match="warm-up set"):
        BatchInfluence().scores(lora_lm, pool, pool, np.array([], dtype=np.int64), x)
    for damping in (0.0, -1.0, float("nan"), "large"):
        with pytest.raises(ConfigError, match="damping"):
            DotInfluence(damping=damping)
    with pytest.raises(ConfigError, match="step"):
        FiniteDifferenceInfluence(step=0.0)
    with pytest.raises(DataError, match="first is item 1"):
        check_scores(np.array([[0.0, 1.0], [np.nan, 0.0]]), "influence")
    assert set(lora_matrices(lora_lm)) == set(lora_parameters(lora_lm))
    assert length({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == 5.0
    with pytest.raises(ConfigError, match="preconditioner"):
        BatchInfluence(preconditioner="none")
    lora_lm.model.base_model.model.lm_head.weight.requires_grad_(True)
    lora_lm.model.base_model.model.model.norm.weight.requires_grad_(True)
    with pytest.raises(UserError, match="norm"):
        DotInfluence().scores(lora_lm, pool, pool, np.array([0]), x)


@pytest.mark.parametrize(
    "influence", [BatchInfluence(), DotInfluence(), FiniteDifferenceInfluence(), PerSampleInfluence()]
)
def test_a_proxy_that_yields_no_numbers_is_named(lora_lm, influence) -> None:
    pool, x = make_items(6, seed=0), np.zeros((6, 1), np.float32)
    with torch.no_grad():
        lora_lm.model.base_model.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"not finite|not a number"):
        influence.scores(lora_lm, pool, make_items(2, seed=1), np.array([0, 1]), x)


@pytest.mark.parametrize(
    "influence", [BatchInfluence(), DotInfluence(), FiniteDifferenceInfluence(), PerSampleInfluence()]
)
def test_one_item_and_equal_embeddings(lora_lm, influence) -> None:
    for n in (1, 9):
        found = influence.scores(
            lora_lm, make_items(n, seed=0), make_items(2, seed=1), np.array([0]), np.ones((n, 3), np.float32)
        )
        assert found.shape == (n,)
        assert np.isfinite(found).all()
        assert found.any()


def test_complexity_ranks_the_helpful_highest() -> None:
    np.testing.assert_allclose(complexity(np.array([-5.0, 3.0, 0.0, -5.0])), [0.875, 0.25, 0.5, 0.875])
    np.testing.assert_allclose(complexity(np.zeros(4)), [0.625] * 4)
    assert complexity(np.array([1.0])).tolist() == [1.0]
    ranks = complexity(np.random.default_rng(0).normal(size=50))
    assert ranks.min() > 0.0
    assert ranks.max() == 1.0
    with pytest.raises(DataError, match="first is item 1"):
        complexity(np.array([0.0, np.nan]))


def test_no_influence() -> None:
    assert not NoInfluence().needs_model
    assert NoInfluence().scores(None, make_items(2, 0), [], np.array([]), None).tolist() == [0.0, 0.0]
