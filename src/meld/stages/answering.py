"""Asking experts: from queries and gates to answers. Meta-path, routing, inference and ``predict`` use this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.engine.base import MixtureModel, Reply, WritesOnly, ask
from meld.progress import Progress
from meld.retriever.balance import reweigh
from meld.stages.balance import Odds
from meld.stages.questions import Questions
from meld.task.base import Task
from meld.text import fold
from meld.types import Prediction, Prompt, Query

_KEPT_OPTIONS = 50


@dataclass(frozen=True)
class Answered:
    """A prediction with what it was made of.

    Attributes:
        prediction: The answer.
        prompt: What was asked.
        probabilities: Of the prediction's options, in their order; empty where the answer was written.
        evidence: What retrieval alone gives these options, in their order; empty where it was not asked.
    """

    prediction: Prediction
    prompt: Prompt
    probabilities: tuple[float, ...] = ()
    evidence: tuple[float, ...] = ()


def answer(
    questions: Questions,
    queries: Sequence[Query],
    model: MixtureModel,
    gates: NDArray[np.float64],
    backbone: HuggingFaceBackbone,
    progress: Progress,
    mixes: str = "weights",
    what: str = "answer",
) -> list[Prediction]:
    """Answer a unit's queries, as :func:`answer_fully` does, one prediction per query, in order."""
    return [a.prediction for a in answer_fully(questions, queries, model, gates, backbone, progress, mixes, what)]


def answer_fully(
    questions: Questions,
    queries: Sequence[Query],
    model: MixtureModel,
    gates: NDArray[np.float64],
    backbone: HuggingFaceBackbone,
    progress: Progress,
    mixes: str = "weights",
    what: str = "answer",
    odds: Odds | None = None,
) -> list[Answered]:
    """Answer a unit's queries, each under its own mixture of experts.

    Args:
        questions: Writes the prompts.
        queries: What is asked.
        model: Base model with experts.
        gates: Shape (n, experts), rows sum to one.
        backbone: For batch size and answer length.
        progress: The display.
        mixes: ``weights``: one pass under the mixed update. ``answers``: every chosen expert answers alone and the
            answer distributions are averaged with the gates.
        what: Name of the step for the display.
        odds: What is added to the log-odds of options that are ranked.

    Returns:
        One answer per query, in order.
    """
    prompts = questions.prompts(queries)
    if isinstance(model, WritesOnly):
        prompts = [replace(prompt, options=None, log_prior=()) for prompt in prompts]
    answerable = [i for i, prompt in enumerate(prompts) if prompt.options is None or len(prompt.options) > 0]
    asked = [prompts[i] for i in answerable]
    chosen = gates[answerable] if answerable else gates[:0]

    def run(selected: Sequence[Prompt], rows: NDArray[np.float64]) -> list[Reply]:
        return ask(model, selected, rows, backbone.batch_tokens, backbone.max_new_tokens, progress, what)

    ranked = bool(asked) and asked[0].options is not None
    if mixes == "answers" and ranked:
        distributions = [np.zeros(len(prompt.options or ())) for prompt in asked]
        for expert in range(gates.shape[1]):
            rows = np.flatnonzero(chosen[:, expert] > 0)
            one_hot = np.zeros((len(rows), gates.shape[1]))
            one_hot[:, expert] = 1.0
            for row, reply in zip(rows, run([asked[r] for r in rows], one_hot), strict=True):
                distributions[row] += chosen[row, expert] * reply.probabilities
        texts = [""] * len(asked)
    else:
        replies = run(asked, chosen)
        distributions = [reply.probabilities for reply in replies]
        texts = [reply.text for reply in replies]
    task = questions.unit.task
    out = [Answered(_unanswered(q, model.experts, g), p) for q, g, p in zip(queries, gates, prompts, strict=True)]
    for position, prompt, probabilities, text in zip(answerable, asked, distributions, texts, strict=True):
        experts, weights = _mixture(model.experts, gates[position])
        if prompt.options is not None:
            probabilities = _with(odds, queries[position], prompt.options, probabilities)
            order = np.argsort(-probabilities, kind="stable")
            kept = [int(i) for i in order[:_KEPT_OPTIONS]]
            prediction = Prediction(
                query_id=queries[position].id,
                output=prompt.options[kept[0]],
                score=round(float(probabilities[kept[0]]), 6),
                experts=experts,
                weights=weights,
                options=tuple(prompt.options[i] for i in kept),
            )
            chances = tuple(round(float(probabilities[i]), 6) for i in kept)
            out[position] = Answered(prediction, prompt, chances, _evidence(prompt, kept))
        else:
            out[position] = Answered(_read(task, queries[position], text, experts, weights), prompt)
    return out


def _with(
    odds: Odds | None, query: Query, options: Sequence[str], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    return probabilities if odds is None else reweigh(options, probabilities, odds.of(query))


def _evidence(prompt: Prompt, kept: Sequence[int]) -> tuple[float, ...]:
    """Probabilities of some of a prompt's options by the retrieved evidence alone."""
    if not prompt.log_prior:
        return ()
    prior = np.array(prompt.log_prior)
    shares = np.exp(prior - np.logaddexp.reduce(prior))
    return tuple(round(float(shares[i]), 6) for i in kept)


def _read(task: Task, query: Query, text: str, experts: tuple[str, ...], weights: tuple[float, ...]) -> Prediction:
    value = task.parse(text)
    if value is not None and task.options is None:
        value = surface_form(value, query)
    return Prediction(
        query_id=query.id,
        output=value,
        score=0.0 if value is None else 1.0,
        status="invalid" if value is None else "ok",
        experts=experts,
        weights=weights,
        raw=text,
    )


def surface_form(value: str, query: Query) -> str:
    """Map a written value back to the form it has in the query, where a lossy tokenizer may have changed it.

    Only a value that equals a whole cell of the query up to case, accents, spaces and punctuation is replaced.
    """
    folded = fold(value)
    for entity in query.entities:
        for cell in entity.values():
            if folded and fold(cell) == folded:
                return cell
    return value


def _mixture(experts: Sequence[str], gates: NDArray[np.float64]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    order = [int(i) for i in np.argsort(-gates, kind="stable") if gates[i] > 0]
    return tuple(experts[i] for i in order), tuple(round(float(gates[i]), 6) for i in order)


def _unanswered(query: Query, experts: Sequence[str], gates: NDArray[np.float64]) -> Prediction:
    """No candidate to rank: an answer that counts as wrong, and says so."""
    names, weights = _mixture(experts, gates)
    return Prediction(query.id, None, 0.0, status="invalid", experts=names, weights=weights)


def own_gates(experts: Sequence[str], name: str, n: int) -> NDArray[np.float64]:
    """One-hot gates for an expert, shape (n, experts)."""
    gates = np.zeros((n, len(experts)))
    gates[:, list(experts).index(name)] = 1.0
    return gates
