"""A bundle answers the same whichever engine runs its experts: small random Qwen2 and Llama decoders, trained on."""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meld.bundle.export import export_run
from meld.bundle.model import Model, load
from meld.engine.base import Engine
from meld.engine.hf import HuggingFaceEngine
from meld.engine.stacked import StackedEngine
from meld.engine.vllm import VllmEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENGINES: dict[str, Callable[[], Engine]] = {
    "stacked": StackedEngine,
    "hf": HuggingFaceEngine,
    "vllm": lambda: VllmEngine(max_loras=2, max_mixtures=3, max_model_len=512, kv_cache_gb=1),
}
"""vLLM has two adapters in a batch at most and keeps three mixtures: they have to take turns."""

UNITS = ("quickstart_products.em", "quickstart_people.di", "quickstart_hospitals.dc")


def save_base(architecture: str, place: Path) -> None:
    """A small random decoder that reads characters. Its heads have 32 dimensions: vLLM has no attention for less."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    marks = ["<pad>", "<s>", "</s>", "<unk>"]
    words = [*marks, *string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(place)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # The usual initialisation is so small that every answer would be about equally likely.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(place)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, made: Any, five: tuple[str, ...]
) -> Any:
    """A run whose experts are on such a decoder, exported; answered by the stacked engine."""
    folder = tmp_path_factory.mktemp(request.param)
    save_base(request.param, folder / "base")
    other = ("backbone=", "backbone.", "expert.")
    run = made.again(
        *(word for word in five if not word.startswith(other)),
        "backbone=qwen2_5_0_5b",
        f"backbone.path={folder / 'base'}",
        "backbone.dtype=float32",
        "backbone.decode=rank",
        "backbone.max_prompt_tokens=384",
        "backbone.batch_tokens=4096",
        "expert.epochs=1",
        "expert.lr=0.02",
        "expert.tolerance=1000",  # kept, however little good they do
        f"paths.runs={folder / 'runs'}",
    )
    return type(made)(run, export_run(run, folder / "bundle"))


@pytest.mark.parametrize(
    "engine",
    [
        "stacked",
        "hf",
        pytest.param(
            "vllm",
            marks=[
                pytest.mark.vllm,
                pytest.mark.skipif(
                    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm runs this"
                ),
            ],
        ),
    ],
)
def test_the_answers_are_those_that_were_scored(small: Any, engine: str) -> None:
    experts = [load_file(place) for place in small.bundle.glob("adapters/*/adapter_model.safetensors")]
    assert len(experts) == 3
    # Experts that change nothing would prove nothing.
    assert all(max(float(b.abs().max()) for name, b in expert.items() if "lora_B" in name) > 1e-2 for expert in experts)
    expected = load(small.bundle, engine=StackedEngine())
    running = ENGINES[engine]()
    model = load(small.bundle, engine=running)
    try:
        for unit in UNITS:
            rows = small.rows(unit)
            small.check(model.predict(rows, unit=unit, chunk=5, progress=False), unit)
            ours, theirs = (_ranked(asked, rows, unit) for asked in (model, expected))
            assert list(ours) == list(theirs)
            assert ours == pytest.approx(theirs, abs=1e-3)
    finally:
        model.opened.close()
        if isinstance(running, VllmEngine):
            running.stop()


def _ranked(model: Model, rows: Any, unit: str) -> dict[str, float]:
    """The options of the first row with their probabilities, the likeliest first."""
    return dict(model.explain(rows.iloc[[0]], unit=unit).ranked)
