"""Requests to an endpoint, several at a time; what comes back is kept at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from meld.engine.answer_log import AnswerLog
from meld.engine.endpoint import Endpoint
from meld.errors import UserError
from meld.store.keys import digest


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        path: Where it goes.
        body: What it says.
        identity: What else its answer depends on: the content of an adapter that the body only names.
        size: Its tokens, estimated.
        writes: Tokens that the answer may have.
        scored: Of how many tokens at the end of the prompt the log-probabilities are wanted.
    """

    path: str
    body: Mapping[str, Any] = field(repr=False)
    identity: str
    size: float
    writes: int
    scored: int = 0


class Asker:
    """Sends requests, several at a time, and keeps what comes back.

    Args:
        endpoint: Where to.
        log: What was answered.
        concurrency: Requests under way at a time.
    """

    def __init__(self, endpoint: Endpoint, log: AnswerLog, concurrency: int) -> None:
        self.endpoint = endpoint
        self.log = log
        self._concurrency = concurrency

    def run(self, jobs: Sequence[Job]) -> list[Mapping[str, Any]]:
        """The first choice of every answer, in order; what the file holds is not asked.

        Raises:
            UserError: If one fails, or the cost cap is reached. What was answered before or meanwhile is kept.
        """
        keys = [digest(job.path, dict(job.body), job.identity) for job in jobs]
        with ThreadPoolExecutor(self._concurrency) as pool:
            # The same question twice is asked once.
            futures = {key: pool.submit(self._one, key, job) for key, job in dict(zip(keys, jobs, strict=True)).items()}
            try:
                return [futures[key].result() for key in keys]
            except KeyboardInterrupt:
                self.endpoint.stop()
                raise
            finally:
                # After an error or an interrupt nothing new is begun; what is under way comes in and is kept.
                for future in futures.values():
                    future.cancel()

    def _one(self, key: str, job: Job) -> Mapping[str, Any]:
        known = self.log.get(key)
        if known is not None:
            return known
        amount = self.log.reserve(job.size, job.writes)
        try:
            reply = self.endpoint.post(job.path, job.body)
            choice = choice_of(reply, job.scored, self.endpoint.url)
            self.log.keep(key, choice, reply.get("usage") or {}, amount)
        except BaseException:
            self.log.release(amount)
            raise
        return choice


def choice_of(reply: Any, scored: int, url: str) -> Mapping[str, Any]:
    """What is needed of an answer.

    Raises:
        UserError: If it does not look like one, or lacks the log-probabilities that were asked for.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        told = choice.get("prompt_logprobs") or []
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"{url} does not answer as an OpenAI-compatible endpoint does: {str(reply)[:200]}",
            where="engine.url",
            fix="engine.url ends with /v1; engine.chat says whether the model is asked as in a chat",
        ) from error
    if scored > len(told):
        raise UserError(
            f"{url} does not tell the log-probabilities of given texts, and answers are to be ranked.",
            where="engine",
            fix="a vLLM server; or backbone.decode=generate for questions that can be answered by writing",
        )
    kept: dict[str, Any] = {"text": text or ""}
    if choice.get("token_ids") is not None:
        kept["token_ids"] = choice["token_ids"]
    if scored:
        kept["log_probs"] = told[-scored:]
    return kept
