"""A tiny random language model with a word tokenizer, and items for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import attach_lora, lora_parameters

VOCABULARY = 64


class WordTokenizer:
    """Words to ids by their position in a growing list; just enough for LanguageModel."""

    bos_token_id = 1
    eos_token_id = 2
    pad_token_id = 0
    cls_token_id = None
    sep_token_id = None

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, texts: str | Sequence[str], **_: object) -> dict[str, list]:
        if isinstance(texts, str):
            return {"input_ids": self._one(texts)}
        return {"input_ids": [self._one(text) for text in texts]}

    def _one(self, text: str) -> list[int]:
        return [self.ids.setdefault(word, 3 + len(self.ids)) for word in text.split()]


def make_tiny_lm(seed: int = 0) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    with torch.no_grad():  # the initial weights are so small that every loss is log(64)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return LanguageModel(model, WordTokenizer(), "tiny")


def make_items(n: int, seed: int) -> list[Encoded]:
    """Random prompts of 2 to 12 tokens with labels of 1 to 4 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [Encoded((1, *tokens(1, 11)), ((*tokens(0, 3), 2), tokens(1, 2))) for _ in range(n)]


def plain_loss(lm: LanguageModel, item: Encoded) -> torch.Tensor:
    """Mean cross-entropy of the label, one item at a time, with the model's ordinary forward pass."""
    label = item.options[0]
    ids = torch.tensor([[*item.prompt, *label]])
    logits = lm.model(input_ids=ids).logits[0, len(item.prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(label))


def plain_gradient(lm: LanguageModel, item: Encoded) -> dict[str, torch.Tensor]:
    parameters = lora_parameters(lm)
    return dict(zip(parameters, torch.autograd.grad(plain_loss(lm, item), list(parameters.values())), strict=True))


@pytest.fixture
def tiny_lm() -> LanguageModel:
    return make_tiny_lm()


@pytest.fixture
def lora_lm() -> LanguageModel:
    """With an adapter whose B is not zero, so that A has gradients too; dropout would spoil any comparison left on."""
    lm = attach_lora(make_tiny_lm(), ["q_proj", "v_proj", "down_proj"], rank=4, alpha=8, dropout=0.5, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(lm).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    lm.model.train()
    return lm
