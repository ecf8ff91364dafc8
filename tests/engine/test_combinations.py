"""The update of every weight mixture against a dense reference that is written down here from its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import LoraLayer, lora_layers
from meld.engine.hf import HuggingFaceEngine, PeftMixtures
from meld.engine.stacked import StackedEngine
from meld.errors import UserError
from meld.mixer.combination import CAT, PEFT_METHODS, Combination, best_of_rank, mixture_name

Fresh = Callable[[str], LanguageModel]
Adapters = Callable[..., dict[str, Path]]

TARGETS = ("q_proj", "v_proj", "down_proj")
RANK = 4
WEIGHTS = (0.5, 0.3, 0.2)
GATES = np.array([*WEIGHTS, 0.0])
ITEMS = [Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2)))]


def updates(model: PeftMixtures) -> dict[str, Tensor]:
    """The active adapter's dense updates by layer."""
    found = {}
    for name, module in model._model.named_modules():
        if hasattr(module, "lora_A"):
            (active,) = module.active_adapters
            b, a = module.lora_B[active].weight, module.lora_A[active].weight
            found[name.removeprefix("base_model.model.")] = (module.scaling[active] * b @ a).detach()
    return found


def dense(layers: Sequence[LoraLayer]) -> list[Tensor]:
    return [layer.scale * layer.b @ layer.a for layer in layers]


def truncated(matrix: Tensor) -> Tensor:
    u, s, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return torch.tensor((u[:, :RANK] * s[:RANK]) @ vh[:RANK]).float()


def largest(tensor: Tensor, density: float) -> Tensor:
    """Only the given share of entries, those of largest size."""
    kept = sorted(range(tensor.numel()), key=lambda i: -abs(float(tensor.flatten()[i])))[
        : int(density * tensor.numel())
    ]
    out = torch.zeros(tensor.numel())
    out[kept] = tensor.flatten()[kept]
    return out.reshape(tensor.shape)


def elected(tensors: Sequence[Tensor], weights: Sequence[float], frequency: bool) -> Tensor:
    """TIES (Yadav et al., 2023): per entry the mean over those that have the elected sign."""
    out = torch.zeros_like(tensors[0])
    for place in product(*(range(size) for size in out.shape)):
        values = [float(t[place]) for t in tensors]
        total = sum((v > 0) - (v < 0) for v in values) if frequency else sum(values)
        sign = 1 if total >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if v * sign > 0]
        out[place] = sum(agreeing) / max(1, len(agreeing))
    return out


def reference(layers: Sequence[LoraLayer], how: Combination, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """A mixture's dense update by its definition; ``drop`` is the random mask of DARE (Yu et al., 2024)."""
    method = how.method.removesuffix("_svd")
    frequency = how.majority_sign == "frequency"

    def merged(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        if method.startswith("dare"):
            tensors = [t * drop(t) / how.density for t in tensors]
        elif method != "linear":
            assert how.density is not None
            tensors = [largest(t, how.density) for t in tensors]
        if method.endswith("ties"):
            return elected(tensors, weights, frequency)
        return sum((w * t for w, t in zip(weights, tensors, strict=True)), torch.zeros_like(tensors[0]))

    if how.method.endswith("_svd"):
        return truncated(merged(dense(layers), WEIGHTS))
    roots = [float(np.sqrt(w * layer.scale)) for w, layer in zip(WEIGHTS, layers, strict=True)]
    a = merged([layer.a for layer in layers], roots)
    return merged([layer.b for layer in layers], roots) @ a


@pytest.fixture
def mixed(fresh: Fresh, adapters: Adapters) -> Callable[..., Any]:
    """A function that gives the engine's updates of the mixture, and the experts' layers by name."""

    def make(how: Combination) -> tuple[dict[str, Tensor], dict[str, list[LoraLayer]]]:
        lm = fresh("llama")
        folders = adapters(lm, TARGETS, (RANK,) * 4)
        model = HuggingFaceEngine().open(lm, folders, how)
        with model._activate(GATES):
            found = updates(model)
        model.close()
        layers = [{layer.name: layer for layer in lora_layers(folder)} for folder in list(folders.values())[:3]]
        return found, {name: [of_one[name] for of_one in layers] for name in layers[0]}

    return make


def test_cat_is_the_weighted_sum(mixed: Callable[..., Any]) -> None:
    found, layers = mixed(CAT)
    assert found.keys() == layers.keys()
    for name, parts in layers.items():
        expected = sum(w * d for w, d in zip(WEIGHTS, dense(parts), strict=True))
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


def test_svd_is_the_best_approximation_of_the_weighted_sum(mixed: Callable[..., Any]) -> None:
    found, layers = mixed(Combination("svd"))
    for name, parts in layers.items():
        total = sum(w * d for w, d in zip(WEIGHTS, dense(parts), strict=True))
        torch.testing.assert_close(found[name], truncated(total), atol=1e-5, rtol=1e-4)
        lost = torch.linalg.svdvals(total)[RANK:].square().sum().sqrt()
        assert float((found[name] - total).norm()) == pytest.approx(float(lost), rel=1e-3)
        assert lost > 0.1 * total.norm()  # random experts: the rank costs something


@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_pefts_types_are_what_their_definitions_say(
    mixed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: str, sign: Any
) -> None:
    masks: list[Tensor] = []

    def drawn(probability: Tensor) -> Tensor:
        mask = (torch.rand(probability.shape) < probability).float()
        masks.append(mask)
        return mask

    monkeypatch.setattr(torch, "bernoulli", drawn)
    how = Combination(method, None if method == "linear" else 0.5, sign, 3)
    found, layers = mixed(how)
    assert bool(masks) == method.startswith("dare")
    queue = iter(masks)  # PEFT goes through the layers in the model's order, and draws for every A, then for every B

    def drop(tensor: Tensor) -> Tensor:
        mask = next(queue)
        assert mask.shape == tensor.shape
        return mask

    for name in found:
        torch.testing.assert_close(found[name], reference(layers[name], how, drop), atol=1e-5, rtol=1e-3)


def test_linear_is_not_the_weighted_sum(mixed: Callable[..., Any]) -> None:
    found, layers = mixed(Combination("linear"))
    for name, parts in layers.items():
        total = sum(w * d for w, d in zip(WEIGHTS, dense(parts), strict=True))
        assert (found[name] - total).norm() > 0.5 * total.norm()


def test_what_dare_drops_depends_on_the_mixture_and_the_seed_alone(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS, (RANK,) * 4)
    others = np.array([0.0, 0.5, 0.0, 0.5])

    def scores(seed: int, first: np.ndarray | None = None) -> np.ndarray:
        model = HuggingFaceEngine(max_mixtures=1).open(lm, folders, Combination("dare_linear", 0.5, seed=seed))
        if first is not None:
            torch.randn(7)
            model.option_log_probs(ITEMS, first[None])  # and the cache of one forgets it
        out = model.option_log_probs(ITEMS, GATES[None])[0]
        model.close()
        return out

    np.testing.assert_array_equal(scores(1), scores(1, others))
    assert np.abs(scores(1) - scores(2)).max() > 1e-3


def test_mixing_leaves_the_global_random_state_alone(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    model = HuggingFaceEngine().open(lm, adapters(lm, TARGETS), Combination("dare_ties", 0.5))
    state = torch.get_rng_state()
    model.option_log_probs(ITEMS, np.array([[0.5, 0.5, 0.0, 0.0, 0.0]]))
    assert torch.equal(state, torch.get_rng_state())


def test_one_expert_alone_is_not_changed(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    one = np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])
    expected = StackedEngine().open(lm, folders)
    alone = expected.option_log_probs(ITEMS, one)[0]
    expected.close()
    for how in (CAT, Combination("svd"), Combination("dare_ties", 0.2), Combination("ties_svd", 0.2)):
        model = HuggingFaceEngine().open(lm, folders, how)
        np.testing.assert_allclose(model.option_log_probs(ITEMS, one)[0], alone, atol=1e-4)
        model.close()


def test_the_cache_of_mixtures_is_bounded_and_forgets_the_oldest(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    model = HuggingFaceEngine(max_mixtures=2).open(lm, adapters(lm, TARGETS))
    gates = [np.array([share, 1 - share, 0.0, 0.0, 0.0]) for share in (0.1, 0.2, 0.3)]
    first = model.option_log_probs(ITEMS, gates[0][None])[0]
    model.option_log_probs(ITEMS, gates[1][None])
    kept = list(model._mixtures)
    model.option_log_probs(ITEMS, gates[0][None])
    model.option_log_probs(ITEMS, gates[2][None])
    assert kept[0] in model._mixtures
    assert kept[1] not in model._mixtures
    assert set(model._model.peft_config) == {*(f"expert{i}" for i in range(5)), *model._mixtures}
    np.testing.assert_array_equal(model.option_log_probs(ITEMS, gates[0][None])[0], first)
    with pytest.raises(ValueError, match="at least 1"):
        HuggingFaceEngine(max_mixtures=0)


def test_a_mixture_is_named_by_its_content() -> None:
    name = mixture_name([("a", 0.25), ("b", 0.75)], CAT)
    assert name == mixture_name([("b", 0.75), ("a", 0.25)], Combination("cat"))
    others = {
        mixture_name([("a", 0.75), ("b", 0.25)], CAT),
        mixture_name([("a", 0.25), ("c", 0.75)], CAT),
        mixture_name([("a", 0.25)], CAT),
        mixture_name([("a", 0.25), ("b", 0.75)], Combination("svd")),
        mixture_name([("a", 0.25), ("b", 0.75)], Combination("ties", 0.5)),
        mixture_name([("a", 0.25), ("b", 0.75)], Combination("ties", 0.6)),
        mixture_name([("a", 0.25), ("b", 0.75)], Combination("dare_ties", 0.5, seed=1)),
        mixture_name([("a", 0.25), ("b", 0.75)], Combination("dare_ties", 0.5, seed=2)),
    }
    assert len(others) == 8
    assert name not in others
    assert name.isidentifier()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.data())
def test_best_of_rank_is_the_truncated_svd(seed: int, rows: int, columns: int, m: int, data: st.DataObject) -> None:
    """Also where the factors are wider than the matrix, and where the update has a lower rank than asked for."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(m, columns)), draw.normal(size=(rows, m))
    rank = data.draw(st.integers(1, min(m, rows, columns)))
    a[m // 2 :] *= data.draw(st.sampled_from([1.0, 0.0]))
    thin_a, thin_b = best_of_rank(torch.tensor(a), torch.tensor(b), rank)
    assert (thin_a.shape, thin_b.shape) == ((rank, columns), (rows, rank))
    u, s, vh = np.linalg.svd(b @ a, full_matrices=False)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
    # Where singular values coincide the best approximation is not unique; its distance is.
    assert np.linalg.norm(b @ a - (thin_b @ thin_a).numpy()) == pytest.approx(
        float(np.linalg.norm(b @ a - expected)), abs=1e-8
    )


def test_the_stacked_engine_refuses_what_it_cannot_carry_out(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS)
    with pytest.raises(UserError, match="engine=hf"):
        StackedEngine().open(lm, folders, Combination("svd"))
    with pytest.raises(UserError, match="'magic'"):
        HuggingFaceEngine().open(lm, folders, Combination("magic"))
