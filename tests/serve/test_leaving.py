"""Clients over real connections that come, go too early, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
import uvicorn

from meld.serve.app import make_app
from meld.serve.batching import Job
from meld.serve.limits import Limits

BODY = {"unit": "a.di", "rows": [{"x": "1"}]}


@pytest.fixture
def over_http(echo: Any) -> Iterator[tuple[int, Any]]:
    """A server of its own thread over the model that echoes: its port and its application."""
    app = make_app(echo, Limits(batch_seconds=0.001))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        _until(lambda: server.started)
        yield listening.getsockname()[1], app
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _ask(port: int, value: str = "1") -> socket.socket:
    """Send a question and keep the connection."""
    body = json.dumps({"unit": "a.di", "rows": [{"x": value}]}).encode()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head.encode() + body)
    return connection


def _value(app: Any, name: str, **labels: str) -> float:
    return float(app.state.server.metrics.registry.get_sample_value(name, labels) or 0.0)


def test_who_goes_before_their_rows_begin_costs_no_answer(echo: Any, over_http: tuple[int, Any]) -> None:
    port, app = over_http
    echo.gate.clear()
    first = _ask(port)
    assert echo.begun.wait(20)
    gone, stays = _ask(port, "gone"), _ask(port, "stays")
    _until(lambda: app.state.server.batcher.waiting() == (2, 2))
    gone.close()
    _until(lambda: app.state.server.batcher.waiting() == (1, 1))
    echo.gate.set()
    for connection, value in ((first, "1"), (stays, "stays")):
        said = b""
        while b"predictions" not in said:
            part = connection.recv(65_536)
            assert part
            said += part
        assert f'x\\\\\\": \\\\\\"{value}'.encode().replace(b"\\\\\\", b"\\") in said
        connection.close()
    assert echo.batches == [1, 1]
    assert _value(app, "meld_dropped_total") == 1
    _until(lambda: _value(app, "meld_requests_total", route="/v1/predict", code="499") == 1)
    # An answer is there a moment before its request is at its end.
    _until(lambda: _value(app, "meld_active_requests") == 0)


def test_requests_leave_nothing_behind(echo: Any, over_http: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered, refused, failed and abandoned ones."""
    port, app = over_http
    # pytest keeps what is logged, and with it the frames of every fault.
    monkeypatch.setattr(logging.getLogger("meld.serve"), "disabled", True)

    def round_trip() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for number in range(40):
                assert client.post("/v1/predict", json=BODY).status_code == 200
                assert (
                    client.post("/v1/predict", json={"unit": f"none.{number}", "rows": [{"x": "1"}]}).status_code == 422
                )
                assert client.post("/v1/predict", json={"unit": "a.di", "rows": [{"x": "fault"}]}).status_code == 500
                assert client.get(f"/nothing/{number}").status_code == 404
                _ask(port).close()
        _until(lambda: _value(app, "meld_active_requests") == 0 and app.state.server.batcher.waiting() == (0, 0))

    def held() -> Counter[str]:
        # The model's thread keeps the last batch until the next.
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            client.post("/v1/predict", json=BODY)
        gc.collect()
        kinds = (Job, Future, asyncio.Task, asyncio.Future)
        return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))

    round_trip()
    before, series = held(), len(list(app.state.server.metrics.registry.collect()))
    round_trip()
    after = held()
    assert len(list(app.state.server.metrics.registry.collect())) == series
    # Connections that are being closed may still be held for a moment.
    assert (after - before).total() <= 4, (before, after)
