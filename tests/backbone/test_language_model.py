"""Scoring all answers in one pass must equal scoring each alone, whatever shares the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meld.backbone.language_model import Encoded, LanguageModel, batches_by_length
from meld.backbone.lora import label_nll
from meld.types import Prompt


def alone(lm: LanguageModel, prompt: tuple[int, ...], option: tuple[int, ...]) -> float:
    """Log-probability of an answer by an ordinary causal forward pass without padding, masks or positions."""
    ids = torch.tensor([[*prompt, *option]])
    with torch.no_grad():
        logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
    log_probs = torch.log_softmax(logits, dim=-1)
    return float(sum(log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(option)))


def ragged(vocabulary: int, seed: int = 0) -> list[Encoded]:
    """Items of all sorts: one or many options, one or many tokens, a prompt of one token, a repeated option."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (n,), generator=draw).tolist())

    same = tokens(3)
    return [
        Encoded(tokens(9), (tokens(1), tokens(4))),
        Encoded(tokens(1), (tokens(2),)),
        Encoded(tokens(5), (same, tokens(1), same, tokens(6))),
    ]


def test_options_score_as_if_alone(tiny: LanguageModel) -> None:
    items = ragged(50)
    with torch.no_grad():
        together = tiny.option_log_probs(items)
    spread = []
    for item, scores in zip(items, together, strict=True):
        expected = [alone(tiny, item.prompt, option) for option in item.options]
        spread += expected
        assert scores.tolist() == pytest.approx(expected, abs=2e-3)
    assert max(spread) - min(spread) > 1  # else the comparison could not fail


def test_options_score_as_if_alone_minilm(minilm: LanguageModel) -> None:
    prompts = [Prompt("a", "same? sony tv | sony television = ", ("match", "mismatch")), Prompt("b", "x", ("n/a",))]
    items = [minilm.encode(prompt) for prompt in prompts]
    with torch.no_grad():
        together = minilm.option_log_probs(items)
    for item, scores in zip(items, together, strict=True):
        expected = [alone(minilm, item.prompt, option) for option in item.options]
        assert scores.tolist() == pytest.approx(expected, abs=2e-3)


def test_company_changes_nothing(tiny: LanguageModel) -> None:
    items = ragged(50)
    with torch.no_grad():
        together = tiny.option_log_probs(items)
        for item, scores in zip(items, together, strict=True):
            torch.testing.assert_close(tiny.option_log_probs([item])[0], scores, atol=1e-3, rtol=1e-4)
        first = items[0]
        turned = Encoded(first.prompt, first.options[::-1])
        torch.testing.assert_close(tiny.option_log_probs([turned])[0].flip(0), together[0], atol=1e-3, rtol=1e-4)
    assert together[2][0] == pytest.approx(float(together[2][2]), abs=1e-3)


def test_label_nll_is_the_mean_over_answer_tokens(tiny: LanguageModel) -> None:
    items = ragged(50)
    with torch.no_grad():
        found = label_nll(tiny, items)
    for item, value in zip(items, found.tolist(), strict=True):
        assert value == pytest.approx(-alone(tiny, item.prompt, item.options[0]) / len(item.options[0]), abs=1e-3)


def test_encode_ends_every_answer_and_uses_the_json_form(llama: LanguageModel) -> None:
    prompt = Prompt("q", 'w1 w2 { " answer " : "', ("match", "w3 w4"), json_form=True)
    item = llama.encode(prompt)
    assert item.prompt[0] == llama.tokenizer.bos_token_id
    assert all(option[-1] == llama.end_id and option.count(llama.end_id) == 1 for option in item.options)
    assert llama.tokenizer.convert_ids_to_tokens(item.options[0]) == ["match", '"}', "</s>"]
    assert llama.tokenizer.convert_ids_to_tokens(item.options[1]) == ["w3", "w4", '"}', "</s>"]
    assert item.length == len(item.prompt) + sum(map(len, item.options))
    assert llama.encode(prompt, ()).options == ()
    assert llama.count("w1 w2 w3") == 3


def test_generation_equals_a_greedy_loop_for_every_row(tiny: LanguageModel) -> None:
    prompts = [Prompt("a", "w1 w2 w3 w4 w5"), Prompt("b", "w7"), Prompt("c", "w9 w9 match")]
    written = tiny.generate(prompts, 6)
    for prompt, text in zip(prompts, written, strict=True):
        ids = list(tiny.encode(prompt).prompt)
        new: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                token = int(tiny.model(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax())
            if token == tiny.end_id:
                break
            new.append(token)
        assert text == tiny.tokenizer.decode(new, skip_special_tokens=True)


@given(
    st.lists(st.integers(1, 300), max_size=60),
    st.integers(1, 1000),
    st.integers(1, 20),
)
def test_batches_by_length(lengths: list[int], budget: int, rows: int) -> None:
    batches = batches_by_length(lengths, budget, rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= rows
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_an_answer_beyond_the_window_is_cut_and_said(minilm: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    """A cell of a thousand words may be a candidate; a model of 512 positions reads its beginning."""
    assert minilm.window == 512
    minilm._cut_is_said = False
    long, short = "word " * 1000, "word"
    prompt = Prompt("rayyan.dc/1", "name the title", (long, short))
    encoded = minilm.encode(prompt)
    assert len(encoded.prompt) + len(encoded.options[0]) == minilm.window
    assert len(encoded.options[1]) == 2
    with torch.no_grad():
        scores = minilm.option_log_probs([encoded])[0]
    assert torch.isfinite(scores).all()
    minilm.encode(prompt)
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "rayyan.dc/1" in caplog.text
