"""Plans in which a model answers without experts, and rules between engines, backbones and adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld.config.compose import load_config, plain
from meld.config.validate import validate
from meld.errors import ConfigErrors
from meld.pipeline.node import Plan
from meld.pipeline.plan import make_plan
from meld.store.store import Store


def _plan(tmp_path: Path, *overrides: str) -> Plan:
    config = load_config([f"paths.store={tmp_path / 'store'}", *overrides])
    return make_plan(plain(config), Store(tmp_path / "store"))


def test_nothing_is_trained_but_the_encoder(tmp_path: Path) -> None:
    alone, usual = _plan(tmp_path, "method=gpt4"), _plan(tmp_path)
    assert {node.stage for node in alone.nodes if node.trains} == {"encode"}
    skipped = {node.stage for node in usual.nodes} - {node.stage for node in alone.nodes}
    assert skipped == {"balance", "init", "metapath", "refine", "route"}
    keys = {node.id: node.key for node in usual.nodes}
    shared = {node.stage for node in alone.nodes if keys[node.id] == node.key}
    assert {"data", "serialize", "encode", "index", "annotate", "gold", "baseline"} <= shared
    assert sorted(alone.scored) == sorted(usual.scored)
    unit = "quickstart_hospitals.dc"
    assert "flags" in alone.node(f"infer:{unit}").inputs
    for unit in alone.experts:
        assert keys[f"infer:{unit}"] != alone.node(f"infer:{unit}").key


def test_prices_and_patience_change_no_key_and_the_model_does(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        return {n.id: n.key for n in _plan(tmp_path, "method=gpt4", *overrides).nodes if n.stage == "infer"}

    prices = ("engine.price_in=3", "engine.price_out=6", "engine.max_cost=9", "engine.retries=1", "engine.url=http://h")
    assert keys() == keys(*prices)
    assert keys() != keys("engine.model=other")
    assert keys() != keys("engine.body={top_p: 0.5}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("engine=vllm",), r"backbone\.as_decoder=True: vLLM runs decoders only"),
        (("engine=vllm", "backbone=qwen2_5_0_5b", "+backbone.layers=2"), r"backbone\.layers=2: vLLM runs whole models"),
        (("engine=vllm", "backbone=mistral_7b", "backbone.quantization=4bit", "trainer=gpu"), r"quantization=4bit"),
        (("engine=openai",), r"backbone\.relative=True: a hosted model writes"),
        (("engine=openai",), r"backbone\.evidence_prior=True"),
        (("method=gpt4", "+adapters.mine.path=x"), "would never ask the registered adapters"),
        (("engine=vllm", "backbone=qwen2_5_0_5b", "mixer=svd"), "cannot carry out the mixer 'svd'"),
        (("engine=vllm", "backbone=qwen2_5_0_5b", "expert.rank=32"), r"rank 96 .* at most 64"),
    ],
    ids=str,
)
def test_what_an_engine_cannot_do_is_said_before_any_work(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigErrors, match=words):
        validate(load_config(list(overrides)))


@pytest.mark.parametrize(
    "overrides",
    [
        ("engine=vllm", "backbone=qwen2_5_0_5b"),
        ("engine=vllm", "backbone=qwen2_5_0_5b", "mixer=logits"),
        ("engine=openai", "engine.adapters=served", "mixer=top1"),
        ("engine=openai", "engine.adapters=loaded"),
        ("method=gpt4",),
        ("method=gpt4", "scale=paper"),
    ],
    ids=str,
)
def test_what_an_engine_can_do_is_valid(overrides: tuple[str, ...]) -> None:
    validate(load_config(list(overrides)))
