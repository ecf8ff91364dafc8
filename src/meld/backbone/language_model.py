"""A causal language model that ranks given answers or writes its own, without building logits over the prompt.

All answers to one prompt are scored in one pass: prompt and answers share a sequence, every answer token sees the
prompt and the earlier tokens of its own answer only, and answers restart at the same position. The result equals
scoring each (prompt, answer) pair alone, at the cost of reading the prompt once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from meld.types import Prompt

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of the answers to score.

    Attributes:
        prompt: Token ids of the prompt, beginning-of-sequence included where the tokenizer has one.
        options: For each answer its token ids, end-of-sequence included.
        offsets: What is added to each answer's log-probability before answers are compared; empty for nothing.
    """

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    offsets: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        """Tokens that one pass reads."""
        return len(self.prompt) + sum(map(len, self.options))


class Recipe(Protocol):
    """What loads a model's weights; :class:`meld.backbone.huggingface.HuggingFaceBackbone` explains the options."""

    path: str
    revision: str | None
    dtype: str
    device: str

    def configuration(self) -> Any:
        """The model's configuration."""

    def skeleton(self) -> Any:
        """The model without weights."""

    def load_model(self) -> Any:
        """The model."""


class LanguageModel:
    """A frozen model with its tokenizer.

    Args:
        model: A Hugging Face causal language model (or the same wrapped by PEFT); None to load what ``recipe`` makes
            when it is first asked for.
        tokenizer: Its tokenizer.
        name: Portable name of the weights, recorded in adapters.
        relative: Whether answers are compared by how much experts raise their log-probability over the base model's.
        recipe: What the weights were or will be loaded by; None where nobody can load them again.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        relative: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        if model is None and recipe is None:
            raise ValueError("a language model needs its weights, or a recipe to load them by")
        self._model = model
        self._give_back: Callable[[], None] | None = None
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.name = name
        self.relative = relative
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise ValueError(f"the tokenizer of {name} has neither an end-of-sequence nor a separator token")
        self.end_id: int = int(end)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        self.start_ids: tuple[int, ...] = () if start is None else (int(start),)
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad is None else int(pad)
        config = getattr(model, "config", None) if model is not None or recipe is None else recipe.configuration()
        window = getattr(config, "max_position_embeddings", None)
        self.window: int | None = None if window is None else int(window)
        self._cut_is_said = False

    @property
    def model(self) -> Any:
        """The model, loaded now if it is not in memory.

        Raises:
            UserError: If it has to be loaded and cannot be.
        """
        if self._model is None:
            give_back, self._give_back = self._give_back, None
            if give_back is not None:
                give_back()
            assert self.recipe is not None
            self._model = self.recipe.load_model()
        return self._model

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The model's modules by name: of the model itself if it is in memory, else of one without weights."""
        assert self._model is not None or self.recipe is not None
        model = self._model if self._model is not None or self.recipe is None else self.recipe.skeleton()
        return dict(model.named_modules())

    def lend_memory(self, give_back: Callable[[], None]) -> None:
        """Drop weights that can be loaded again, for a program that loads its own.

        Args:
            give_back: Frees what that program holds; called before the weights are loaded again.
        """
        if self.recipe is None:
            return
        self._model = None
        self._give_back = give_back
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def count(self, text: str) -> int:
        """Number of tokens of a text, without special tokens."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode(self, prompt: Prompt, options: Sequence[str] | None = None) -> Encoded:
        """Tokenise a prompt and its answers.

        Prompt and answers are tokenised apart, in training as in inference, so that both see the same tokens at the
        seam. An answer that would leave the model's window is cut, which is logged once.

        Args:
            prompt: The rendered question.
            options: Answers to score; the prompt's own options, with their priors, by default.
        """
        answers = list(prompt.options or ()) if options is None else list(options)
        texts = [prompt.text, *(prompt.answer_text(answer) for answer in answers)]
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        asked = (*self.start_ids, *ids[0])
        return Encoded(
            prompt=asked,
            options=tuple(self._within(len(asked), (*answer, self.end_id), prompt.query_id) for answer in ids[1:]),
            offsets=prompt.log_prior if options is None else (),
        )

    def _within(self, n_prompt: int, answer: tuple[int, ...], query_id: str) -> tuple[int, ...]:
        """An answer that fits into the model's window behind its prompt: a longer one is compared by its beginning."""
        room = len(answer) if self.window is None else max(1, self.window - n_prompt)
        if len(answer) > room and not self._cut_is_said:
            self._cut_is_said = True
            _LOG.warning(
                "answers longer than the %s positions of %s are compared by their beginnings, the first for %s",
                self.window,
                self.name,
                query_id,
            )
        return answer[:room]

    def option_log_probs(self, batch: Sequence[Encoded]) -> list[Tensor]:
        """Total log-probability of each complete answer, its end included (method section 2, Inference).

        Differentiable; the caller decides about ``no_grad``.

        Args:
            batch: Encoded prompts with at least one option each.

        Returns:
            For each prompt a tensor of shape (n_options,).
        """
        # An answer's last token is predicted and predicts nothing itself, so it is never read.
        read = [[option[:-1] for option in item.options] for item in batch]
        width = max(len(item.prompt) for item in batch)
        tail = max(sum(map(len, options)) for options in read)
        size = (len(batch), width + tail)
        ids = torch.full(size, self.pad_id, dtype=torch.long)
        positions = torch.zeros(size, dtype=torch.long)
        visible = torch.zeros((len(batch), width + tail, width + tail), dtype=torch.bool)
        causal = torch.ones((width + tail, width + tail), dtype=torch.bool).tril()
        for row, (item, options) in enumerate(zip(batch, read, strict=True)):
            n_prompt = len(item.prompt)
            start = width - n_prompt
            ids[row, start:width] = torch.tensor(item.prompt)
            positions[row, start:width] = torch.arange(n_prompt)
            visible[row, start:width, start:width] = causal[:n_prompt, :n_prompt]
            at = width
            for option in options:
                stop = at + len(option)
                ids[row, at:stop] = torch.tensor(option)
                positions[row, at:stop] = torch.arange(n_prompt, n_prompt + len(option))
                visible[row, at:stop, start:width] = True
                visible[row, at:stop, at:stop] = causal[: len(option), : len(option)]
                at = stop
        # A padding position that sees nothing would turn into NaN; it sees itself, and nobody reads it.
        visible |= torch.eye(width + tail, dtype=torch.bool)
        logits = self._tail_logits(ids, positions, visible, keep=tail + 1)
        return [self._gather(logits[row], item) for row, item in enumerate(batch)]

    def _tail_logits(self, ids: Tensor, positions: Tensor, visible: Tensor, keep: int) -> Tensor:
        """Logits of the last ``keep`` positions only, shape (batch, keep, vocabulary)."""
        device = self.device
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask[:, None].to(device),
            position_ids=positions.to(device),
            use_cache=False,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits

    @staticmethod
    def _gather(logits: Tensor, item: Encoded) -> Tensor:
        """Sum each option's token log-probabilities.

        Args:
            logits: Shape (1 + tail, vocabulary); row 0 belongs to the last prompt token, row 1 + i to answer token i,
                the last token of every answer left out.
            item: What the rows mean.
        """
        sources: list[int] = []
        targets: list[int] = []
        owner: list[int] = []
        at = 1
        for index, option in enumerate(item.options):
            sources += [0, *range(at, at + len(option) - 1)]
            targets += option
            owner += [index] * len(option)
            at += len(option) - 1
        device = logits.device
        chosen = logits[torch.tensor(sources, device=device)].float()
        token = torch.tensor(targets, device=device)
        log_probs = chosen.gather(1, token[:, None])[:, 0] - chosen.logsumexp(dim=1)
        total = torch.zeros(len(item.options), device=device)
        return total.index_add(0, torch.tensor(owner, device=device), log_probs)

    @torch.no_grad()
    def over_base(self, items: Sequence[Encoded], max_tokens: int) -> list[Encoded]:
        """The same items with the base model's own log-probabilities subtracted from their offsets.

        Adding an answer's log-probability under an expert then gives its log-ratio to the base model: what the expert
        has learnt about it, as the implicit reward of DPO (Rafailov et al., 2023). To be called while the model carries
        no trained adapter.

        Args:
            items: Encoded prompts with at least one option each.
            max_tokens: Token budget of a batch.
        """
        out = list(items)
        for batch in batches_by_length([item.length for item in items], max_tokens):
            for index, scores in zip(batch, self.option_log_probs([items[i] for i in batch]), strict=True):
                item = items[index]
                prior = item.offsets or (0.0,) * len(item.options)
                base = tuple(p - float(s) for p, s in zip(prior, scores, strict=True))
                out[index] = replace(item, offsets=base)
        return out

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Write answers greedily.

        Args:
            prompts: Rendered questions; left-padded into one batch.
            max_new_tokens: Upper limit of the answer's length.

        Returns:
            The decoded text after each prompt, special tokens removed.
        """
        encoded = [self.encode(prompt, ()).prompt for prompt in prompts]
        width = max(map(len, encoded))
        ids = torch.full((len(encoded), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        written = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.end_id,
            pad_token_id=self.pad_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return texts


def batches_by_length(lengths: Sequence[int], max_tokens: int, max_rows: int = 64) -> list[list[int]]:
    """Group items of similar length so that little is padded and no batch is larger than a token budget.

    Args:
        lengths: Tokens of each item.
        max_tokens: Upper limit of (longest item) x (rows) of a batch; a single longer item is a batch of its own.
        max_rows: Upper limit of rows.

    Returns:
        Lists of indices that together are a permutation of ``range(len(lengths))``, longest first (so that a memory
        problem shows at once).
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        current = batches[-1] if batches else None
        if current and len(current) < max_rows and (len(current) + 1) * lengths[current[0]] <= max_tokens:
            current.append(index)
        else:
            batches.append([index])
    return batches
