"""vLLM itself on a CPU against PEFT's ``cat``: three experts, a different mixture in every row (``make test-vllm``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.base import ask
from meld.engine.hf import HuggingFaceEngine, PeftMixtures
from meld.engine.vllm import VllmEngine, VllmMixtures
from meld.errors import UserError
from meld.progress import Silent
from meld.types import Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm runs these"
    ),
]

Fresh = Callable[..., LanguageModel]
Adapters = Callable[..., dict[str, Path]]

TARGETS = {"qwen2": ("q_proj", "v_proj", "down_proj"), "llama": ("q_proj", "k_proj", "v_proj", "o_proj")}
# One expert alone, mixtures of two and three, the base model, and a mixture that comes again.
GATES = np.array(
    [
        [1.0, 0.0, 0.0],
        [0.5, 0.3, 0.2],
        [0.0, 0.0, 0.0],
        [0.0, 0.4, 0.6],
        [0.0, 1.0, 0.0],
        [0.5, 0.3, 0.2],
        [0.25, 0.0, 0.75],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.05, 0.9, 0.05],
    ]
)
TEXTS = [
    "w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w12 w3", "w1 w2 w3", "w20 w21 w22 w23 w24", "w30 w31", "w1 w2 w3",
    "w40 w41 w42 w43", "w7 w7 w8",
]  # fmt: skip
ITEMS = [
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
    Encoded((1, *range(20, 60)), ((9, 2), (12, 2))),
    Encoded((1, 20, 21, 22), ((9, 30, 31, 32, 2), (9, 2))),
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 44), ((9, 2), (10, 2))),
    Encoded((1, 44, 45, 46), ((9, 2), (10, 2))),
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 33), ((9, 8, 7, 2), (10, 2), (50, 51, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
]


class Served:
    """A model on disk with its experts, answered by both engines.

    vLLM has two adapters in a batch at most and keeps three mixtures: everything has to take turns.
    """

    def __init__(self, architecture: str, place: Path, fresh: Fresh, adapters_in: Callable[[Path], Adapters]) -> None:
        lm = fresh(architecture, 128)  # vLLM has no attention for heads narrower than 32
        lm.model.save_pretrained(place / "base")
        lm.tokenizer.save_pretrained(place / "base")
        self.recipe = HuggingFaceBackbone(str(place / "base"), device="cpu")
        self.folders = adapters_in(place)(self.recipe.load(), TARGETS[architecture], (4, 4, 4))
        self.engine = VllmEngine(max_loras=2, max_lora_rank=12, max_mixtures=3, max_model_len=128, kv_cache_gb=1)

    def vllm(self) -> VllmMixtures:
        return self.engine.open(self.recipe.open(), self.folders)

    def peft(self) -> PeftMixtures:
        return HuggingFaceEngine().open(self.recipe.load(), self.folders)


@pytest.fixture(scope="module", params=tuple(TARGETS))
def served(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fresh: Fresh,
    adapters_in: Callable[[Path], Adapters],
) -> Iterator[Served]:
    """One vLLM for all tests of an architecture: starting one takes longer than they do."""
    made = Served(request.param, tmp_path_factory.mktemp(request.param), fresh, adapters_in)
    yield made
    made.engine.stop()


def test_a_mixed_batch_is_written_and_ranked_as_by_peft_cat(served: Served) -> None:
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    model = served.vllm()
    written = model.generate(prompts, GATES, 12)
    scores = model.option_log_probs(ITEMS, GATES)
    folder = model._folder.path
    model.close()
    assert not folder.exists()
    peft = served.peft()
    assert written == peft.generate(prompts, GATES, 12)
    for ours, theirs in zip(scores, peft.option_log_probs(ITEMS, GATES), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)
        assert ours.argmax() == theirs.argmax()
    # The same question under other experts has other answers, or nothing was tested.
    assert len({written[i] for i in (0, 4, 7)}) == 3
    assert np.abs(scores[0] - scores[4]).max() > 1e-2


def test_rows_without_experts_are_the_base_model_while_every_slot_is_taken(served: Served) -> None:
    """vLLM on a CPU would answer them with the last slot's adapter, left over from an earlier batch or not."""
    base = served.recipe.load()
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    expected, scores = base.generate(prompts, 12), [s.numpy() for s in base.option_log_probs(ITEMS)]
    one_each = np.eye(3)[np.arange(len(TEXTS)) % 3]
    half = one_each * (np.arange(len(TEXTS)) % 2)[:, None]
    model = served.vllm()
    alone = model.generate(prompts, np.zeros_like(half), 12)
    model.generate(prompts, one_each, 2)  # takes all three slots
    mixed = model.generate(prompts, half, 12)
    ranked = model.option_log_probs(ITEMS, half)
    after = model.generate(prompts, np.zeros_like(half), 12)
    model.close()
    assert alone == after == expected
    for row in range(0, len(TEXTS), 2):
        assert mixed[row] == expected[row]
        np.testing.assert_allclose(ranked[row], scores[row], atol=1e-3, rtol=0)
    assert any(mixed[row] != expected[row] for row in range(1, len(TEXTS), 2))


def test_mixtures_are_bounded_and_come_back_as_they_were(served: Served) -> None:
    prompts = [Prompt(str(i), TEXTS[2]) for i in range(7)]
    shares = np.linspace(0.05, 0.95, 7)
    gates = np.stack([shares, 1 - shares, np.zeros(7)], axis=1)
    model = served.vllm()
    first = model.generate(prompts[:1], gates[:1], 8)
    everything = model.generate(prompts, gates, 8)
    assert len(model._folder.names) == 3
    assert sorted(path.name for path in model._folder.path.iterdir()) == sorted(model._folder.names)
    assert model.generate(prompts[:1], gates[:1], 8) == first == everything[:1]
    reversed_ = model.generate(prompts, gates[::-1], 8)
    model.close()
    assert reversed_ == everything[::-1]


def test_questions_are_answered_as_by_peft_with_a_prior_and_relative_to_the_base(served: Served) -> None:
    gates = GATES[:6]
    prompts = [
        Prompt(str(i), TEXTS[i], ("w9", "w10 w11", "w3"), (-0.2, -1.5, -2.5)) if i % 3 else Prompt(str(i), TEXTS[i])
        for i in range(6)
    ]
    replies = []
    for model in (served.vllm(), served.peft()):
        model.lm.relative = True
        replies.append(ask(model, prompts, gates, 64, 6, Silent()))
        model.close()
    for ours, theirs in zip(*replies, strict=True):
        assert ours.text == theirs.text
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-3, rtol=0)
        if ours.log_probs:
            assert np.argmax(ours.log_probs) == np.argmax(theirs.log_probs)


def test_one_program_at_a_time_holds_the_weights(served: Served) -> None:
    lm = served.recipe.open()
    before = lm.model
    assert before is lm.model
    model = served.engine.open(lm, served.folders)
    assert lm._model is None
    model.generate([Prompt("0", TEXTS[0])], GATES[:1], 2)
    model.close()
    assert served.engine._running is not None
    again = lm.model  # a step of a meta-path asks for it
    assert again is not before
    assert served.engine._running is None


def test_a_question_longer_than_vllm_was_started_for_is_refused(served: Served) -> None:
    model = served.vllm()
    with pytest.raises(UserError, match="has 128 tokens, and vLLM was started for sequences below 128"):
        model.option_log_probs([Encoded((1, *[5] * 125), ((9, 2),))], GATES[:1])
    assert model.option_log_probs([Encoded((1, *[5] * 124), ((9, 2),))], GATES[:1])[0].shape == (1,)
    model.close()


def test_an_adapter_beyond_the_slots_is_refused(served: Served) -> None:
    with pytest.raises(UserError, match=r"rank 4 .* slots for rank 1"):
        VllmEngine(max_lora_rank=1).open(served.recipe.open(), served.folders)
    model = served.vllm()
    model._room = 8
    with pytest.raises(UserError, match=r"rank 12 .* slots for rank 8"):
        model.generate([Prompt("0", TEXTS[0])], np.full((1, 3), 1 / 3), 2)
    model.close()
