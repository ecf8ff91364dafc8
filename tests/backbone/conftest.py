"""Tiny random language models of three architectures with a real tokenizer, and the embedded MiniLM as a decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel

WORDS = [f"w{i}" for i in range(40)] + ["match", "mismatch", '"}', '"', "}", "{", ":", ",", "answer", "?"]
ARCHITECTURES = ("llama", "mistral", "qwen2")


def make_tokenizer(architecture: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if architecture == "qwen2":
        # transformers opens a Qwen2 model's tokenizer as byte-level BPE, whatever kind was saved.
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
        found = json.loads(bpe.to_str())["model"]
        return Qwen2Tokenizer(vocab=found["vocab"], merges=[tuple(merge) for merge in found["merges"]])
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_model(architecture: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=320 if architecture == "qwen2" else 64,
        hidden_size=32,
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
                parameter.mul_(4)
    model.requires_grad_(False)
    return model.eval()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        make_model(architecture).save_pretrained(folder)
        make_tokenizer(architecture).save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> LanguageModel:
    """A fresh tiny model of each architecture."""
    return HuggingFaceBackbone(str(model_folders[request.param]), device="cpu").load()


@pytest.fixture
def llama(model_folders: dict[str, Path]) -> LanguageModel:
    return HuggingFaceBackbone(str(model_folders["llama"]), device="cpu").load()


@pytest.fixture(scope="session")
def minilm() -> LanguageModel:
    return HuggingFaceBackbone("embedded:minilm", as_decoder=True, device="cpu").load()
