"""The stacked engine against PEFT's ``cat``: a different mixture in every row, on four architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine import stacked as module
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.types import Prompt

Fresh = Callable[[str], LanguageModel]
Adapters = Callable[..., dict[str, Path]]

TARGETS = {
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
    "minilm": ("query", "key", "value", "transform.dense"),
}
GATES = np.array(
    [
        [0.5, 0.3, 0.2, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.25, 0.0, 0.0, 0.75, 0.0],
        [0.0, 0.0, 0.35, 0.3, 0.35],
        [0.1, 0.0, 0.0, 0.0, 0.9],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
)
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w12 w3", "w1 w2 w3", "w20 w21 w22 w23 w24"]
ITEMS = [
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
    Encoded((1, *range(20, 60)), ((9, 2),)),
    Encoded((1, 20, 21, 22), ((9, 30, 31, 32, 2), (9, 2))),
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 44), ((9, 2), (10, 2))),
]


@pytest.fixture(params=[0, 10**6], ids=["picked", "stacked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing the update, whatever the length of the rows would choose."""
    monkeypatch.setattr(module, "_COPY_COST", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("architecture", TARGETS)
def test_ranking_equals_peft_cat_row_by_row(fresh: Fresh, adapters: Adapters, architecture: str) -> None:
    lm = fresh(architecture)
    folders = adapters(lm, TARGETS[architecture])
    plain = [scores.numpy() for scores in lm.option_log_probs(ITEMS)]
    ours = StackedEngine().open(lm, folders)
    found = ours.option_log_probs(ITEMS, GATES)
    ours.close()
    peft = HuggingFaceEngine(max_mixtures=2).open(lm, folders)
    for mine, theirs, base in zip(found, peft.option_log_probs(ITEMS, GATES), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=0)
        assert np.abs(mine - base).max() > 1e-2


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("architecture", TARGETS)
def test_logits_equal_peft_cat_row_by_row(fresh: Fresh, adapters: Adapters, architecture: str) -> None:
    lm = fresh(architecture)
    folders = adapters(lm, TARGETS[architecture])
    ids = torch.randint(4, 60, (len(GATES), 24), generator=torch.Generator().manual_seed(0))
    ours = StackedEngine().open(lm, folders)
    with torch.no_grad(), ours.mixed(GATES):
        found = lm.model(input_ids=ids, use_cache=False).logits
    ours.close()
    peft = HuggingFaceEngine().open(lm, folders)
    for row, gates in enumerate(GATES):
        with torch.no_grad(), peft._activate(gates):
            expected = peft.lm.model(input_ids=ids[row : row + 1], use_cache=False).logits[0]
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("architecture", TARGETS)
def test_generation_writes_what_peft_cat_writes(fresh: Fresh, adapters: Adapters, architecture: str) -> None:
    lm = fresh(architecture)
    folders = adapters(lm, TARGETS[architecture])
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    base = lm.generate(prompts, 12)
    ours = StackedEngine().open(lm, folders)
    found = ours.generate(prompts, GATES, 12)
    ours.close()
    assert lm.generate(prompts, 12) == base
    assert found == HuggingFaceEngine().open(lm, folders).generate(prompts, GATES, 12)
    assert len(set(found)) > 1
    assert found != base
    assert found[0] != found[4]  # the same question under two mixtures


@pytest.mark.parametrize("kind", ["ranking", "writing"])
def test_a_row_without_experts_is_the_base_model(fresh: Fresh, adapters: Adapters, kind: str) -> None:
    lm = fresh("llama")
    folders = adapters(lm, TARGETS["llama"])
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    gates = GATES.copy()
    gates[[0, 5]] = 0.0
    scores, texts = [s.numpy() for s in lm.option_log_probs(ITEMS)], lm.generate(prompts, 8)
    for engine in (StackedEngine(), HuggingFaceEngine()):
        for rows in (gates, np.zeros_like(gates)):
            model = engine.open(lm, folders)
            if kind == "ranking":
                found = model.option_log_probs(ITEMS, rows)
                assert all(found[i] == pytest.approx(scores[i], abs=1e-5) for i in (0, 5))
            else:
                written = model.generate(prompts, rows, 8)
                assert [written[i] for i in (0, 5)] == [texts[i] for i in (0, 5)]
            model.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_the_update_of_a_layer_against_a_dense_sum(seed: int, n: int, rank: int, rows: int, length: int) -> None:
    """Any gates at all, zero rows among them; both ways agree with sum_e g_e B_e A_e x."""
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, rank, 7, generator=draw), torch.randn(n, rank, 5, generator=draw)
    gates = torch.rand(rows, n, generator=draw) * (torch.rand(rows, n, generator=draw) < 0.5)
    if not gates.any():
        gates[0, 0] = 1.0
    x, base = torch.randn(rows, length, 7, generator=draw), torch.randn(rows, length, 5, generator=draw)
    dense = torch.einsum("be,erd,erc->bdc", gates, a, b)
    expected = base + x @ dense
    batch = module._batch(gates.double().numpy(), rank, torch.device("cpu"), torch.float32)
    before = module._COPY_COST
    try:
        for module._COPY_COST in (0, 10**6):
            found = module._add(module._Stack(a, b), batch, x, base.clone())
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    finally:
        module._COPY_COST = before


def test_an_output_of_another_format_keeps_it() -> None:
    """Quantised layers may answer in another number format than the base computes in."""
    stack = module._Stack(torch.randn(2, 3, 7), torch.randn(2, 3, 5))
    batch = module._batch(np.array([[0.5, 0.5]]), 3, torch.device("cpu"), torch.float32)
    x, base = torch.randn(1, 4, 7), torch.randn(1, 4, 5)
    low = module._add(stack, batch, x.bfloat16(), base.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), module._add(stack, batch, x, base), atol=0.2, rtol=0.05)
    across = torch.randn(1, 5, 4).transpose(1, 2)
    expected = module._add(stack, batch, x, across.contiguous())
    torch.testing.assert_close(module._add(stack, batch, x, across), expected)


def test_experts_may_adapt_different_layers(fresh: Fresh, adapters: Adapters) -> None:
    lm = fresh("llama")
    some, others = adapters(lm, ("q_proj",), (4,)), adapters(lm, ("v_proj", "o_proj"), (4,))
    folders = {"a": some["set0.em"], "b": others["set0.em"]}
    gates = np.array([[0.6, 0.4], [0.0, 1.0]])
    model = StackedEngine().open(lm, folders)
    found = model.option_log_probs(ITEMS[:2], gates)
    model.close()
    expected = HuggingFaceEngine().open(lm, folders).option_log_probs(ITEMS[:2], gates)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=0)
