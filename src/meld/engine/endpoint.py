"""Talking to an OpenAI-compatible endpoint: the key, timeouts, retries with backoff, and a rate limit."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from meld.errors import UserError

_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""

_LONGEST_WAIT = 60.0
"""Seconds."""


class Endpoint:
    """An HTTP client for one endpoint, used by several threads at a time.

    Args:
        url: The endpoint's root, up to and including ``/v1``.
        key_env: Name of the environment variable that holds the key. The key itself is in no configuration, file, log
            or message.
        timeout: Seconds until a request counts as failed.
        retries: How often a request is repeated after an error that may pass.
        requests_per_minute: Rate limit; None for none.
        first_wait: Seconds before the first repetition; doubled each time, with jitter, up to a minute. A server's
            ``Retry-After`` is followed instead.

    Raises:
        UserError: If httpx is not installed, or there is no key for an endpoint on another machine.
    """

    def __init__(
        self,
        url: str,
        key_env: str,
        timeout: float,
        retries: int,
        requests_per_minute: float | None,
        first_wait: float = 1.0,
    ) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise UserError(
                "engine=openai needs the package httpx, which is not installed.",
                where="engine",
                fix="pip install 'meld-dp[openai]'",
            )
        import httpx

        self.url = url.rstrip("/")
        self._key = os.environ.get(key_env, "")
        if not self._key and not is_local(url):
            raise UserError(
                f"{urlsplit(url).netloc} needs a key, and the environment variable {key_env} is not set.",
                where="engine.key_env",
                fix=f"export {key_env}=..., or engine.key_env=NAME of the variable that holds it",
            )
        self._retries = retries
        self._first_wait = first_wait
        self._jitter = random.Random()
        self._interval = 0.0 if requests_per_minute is None else 60.0 / requests_per_minute
        self._lock = threading.Lock()
        self._next = 0.0
        self._stopped = threading.Event()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, trust_env=not is_local(url))

    def get(self, path: str) -> Any:
        """What the endpoint says at a path."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the endpoint answers to a body.

        Raises:
            UserError: If it refuses, or does not answer however often it is asked.
        """
        return self._send("POST", path, body)

    def stop(self) -> None:
        """Let nobody wait any longer: requests under way are finished, none is repeated or begun."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx

        problem = ""
        for attempt in range(self._retries + 1):
            self._take_turn()
            wait = min(_LONGEST_WAIT, self._first_wait * 2**attempt) * self._jitter.uniform(0.5, 1.0)
            try:
                response = self._client.request(method, f"{self.url}{path}", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return _content(response.text)
                problem = self._hidden(f"HTTP {response.status_code}: {_message(response.text)}")
                if response.status_code not in _AGAIN or "insufficient_quota" in response.text:
                    raise self._refusal(response.status_code, path, problem)
                wait = _retry_after(response.headers.get("retry-after"), wait)
                if response.status_code == 429:
                    self._hold(wait)
            if attempt < self._retries and self._stopped.wait(wait):
                break
        raise UserError(
            f"{self.url} did not answer, after {self._retries + 1} attempts.",
            where=self._hidden(f"{path}: {problem}"),
            fix="start the server or check engine.url; engine.timeout and engine.retries say how patient to be. "
            "Answers so far are kept, and the same command goes on",
        )

    def _take_turn(self) -> None:
        """Wait for this request's turn under the rate limit.

        Raises:
            UserError: If everything was stopped.
        """
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if self._stopped.wait(turn - now):
            raise UserError("Stopped before the question was asked.", fix="the same command goes on")

    def _hold(self, seconds: float) -> None:
        """Let nobody send for a while: the endpoint said that it is too much."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def _refusal(self, status: int, path: str, problem: str) -> UserError:
        fixes = {
            401: "check the key in the environment variable that engine.key_env names",
            403: "check what the key may do",
            404: "check engine.url (it ends with /v1) and engine.model",
            429: "the account's quota is used up; the same command goes on when it is not",
        }
        return UserError(
            f"{self.url} refused a request.",
            where=f"{path}: {problem}",
            fix=fixes.get(status, "check engine.model and engine.body against the endpoint's documentation"),
        )

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def is_local(url: str) -> bool:
    """Whether an endpoint is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _content(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _message(text: str) -> str:
    """What an error says, without what surrounds it."""
    found = _content(text)
    inner = found.get("error", found) if isinstance(found, dict) else found
    said = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(said)[:300]


def _retry_after(header: str | None, otherwise: float) -> float:
    try:
        return min(_LONGEST_WAIT, max(0.0, float(header or "")))
    except ValueError:
        return otherwise
