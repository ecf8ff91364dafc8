"""Experts behind a router, ready to answer: the one way from queries to predictions.

Evaluation inside a run (*infer*) and predictions on a user's own tables open the same panel: they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.engine.base import Engine, MixtureModel, TokenWiseEngine
from meld.engine.stacked import StackedEngine
from meld.metapath.base import StepRules
from meld.metapath.edits import Step, Walk, walk
from meld.mixer.combination import Combination
from meld.progress import Progress
from meld.router.arrow import ArrowRouter
from meld.router.base import Router, Routing
from meld.router.load import restrict, usage
from meld.stages.answering import Answered, answer_fully
from meld.stages.balance import Odds
from meld.stages.metapath import expert_asker, say_over
from meld.stages.paths import AskUnit, build_steps
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.types import Prediction, Query


class Mixer(Protocol):
    """Turns router weights into gates, and says what becomes of the updates of the experts that they choose."""

    mixes: str
    combination: Combination

    def gates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gates of each query, shape (n, experts)."""
        ...


@dataclass(frozen=True)
class Answers:
    """What a panel made of queries.

    Attributes:
        answers: One per query, in order, with what each was made of.
        experts: Names of the experts, the columns of the weights.
        weights: Shape (n, experts), the router's; None where every token is routed and there are none per query.
        gates: Shape (n, experts), what the mixer made of them.
    """

    answers: tuple[Answered, ...]
    experts: tuple[str, ...]
    weights: NDArray[np.float64] | None
    gates: NDArray[np.float64]

    @property
    def predictions(self) -> list[Prediction]:
        """One per query, in order."""
        return [found.prediction for found in self.answers]

    def usage(self, path: Sequence[str]) -> dict[str, Any]:
        """What ``routing.json`` of the unit says (:func:`meld.router.load.usage`)."""
        if self.weights is None:
            return {"experts": list(self.experts), "queries": len(self.answers), "path": list(path)}
        return usage(self.experts, self.weights, self.gates, path)


class Panel:
    """Experts on a base model behind a router.

    Args:
        router: Opens the trained router.
        folder: The trained router.
        adapters: Expert name to adapter folder, in the order of the router's columns, registered experts last.
        added: What the router knows about each registered expert.
        mixer: Makes gates from weights.
        engine: Runs mixtures.
        lm: The frozen base model.
        exclude: Experts that answer nothing.

    Raises:
        UserError: If the adapters cannot be opened on this base.
    """

    def __init__(
        self,
        router: Router,
        folder: Path,
        adapters: Mapping[str, Path],
        added: Sequence[Path],
        mixer: Mixer,
        engine: Engine,
        lm: LanguageModel,
        exclude: Sequence[str] = (),
    ) -> None:
        self.mixer = mixer
        self.exclude = tuple(exclude)
        self._routing: Routing | None = None
        if isinstance(router, ArrowRouter):
            kept = {expert: place for expert, place in adapters.items() if expert not in exclude}
            assert isinstance(engine, TokenWiseEngine)  # validation refuses others
            self.experts = tuple(kept)
            self.model: MixtureModel = engine.open_token_wise(lm, kept, router.top_k, router.temperature)
        else:
            self.experts = tuple(adapters)
            self._routing = router.open(folder, self.experts[: len(adapters) - len(added)], added)
            self.model = engine.open(lm, adapters, mixer.combination)

    def answer(
        self,
        questions: Questions,
        texts: Sequence[str],
        queries: Sequence[Query],
        backbone: HuggingFaceBackbone,
        progress: Progress,
        odds: Odds | None = None,
    ) -> Answers:
        """Route and answer queries of one unit.

        Args:
            questions: The unit's questions.
            texts: What the router reads of each query: the query as it was asked. What a path attaches is about the
                answer, not about the kind of question.
            queries: The queries, with what the unit's path attached.
            backbone: For batch size and answer length.
            progress: The display.
            odds: What is added to the log-odds of an answer (:func:`meld.stages.balance.load_odds`).
        """
        name = questions.unit.name
        weights: NDArray[np.float64] | None = None
        if self._routing is None:
            # Which expert a token asked is known layer by layer only, so that an answer names none.
            gates = np.full((len(queries), len(self.experts)), 1.0 / len(self.experts))
            mixes = "weights"
        else:
            found = self._routing.weights([name] * len(queries), texts, progress)
            weights = restrict(found, self.experts, self.exclude)
            gates = self.mixer.gates(weights) if len(queries) else np.zeros((0, len(self.experts)))
            mixes = self.mixer.mixes
        answers = answer_fully(questions, queries, self.model, gates, backbone, progress, mixes, f"answer {name}", odds)
        if weights is None:
            answers = [replace(a, prediction=replace(a.prediction, experts=(), weights=())) for a in answers]
        return Answers(tuple(answers), self.experts, weights, gates)

    def close(self) -> None:
        """Leave the base model as it was."""
        self.model.close()


def follow_path(
    path: Sequence[str],
    unit: Unit,
    others: Mapping[str, Unit],
    questions: Mapping[str, Questions],
    adapters: Mapping[str, Path],
    queries: Sequence[Query],
    rules: StepRules,
    backbone: HuggingFaceBackbone,
    experts: Callable[[Mapping[str, Path]], AbstractContextManager[MixtureModel]],
    progress: Progress,
    ready: Mapping[str, Step] | None = None,
) -> Walk:
    """Apply a unit's fixed path to its queries, with the experts that the search used.

    Args:
        path: Names of the units that are the steps.
        unit: The unit whose path it is.
        others: The units that are steps.
        questions: Questions of those that a language model answers.
        adapters: Their initial adapters, which the search used.
        queries: What is augmented.
        rules: How steps act.
        backbone: For batch size and answer length.
        experts: Opens these adapters, for a block (:func:`step_experts`); called only if a step asks.
        progress: The display.
        ready: Steps that were built before.

    Returns:
        One query per query, in order, with what changed.
    """
    known = dict(ready or {})
    needed = [name for name in others if name in path and name not in known]
    with ExitStack() as held:
        ask: AskUnit | None = None
        if any(name in adapters for name in needed):
            ask = expert_asker(questions, held.enter_context(experts(adapters)), backbone, progress)
        steps = {**known, **build_steps(needed, unit, others, ask, rules)}
        walked = walk(path, steps, queries, rules.chase)
        for name in needed:
            say_over(unit.name, name, steps[name], rules, progress)
        return walked


@contextmanager
def step_experts(lm: LanguageModel, adapters: Mapping[str, Path]) -> Iterator[MixtureModel]:
    """The experts that steps ask, for a block, on a base model that has no others then."""
    model = StackedEngine().open(lm, adapters)
    try:
        yield model
    finally:
        model.close()
