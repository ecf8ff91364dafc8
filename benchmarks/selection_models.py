"""A small random model and made-up items for the benchmarks of influence and quality. Nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import attach_lora, lora_parameters

VOCABULARY = 512


class NoTokenizer:
    """Special tokens; the items are made of ids."""

    bos_token_id, eos_token_id, pad_token_id, cls_token_id, sep_token_id = 1, 2, 0, None, None


def small_llama(seed: int = 0) -> LanguageModel:
    """Four layers of width 256, as in the project's measurements."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return LanguageModel(model, NoTokenizer(), "small random Llama")


def with_adapter(lm: LanguageModel) -> LanguageModel:
    """An adapter whose B is not zero, as after a warm-up."""
    wrapped = attach_lora(lm, ["q_proj", "k_proj", "v_proj", "o_proj"], 8, 16, 0.0, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora_parameters(wrapped).items():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return wrapped


def items(n: int, seed: int, longest: int = 128) -> list[Encoded]:
    """Prompts of a third of ``longest`` to ``longest`` tokens, labels of 2 to 6."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, VOCABULARY, rng.integers(low, high + 1)).tolist())

    return [Encoded((1, *tokens(longest // 3, longest - 8)), ((*tokens(1, 5), 2),)) for _ in range(n)]
