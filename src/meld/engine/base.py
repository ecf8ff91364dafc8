"""What every engine offers, and answering prompts with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel, batches_by_length
from meld.errors import UserError
from meld.mixer.combination import Combination
from meld.progress import Progress
from meld.types import Prompt


class MixtureModel(Protocol):
    """A base model with experts on it.

    Attributes:
        experts: Names of the experts, in the order of the gates' columns.
        lm: The language model, for tokenising.
    """

    experts: tuple[str, ...]
    lm: LanguageModel

    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture.

        Args:
            batch: Encoded prompts with options.
            gates: Shape (batch, experts).
        """
        ...

    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        ...

    def close(self) -> None:
        """Leave the base model as it was."""
        ...


class Engine(Protocol):
    """A way to run mixtures.

    Attributes:
        MIXERS: What it can carry out: ``NAME`` of a mixer, or the ``combination_type`` of a PEFT one. Configurations
            are checked against it before any work starts.
    """

    MIXERS: ClassVar[frozenset[str]]

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path], combination: Combination = ...) -> MixtureModel:
        """Put experts on a base model.

        Args:
            lm: The frozen base model.
            adapters: Expert name to adapter folder (PEFT layout).
            combination: What becomes of the updates of experts that answer together; their weighted sum by default.

        Raises:
            UserError: If the adapters cannot be mixed on this base (:func:`meld.engine.adapters.load_experts`), or not
                in this way.
        """
        ...


@runtime_checkable
class TokenWiseEngine(Protocol):
    """An engine that can also route every token in every layer (``router=arrow``)."""

    def open_token_wise(
        self, lm: LanguageModel, adapters: Mapping[str, Path], top_k: int, temperature: float
    ) -> MixtureModel:
        """Put experts on a base model whose layers choose among them for each token.

        Args:
            lm: The frozen base model.
            adapters: Expert name to adapter folder.
            top_k: Experts per token and layer.
            temperature: Of the softmax over the chosen experts.
        """
        ...


@runtime_checkable
class OwnBatches(Protocol):
    """A model that makes batches of its own from what it is handed over.

    Attributes:
        rows_at_once: Questions handed over at a time.
    """

    rows_at_once: int


@runtime_checkable
class WritesOnly(Protocol):
    """A model that cannot rank given answers.

    Attributes:
        writes_only: Always true.
    """

    writes_only: bool


@runtime_checkable
class AloneEngine(Protocol):
    """An engine that can ask a model without experts, as it came from its makers."""

    @property
    def alone(self) -> bool:
        """Whether it does."""
        ...

    def open_alone(self, lm: LanguageModel) -> MixtureModel:
        """Ask the model without experts.

        Args:
            lm: The pipeline's base model, which only measures the length of prompts.
        """
        ...


def asks_alone(engine: Engine | AloneEngine) -> bool:
    """Whether an engine answers without experts, so that none has to be trained."""
    return isinstance(engine, AloneEngine) and engine.alone


def check_combination(engine: str, known: frozenset[str], combination: Combination) -> None:
    """Refuse a combination that an engine cannot carry out.

    Raises:
        UserError: Naming an engine that can.
    """
    if combination.method not in known:
        raise UserError(
            f"engine={engine} cannot combine updates by {combination.method!r}, only by {', '.join(sorted(known))}.",
            where="mixer",
            fix="engine=hf, or mixer=cat",
        )


@dataclass(frozen=True)
class Reply:
    """What came back for one prompt.

    Attributes:
        log_probs: Score of each option, in the prompt's order; empty when text was written. Its total log-probability,
            over the base model's where that is wanted (``backbone.relative``), plus the prior of the evidence.
        text: What was written; empty when options were ranked.
    """

    log_probs: tuple[float, ...] = ()
    text: str = ""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax over the options, shape (n_options,)."""
        scores = np.array(self.log_probs)
        shifted = np.exp(scores - scores.max()) if len(scores) else scores
        result: NDArray[np.float64] = shifted / shifted.sum() if len(scores) else shifted
        return result


def ask(
    model: MixtureModel,
    prompts: Sequence[Prompt],
    gates: NDArray[np.float64],
    batch_tokens: int,
    max_new_tokens: int,
    progress: Progress,
    what: str = "answer",
) -> list[Reply]:
    """Answer prompts, each under its own mixture, in batches of similar length.

    Prompts with options are ranked; prompts without are answered by writing.

    Args:
        model: Base model with experts.
        prompts: Rendered questions.
        gates: Shape (n, experts).
        batch_tokens: Token budget of a batch.
        max_new_tokens: Length limit of written answers.
        progress: The display.
        what: Name of this step for the display.

    Returns:
        One reply per prompt, in order.
    """
    progress.begin(what, len(prompts))
    replies = [Reply()] * len(prompts)
    ranked = [i for i, prompt in enumerate(prompts) if prompt.options]
    encoded = {i: model.lm.encode(prompts[i]) for i in ranked}
    base = _base_scores(model, list(encoded.values()), batch_tokens) if model.lm.relative else {}
    for batch in _batches(model, [encoded[i].length for i in ranked], batch_tokens):
        rows = [ranked[i] for i in batch]
        scored = model.option_log_probs([encoded[i] for i in rows], gates[rows])
        for row, scores in zip(rows, scored, strict=True):
            item = encoded[row]
            score = scores - base.get(item, 0.0) + np.array(item.offsets or 0.0)
            replies[row] = Reply(log_probs=tuple(score.tolist()))
        progress.advance(len(rows))
    open_ended = [i for i, prompt in enumerate(prompts) if prompt.options is None]
    lengths = [model.lm.count(prompts[i].text) + max_new_tokens for i in open_ended]
    for batch in _batches(model, lengths, batch_tokens):
        rows = [open_ended[i] for i in batch]
        for row, text in zip(
            rows, model.generate([prompts[i] for i in rows], gates[rows], max_new_tokens), strict=True
        ):
            replies[row] = Reply(text=text)
        progress.advance(len(rows))
    return replies


def _batches(model: MixtureModel, lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches of similar length, or what a model that makes its own is handed over at a time."""
    if isinstance(model, OwnBatches):
        places = list(range(len(lengths)))
        return [places[at : at + model.rows_at_once] for at in range(0, len(places), model.rows_at_once)]
    return batches_by_length(lengths, batch_tokens)


def _base_scores(
    model: MixtureModel, items: Sequence[Encoded], batch_tokens: int
) -> dict[Encoded, NDArray[np.float64]]:
    """What the base model alone makes of the options of every distinct item."""
    distinct = list(dict.fromkeys(items))
    none = np.zeros((1, len(model.experts)))
    scores: dict[Encoded, NDArray[np.float64]] = {}
    for batch in _batches(model, [item.length for item in distinct], batch_tokens):
        rows = [distinct[i] for i in batch]
        scores |= dict(zip(rows, model.option_log_probs(rows, none.repeat(len(rows), axis=0)), strict=True))
    return scores


def check_base(name: str, recorded: str, lm: LanguageModel) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        UserError: If the recorded base differs.
    """
    if recorded != lm.name:
        raise UserError(
            f"The expert {name!r} was trained on {recorded}, not on {lm.name}.",
            fix=f"run with backbone.path={recorded}, or train the expert again on {lm.name}",
        )
