"""``engine=openai``: any OpenAI-compatible endpoint, a vLLM server with experts or a hosted model without.

A hosted model is asked without experts: the prompt with its demonstrations is all it gets, and it writes its answers,
because such endpoints do not tell the log-probabilities of given texts. A vLLM server with experts answers both ways,
as ``engine=vllm`` does. Every answer is kept in a file as soon as it comes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import load_experts
from meld.engine.answer_log import AnswerLog
from meld.engine.asking import Asker, Job
from meld.engine.base import check_combination
from meld.engine.endpoint import Endpoint, is_local
from meld.engine.mixture_files import MixtureFolder
from meld.engine.served import ServedMixtures, check_served
from meld.errors import UserError
from meld.mixer.combination import CAT, Combination
from meld.types import Prompt

Adapters = Literal["none", "served", "loaded"]


class OpenAIEngine:
    """Asks an endpoint.

    Args:
        model: Name of the (base) model at the endpoint.
        url: The endpoint's root, up to and including ``/v1``.
        adapters: ``none``: a hosted model, which answers without experts. ``served``: a vLLM server that has every
            expert under its own name (``--lora-modules NAME=FOLDER``); one expert answers a question. ``loaded``: a
            vLLM server on the same files that loads what it is told (``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``);
            mixtures are written for it.
        chat: Whether a hosted model is asked as in a chat (``/chat/completions``) or goes on with a text
            (``/completions``).
        body: Further fields of a hosted model's requests; null takes a field out. Newer hosted models want
            ``{max_tokens: null, max_completion_tokens: 64}``.
        key_env: Environment variable that holds the key; the key has no other place.
        price_in: Price of a million tokens of questions.
        price_out: Price of a million tokens of answers.
        max_cost: What all answers in the file may cost together. Wanted for every endpoint on another machine.
        answers: Folder in which answers are kept; a question that has one there is not asked again.
        concurrency: Requests under way at a time.
        requests_per_minute: Rate limit; None for none.
        retries: How often a request is repeated after an error that may pass.
        timeout: Seconds until a request counts as failed.
        max_mixtures: Mixtures that a server holds at a time (``adapters=loaded``).
        cache: Folder for mixtures, which the server can read; None for the system's temporary one.

    Raises:
        ValueError: For an argument out of its range, or a URL that holds a password.
    """

    MIXERS: ClassVar[frozenset[str]] = frozenset({"cat", "logits", "top1"})
    REFUSES_ALONE: ClassVar[Mapping[str, str]] = {
        "relative": "a hosted model writes its answers, and nothing is compared with a base model's scores",
        "evidence_prior": "a hosted model writes its answers, and there are no scores to add a prior to",
    }
    """Arguments of a backbone that mean nothing where a model answers without experts, and why."""

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset(
        {
            "url",
            "key_env",
            "price_in",
            "price_out",
            "max_cost",
            "answers",
            "concurrency",
            "requests_per_minute",
            "retries",
            "timeout",
            "max_mixtures",
            "cache",
        }
    )

    def __init__(
        self,
        model: str,
        url: str = "http://127.0.0.1:8000/v1",
        adapters: Adapters = "none",
        chat: bool = True,
        body: Mapping[str, Any] | None = None,
        key_env: str = "OPENAI_API_KEY",
        price_in: float | None = None,
        price_out: float | None = None,
        max_cost: float | None = None,
        answers: str = "outputs/answers",
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        retries: int = 6,
        timeout: float = 120.0,
        max_mixtures: int = 64,
        cache: str | None = None,
    ) -> None:
        if adapters not in ("none", "served", "loaded"):
            raise ValueError(f"adapters is {adapters!r}; known are none, served and loaded")
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ValueError(f"url is {url!r}, and starts with http:// or https://")
        if split.username or split.password:
            raise ValueError("url holds a name or password; keys belong into the environment (key_env)")
        if concurrency < 1 or max_mixtures < 1 or retries < 0 or timeout <= 0:
            raise ValueError("concurrency and max_mixtures start at 1, retries at 0, and timeout is above 0")
        self.model = model
        self.url = url
        self.adapters = adapters
        self.chat = chat
        self.body = dict(body or {})
        self.key_env = key_env
        self.price_in = price_in
        self.price_out = price_out
        self.max_cost = max_cost
        self.answers = Path(answers)
        self.concurrency = concurrency
        self.requests_per_minute = requests_per_minute
        self.retries = retries
        self.timeout = timeout
        self.max_mixtures = max_mixtures
        self.cache = cache

    @property
    def alone(self) -> bool:
        """Whether a model answers without experts."""
        return self.adapters == "none"

    def open_alone(self, lm: LanguageModel) -> HostedModel:
        """Ask the model without experts.

        Raises:
            UserError: If there is no key or price for an endpoint on another machine.
        """
        if not is_local(self.url) and None in (self.price_in, self.price_out, self.max_cost):
            raise UserError(
                f"It has to be known what {self.model} may cost before anything is asked.",
                where="engine",
                fix="engine.price_in=... engine.price_out=... (for a million tokens) engine.max_cost=... "
                "(in the same currency; .inf for no limit)",
            )
        return HostedModel(lm, self._asker(), self.model, self.chat, self.body)

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path], combination: Combination = CAT) -> ServedMixtures:
        """Ask a vLLM server for experts.

        Raises:
            UserError: If the adapters cannot be mixed (:func:`meld.engine.adapters.load_experts`), or not in this way;
                if the server does not answer or does not have them; or if this is a hosted model without experts.
        """
        check_combination("openai", frozenset({"cat"}), combination)
        if self.alone:
            raise UserError(
                f"engine=openai with adapters=none asks {self.model} without experts.",
                where="engine.adapters",
                fix="engine.adapters=served or loaded for a vLLM server, or engine=stacked",
            )
        experts = load_experts(lm, adapters)
        asker = self._asker()
        if self.adapters == "served":
            check_served(asker.endpoint, [self.model, *experts])
            return ServedMixtures(lm, asker, self.model, experts, None)
        folder = MixtureFolder(self.cache, self.max_mixtures, lm.name)
        return ServedMixtures(lm, asker, self.model, experts, folder)

    def _asker(self) -> Asker:
        endpoint = Endpoint(self.url, self.key_env, self.timeout, self.retries, self.requests_per_minute)
        name = re.sub(r"[^\w.-]+", "_", f"{urlsplit(self.url).netloc}_{self.model}")[-100:]
        cap = None if self.max_cost is None or math.isinf(self.max_cost) else self.max_cost
        log = AnswerLog(self.answers / f"{name}.jsonl", self.price_in or 0.0, self.price_out or 0.0, cap)
        return Asker(endpoint, log, self.concurrency)


class HostedModel:
    """A model that writes answers and has no experts.

    Args:
        lm: The pipeline's language model, for the length of prompts.
        asker: Sends requests.
        model: Name at the endpoint.
        chat: Whether it is asked as in a chat.
        body: Further fields.
    """

    writes_only = True

    def __init__(self, lm: LanguageModel, asker: Asker, model: str, chat: bool, body: Mapping[str, Any]) -> None:
        self.experts: tuple[str, ...] = ()
        self.lm = lm
        self.rows_at_once = 64
        self._asker = asker
        self._model = model
        self._chat = chat
        self._body = body

    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Never asked: endpoints of hosted models do not tell the log-probabilities of given texts."""
        raise UserError(
            f"{self._model} cannot rank answers; it writes them.", where="engine", fix="backbone.decode=generate"
        )

    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts as the endpoint writes them at temperature 0."""
        return [str(reply["text"]) for reply in self._asker.run([self._job(p, max_new_tokens) for p in prompts])]

    def _job(self, prompt: Prompt, max_new_tokens: int) -> Job:
        asked: dict[str, Any] = {"model": self._model, "max_tokens": max_new_tokens, "temperature": 0.0, "seed": 0}
        if self._chat:
            asked["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            asked["prompt"] = prompt.text
        body = {name: value for name, value in {**asked, **self._body}.items() if value is not None}
        size = len(prompt.text.encode("utf-8")) / 3  # no common text has more tokens than that
        return Job("/chat/completions" if self._chat else "/completions", body, "", size, max_new_tokens)

    def close(self) -> None:
        """Close the connections."""
        self._asker.endpoint.close()
