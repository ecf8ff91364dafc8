"""Asking an expert on behalf of a step: every distinct question once, and no more than a limit at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from meld.types import Entity, Prediction, Query

Ask = Callable[[Sequence[Query]], Sequence[Prediction]]
"""Answers queries with a step's own expert, in order."""


class Asker:
    """Remembers answers by question.

    Args:
        ask: Answers questions.
        max_queries: Questions of one call of :meth:`answers` that are asked at most; the first ones are.
    """

    def __init__(self, ask: Ask, max_queries: int) -> None:
        self._ask = ask
        self._max_queries = max_queries
        self._known: dict[str, Prediction] = {}
        self._over: set[str] = set()
        self.asked = 0

    @property
    def over(self) -> int:
        """Distinct questions that nobody was asked because of the limit."""
        return len(self._over)

    def answers(self, questions: Mapping[str, Query]) -> dict[str, Prediction]:
        """Answers by key; a question beyond the limit has none, and one without a usable answer neither.

        Args:
            questions: Distinct questions by a key that says everything that is asked.
        """
        new = [key for key in questions if key not in self._known]
        chosen, beyond = new[: self._max_queries], new[self._max_queries :]
        if chosen:
            self._known |= dict(zip(chosen, self._ask([questions[key] for key in chosen]), strict=True))
            self.asked += len(chosen)
        self._over = (self._over | set(beyond)) - set(chosen)
        known = ((key, self._known.get(key)) for key in questions)
        return {key: p for key, p in known if p is not None and p.status == "ok" and p.output}


def question_key(entity: Entity, target: str) -> str:
    """What identifies a question about a tuple."""
    return "\x1f".join([target, *(f"{name}\x1e{value}" for name, value in entity.items())])


def renamed(entity: Entity, match: Mapping[str, str]) -> dict[str, str]:
    """A tuple in an expert's own words: aligned attributes under the expert's names, the others as they are."""
    taken = {match.get(name, name) for name in entity if name in match}
    return {match.get(name, name): value for name, value in entity.items() if name in match or name not in taken}
