"""Made-up experts for steps: they answer by rule, and say what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from meld.metapath.asking import Asker
from meld.types import Prediction, Query

Answer = Callable[[Query], "tuple[str | None, float]"]


class Expert:
    """Answers by a function of the question; ``asked`` keeps every question."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Query] = []

    def __call__(self, queries: Sequence[Query]) -> list[Prediction]:
        self.asked += queries
        return [Prediction(q.id, *self.answer(q), status="ok" if self.answer(q)[0] else "invalid") for q in queries]

    def asker(self, max_queries: int = 500) -> Asker:
        return Asker(self, max_queries)


@pytest.fixture
def expert() -> Callable[[Answer], Expert]:
    return Expert
