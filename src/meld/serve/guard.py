"""The door: who may come in, how many at a time, and how large. Nothing behind it sees a request that it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meld.errors import UserError
from meld.serve.limits import TOKEN, Limits, Token, host_of, is_loopback
from meld.serve.metrics import Metrics

_LOG = logging.getLogger("meld.serve")

OPEN = ("/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no token, and are answered however busy the server is: they tell nothing about the bundle."""

LEFT = 499
"""The status under which requests are counted whose client went before the answer."""

LONGEST = 2_000
"""Characters of an error's parts: a hostile request must not be sent back at length."""


class Json(Response):
    """JSON in UTF-8. Halves of surrogate pairs, which clients may send and errors then quote, are escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of a JSON value."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def refusal(code: int, error: UserError, headers: dict[str, str] | None = None) -> Json:
    """An error as every error is sent: ``{"error": {"what", "where", "fix"}}``."""
    parts = {name: _shortened(getattr(error, name)) for name in ("what", "where", "fix")}
    return Json({"error": parts}, code, headers)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class Guard:
    """ASGI middleware: host, token, places, size and time of bodies; counts every request.

    Args:
        app: What is behind it.
        limits: The limits.
        token: The token that clients must bring; None for none.
        local_only: Whether only this machine is served, so that a request for another host's name (a page of the web
            whose name was made to point here) is refused.
        metrics: Where to count.
        routes: Paths that metrics may name.
        patience: Says after how many seconds to come again.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        token: Token | None,
        local_only: bool,
        metrics: Metrics,
        routes: Iterable[str],
        patience: Any,
    ) -> None:
        self.app, self.limits, self.token, self.local_only = app, limits, token, local_only
        self.metrics, self.routes, self.patience = metrics, frozenset(routes), patience
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"
        code, started = 0, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        except Exception:
            # What happened is in the server's own log, not in the answer.
            _LOG.exception("A fault in answering %s", route)
            if not code:
                error = UserError("The server failed to answer.", fix="its log says why")
                await refusal(500, error)(scope, receive, counted)
        finally:
            self.metrics.requests.labels(route, str(code or LEFT)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, send)
        elif scope["path"] in OPEN:
            await self.app(scope, _nothing_more(b""), send)
        elif self.active >= self.limits.requests:
            error = UserError("The server has all it can take.", where="queue", fix="come again later")
            await refusal(503, error, {"retry-after": str(self.patience())})(scope, receive, send)
        else:
            self.active += 1
            self.metrics.active.set(self.active)
            try:
                await self._read_and_serve(scope, receive, send)
            finally:
                self.active -= 1
                self.metrics.active.set(self.active)

    def _refused(self, scope: Scope) -> Json | None:
        headers = dict(scope["headers"])
        host = host_of(headers.get(b"host", b"").decode("latin-1"))
        if self.local_only and host and not is_loopback(host):
            return refusal(421, UserError(f"This is not {host}.", where="Host", fix="ask for 127.0.0.1 or localhost"))
        if self.token is None or scope["path"] in OPEN or self.token.admits(headers.get(b"authorization")):
            return None
        error = UserError("The token is missing or wrong.", where="Authorization", fix=f"Bearer, as in {TOKEN}")
        return refusal(401, error, {"www-authenticate": "Bearer"})

    async def _read_and_serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self.limits.seconds)
        except asyncio.TimeoutError:
            error = UserError(
                f"The body took over {self.limits.seconds:g} s to arrive.", where="body", fix="send it whole"
            )
            await refusal(408, error, {"connection": "close"})(scope, receive, send)
            return
        if body is None:
            return
        if len(body) > self.limits.body_bytes:
            error = UserError(
                f"The body is larger than {self.limits.body_bytes} bytes.", where="body", fix="send fewer rows"
            )
            await refusal(413, error, {"connection": "close"})(scope, receive, send)
            return
        await self._serve_while_wanted(scope, body, receive, send)

    async def _serve_while_wanted(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Serve, but stop when the client goes: rows that have not begun need no answer then."""
        serving = asyncio.ensure_future(self.app(scope, _nothing_more(body), send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            serving.cancel()
            leaving.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or its beginning if it is too large; None if the client has gone."""
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told[:20]) > self.limits.body_bytes:
            return bytes(self.limits.body_bytes + 1)
        found = bytearray()
        while len(found) <= self.limits.body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            found += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(found)


async def _left(receive: Receive) -> None:
    """Wait until a client whose body is read has gone, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing_more(body: bytes) -> Receive:
    """A channel that gives a body once."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
