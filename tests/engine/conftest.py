"""Tiny random models of four architectures with tokenizers, and random experts for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import save_adapter, with_lora

Adapters = Callable[..., dict[str, Path]]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", '"}', '"', ":", *(f"w{i}" for i in range(57))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _random(architecture: str, width: int) -> LanguageModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=64,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        # The usual initialisation is so small that every answer would be about equally likely.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return LanguageModel(model.requires_grad_(False).eval(), _tokenizer(), f"tiny-{architecture}")


@pytest.fixture(scope="session")
def fresh() -> Callable[..., LanguageModel]:
    """A function that makes an architecture's model; every call gives a new one with the same weights."""

    def make(architecture: str, width: int = 32) -> LanguageModel:
        if architecture == "minilm":
            return HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu").load()
        return _random(architecture, width)

    return make


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    """A function that writes random experts for a model, and gives their folders by the experts' names."""
    return _adapters_in(tmp_path)


@pytest.fixture(scope="session")
def adapters_in() -> Callable[[Path], Adapters]:
    """The same for a place of one's own."""
    return _adapters_in


def _adapters_in(place: Path) -> Adapters:
    def make(lm: LanguageModel, targets: Sequence[str], ranks: Sequence[int] = (4,) * 5, size: float = 0.1) -> Any:
        folders = {}
        for number, rank in enumerate(ranks):
            draw = torch.Generator().manual_seed(number)
            with with_lora(lm, targets, rank, 2.0 * rank, 0.0, number) as wrapped:
                with torch.no_grad():
                    for name, parameter in sorted(wrapped.model.named_parameters()):
                        if "lora_" in name:
                            parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)
                folders[f"set{number}.em"] = place / f"e{len(list(place.glob('e*')))}"
                save_adapter(wrapped, folders[f"set{number}.em"])
        return folders

    return make
