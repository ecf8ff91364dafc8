"""Routes, batches, limits and the door, over a model that echoes."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.serve.app import make_app
from meld.serve.limits import Limits

TOKEN = "a-token-of-some-length"
CELLS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=5)
ROWS = st.lists(st.dictionaries(st.sampled_from("xyz"), CELLS, min_size=1), min_size=1, max_size=4)


def _said(answer: dict[str, Any]) -> Any:
    return json.loads(answer["prediction"])


def _problem(response: httpx.Response, code: int) -> dict[str, str]:
    assert response.status_code == code, response.text
    problem = response.json()["error"]
    assert set(problem) == {"what", "where", "fix"}
    assert "Traceback" not in response.text
    return problem


def test_rows_are_answered_in_order_with_experts_and_weights(echo: Any, opened: Any) -> None:
    client = opened(echo)
    rows = [{"x": "06000", "y": None}, {"x": 6000}, {"y": True, "x": 0.1}]
    found = client.post("/v1/predict", json={"task": "di", "target": "x", "rows": rows})
    assert found.status_code == 200
    predictions = found.json()["predictions"]
    assert [_said(p)["left"] for p in predictions] == [
        {"x": "06000", "y": ""},
        {"x": "6000", "y": ""},
        {"x": "0.1", "y": "True"},
    ]
    assert all(_said(p)["unit"] == "a.di" and _said(p)["target"] == "x" for p in predictions)
    assert {k: predictions[0][k] for k in ("score", "experts", "weights", "status")} == {
        "score": 0.5,
        "experts": ["e", "f"],
        "weights": [0.75, 0.25],
        "status": "ok",
    }


def test_pairs_of_two_lists(echo: Any, opened: Any) -> None:
    client = opened(echo)
    asked = {"unit": "b.em", "rows": [{"x": "1"}, {"x": "2"}], "right": [{"y": "3"}, {"y": "4"}]}
    found = client.post("/v1/predict", json=asked).json()["predictions"]
    assert [(_said(p)["left"], _said(p)["right"]) for p in found] == [
        ({"x": "1"}, {"y": "3"}),
        ({"x": "2"}, {"y": "4"}),
    ]
    assert _problem(client.post("/v1/predict", json={**asked, "right": [{"y": "3"}]}), 422)["where"] == "right"


def test_one_row_is_explained(echo: Any, opened: Any) -> None:
    found = opened(echo).post("/v1/explain", json={"unit": "a.di", "row": {"x": "1"}}).json()
    assert _said(found["answer"])["left"] == {"x": "1"}
    assert found["path"] == ["a.ed"]
    assert found["changes"][0]["after"] == "y"
    assert found["ranked"] == [{"option": "y", "probability": 1.0}]
    assert found["prompt"] == "asked"


def test_cards_and_states(echo: Any, opened: Any) -> None:
    client = opened(echo)
    assert [card["unit"] for card in client.get("/v1/units").json()["units"]] == list(echo.units)
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready"}
    client.app.state.server.batcher.close()
    assert client.get("/health").status_code == 200
    _problem(client.get("/ready"), 503)
    assert "retry-after" in client.post("/v1/predict", json={"unit": "a.di", "rows": [{"x": ""}]}).headers


@settings(deadline=None, max_examples=25)
@given(requests=st.lists(st.tuples(st.sampled_from(["a.di", "a.em"]), st.sampled_from(["x", None]), ROWS), max_size=12))
def test_concurrent_requests_are_batched_and_never_crossed(
    echo_class: Any, requests: list[tuple[str, str | None, Any]]
) -> None:
    echo = echo_class()
    app = make_app(echo, Limits(batch_rows=6, batch_seconds=0.005))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            bodies = [{"unit": unit, "target": target, "rows": rows} for unit, target, rows in requests]
            return await asyncio.gather(*(client.post("/v1/predict", json=body, timeout=30) for body in bodies))

    found = asyncio.run(ask())
    app.state.server.batcher.close()
    for (unit, target, rows), response in zip(requests, found, strict=True):
        assert response.status_code == 200
        columns = list(dict.fromkeys(name for row in rows for name in row))
        expected = [{name: "" if row.get(name) is None else str(row[name]) for name in columns} for row in rows]
        said = [_said(answer) for answer in response.json()["predictions"]]
        assert [line["left"] for line in said] == expected
        assert all(line["unit"] == unit and line["target"] == target for line in said)
    assert sum(echo.batches) == sum(len(rows) for _, _, rows in requests)
    assert len(echo.threads) <= 1


def _together(client: Any, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: client.post("/v1/predict", json=body), bodies))


def test_what_arrives_while_the_model_works_is_one_batch(echo: Any, opened: Any) -> None:
    client = opened(echo)
    echo.gate.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(client.post, "/v1/predict", json={"unit": "a.di", "rows": [{"x": "first"}]})
        assert echo.begun.wait(10)
        bodies = [{"unit": "a.di", "rows": [{"x": str(number)}]} for number in range(8)]
        others = [pool.submit(client.post, "/v1/predict", json=body) for body in bodies]
        _until(lambda: client.app.state.server.batcher.waiting() == (8, 8))
        echo.gate.set()
        found = [_said(other.result().json()["predictions"][0])["left"]["x"] for other in others]
        assert first.result().status_code == 200
    assert found == [str(number) for number in range(8)]
    assert echo.batches == [1, 8]


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_nobody_gets_an_error_that_another_caused(echo: Any, opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = opened(echo)
    values = ["1", "wrong", "2", "fault", "3"]
    echo.seconds = 0.02
    with caplog.at_level(logging.ERROR, "meld.serve"):
        found = _together(client, [{"unit": "a.di", "rows": [{"x": value}]} for value in values])
    assert [response.status_code for response in found] == [200, 422, 200, 500, 200]
    assert _problem(found[1], 422) == {"what": "A row is wrong.", "where": "row 0", "fix": "mend it"}
    # A fault is told to the operator, not to the client.
    assert "secret" not in found[3].text
    assert "a secret of the inside" in caplog.text


def test_a_row_without_a_column_is_not_filled_up_by_a_neighbour(echo: Any, opened: Any) -> None:
    client = opened(echo)
    echo.seconds = 0.02
    found = _together(client, [{"unit": "a.di", "rows": [row]} for row in ({"x": "1"}, {"x": "2", "y": "3"}) * 3])
    said = [_said(response.json()["predictions"][0])["left"] for response in found]
    assert said == [{"x": "1"}, {"x": "2", "y": "3"}] * 3


@pytest.mark.parametrize(
    ("limits", "body", "where"),
    [
        ({"rows": 2}, {"rows": [{"x": ""}] * 3}, "rows"),
        ({"rows": 2}, {"rows": [{"x": ""}], "right": [{"x": ""}] * 3}, None),
        ({"columns": 2}, {"rows": [{"x": "", "y": "", "z": ""}]}, "rows[0]"),
        ({"cell_chars": 5}, {"rows": [{"x": ""}, {"x": "abcdef"}]}, "rows[1], column 'x'"),
        ({"cell_chars": 5}, {"rows": [{"x": ["ab", "cd"]}]}, "rows[0], column 'x'"),
        ({"cell_chars": 5}, {"rows": [{"x": 10**30}]}, "rows[0], column 'x'"),
        ({"name_chars": 5}, {"rows": [{"abcdef": ""}]}, "rows[0]"),
        ({"name_chars": 5}, {"target": "abcdef", "rows": [{"x": ""}]}, "target"),
        ({"body_bytes": 100}, {"rows": [{"x": "a" * 100}]}, "body"),
    ],
)
def test_what_is_too_large_is_refused(
    echo: Any, opened: Any, limits: dict[str, int], body: dict[str, Any], where: str | None
) -> None:
    client = opened(echo, **limits)
    found = client.post("/v1/predict", json={"unit": "a.di", **body})
    if where is None:
        _problem(found, 422)
    else:
        assert _problem(found, 413)["where"] == where
    assert echo.batches == []
    assert client.post("/v1/predict", json={"unit": "a.di", "rows": [{"x": "abcde"}]}).status_code == 200


def test_a_body_without_a_length_is_counted_as_it_comes(echo: Any, opened: Any) -> None:
    client = opened(echo, body_bytes=1000)
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while taken < 10**6:
            taken += 100
            yield b" " * 100

    headers = {"content-type": "application/json"}
    assert _problem(client.post("/v1/predict", content=endless(), headers=headers), 413)["where"] == "body"


def test_a_body_that_does_not_arrive_is_not_waited_for(echo: Any) -> None:
    app = make_app(echo, Limits(seconds=0.05))
    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> Any:
            await asyncio.sleep(10)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": [], "query_string": b""}
        await app(scope, receive, send)

    started = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - started < 5
    assert sent[0]["status"] == 408
    app.state.server.batcher.close()


def test_late_answers_are_given_up_and_what_has_not_begun_never_begins(echo: Any, opened: Any) -> None:
    client = opened(echo, seconds=0.3)
    echo.gate.clear()
    found = _together(client, [{"unit": unit, "rows": [{"x": "1"}]} for unit in ("a.di", "b.em")])
    assert all(_problem(response, 504) and response.headers["retry-after"] for response in found)
    assert client.app.state.server.batcher.waiting() == (0, 0)
    echo.gate.set()
    assert client.post("/v1/predict", json={"unit": "a.di", "rows": [{"x": "2"}] * 2}).status_code == 200
    assert echo.batches == [1, 2]
    assert "meld_dropped_total 1.0" in client.get("/metrics").text


def test_a_full_server_says_when_to_come_again_and_still_says_that_it_lives(echo: Any, opened: Any) -> None:
    client = opened(echo, requests=2)
    echo.gate.clear()
    body = {"unit": "a.di", "rows": [{"x": "1"}]}
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/v1/predict", json=body) for _ in range(2)]
        _until(lambda: client.get("/health").status_code == 200 and _active(client) == 2)
        refused = client.post("/v1/predict", json=body)
        assert _problem(refused, 503)["where"] == "queue"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/ready").status_code == 200
        echo.gate.set()
        assert [response.result().status_code for response in held] == [200, 200]
    assert client.post("/v1/predict", json=body).status_code == 200


def _active(client: Any) -> float:
    return float(client.app.state.server.metrics.registry.get_sample_value("meld_active_requests") or 0.0)


def test_the_token_opens_and_never_shows(echo: Any, opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = opened(echo, token=TOKEN)
    body = {"unit": "a.di", "rows": [{"x": "fault"}]}
    with caplog.at_level(logging.DEBUG):
        for header in (None, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer é"):
            headers = {} if header is None else {"authorization": header.encode()}
            for found in (
                client.post("/v1/predict", json=body, headers=headers),
                client.post("/v1/explain", json=body, headers=headers),
                client.get("/v1/units", headers=headers),
                client.get("/metrics", headers=headers),
                client.get("/nothing", headers=headers),
            ):
                _problem(found, 401)
                assert found.headers["www-authenticate"] == "Bearer"
        assert echo.batches == []
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        for scheme in ("Bearer", "bearer"):
            assert client.get("/v1/units", headers={"authorization": f"{scheme} {TOKEN}"}).status_code == 200
        assert client.post("/v1/predict", json=body, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 500
    assert TOKEN not in caplog.text
    document = client.get("/openapi.json").json()
    assert document["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]


def test_a_local_server_answers_to_local_names_only(echo: Any, opened: Any) -> None:
    client = opened(echo, local_only=True)
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"):
        assert client.get("/v1/units", headers={"host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1"):
        _problem(client.get("/v1/units", headers={"host": host}), 421)
    # The web's forms can send text, but no JSON, to other sites.
    body = json.dumps({"unit": "a.di", "rows": [{"x": "1"}]})
    _problem(client.post("/v1/predict", content=body, headers={"content-type": "text/plain"}), 422)


def test_metrics_count_and_their_labels_stay_few(echo: Any, opened: Any) -> None:
    client = opened(echo)
    client.post("/v1/predict", json={"unit": "a.di", "rows": [{"x": "1"}] * 3})
    for number in range(5):
        client.get(f"/made/up/{number}")
        client.post("/v1/predict", json={"unit": f"made.up{number}", "rows": [{"x": "1"}]})
    text = client.get("/metrics").text
    assert 'meld_rows_total{status="ok",unit="a.di"} 3.0' in text
    assert 'meld_requests_total{code="200",route="/v1/predict"} 1.0' in text
    assert 'meld_requests_total{code="422",route="/v1/predict"} 5.0' in text
    assert 'meld_requests_total{code="404",route="other"} 5.0' in text
    assert 'meld_batch_rows_sum{unit="a.di"} 3.0' in text
    assert "made" not in text


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        (b'{"unit": "a.di", "rows": [{"x": ""}, {"name": {"a": 1}}]}', "rows.1.name", "a value is text, a number"),
        (b'{"unit": "a.di", "rows": [{"name": [["a"]]}]}', "rows.0.name", "a value is text, a number"),
        (b'{"unit": "a.di", "rows": [{"name": ["a", {}]}]}', "rows.0.name", "a value is text, a number"),
        (b'{"unit": "a.di", "rows": [{"name": NaN}]}', "rows.0.name", "NaN and infinity"),
        (b'{"unit": "a.di", "rows": [{"name": ["a", -Infinity]}]}', "rows.0.name", "NaN and infinity"),
        (b'{"unit": "a.di", "rows": [{"name": "\\ud800"}]}', "rows.0.name", "half of a surrogate pair"),
        (b'{"unit": "a.di", "rows": [{"\\ud800": ""}]}', "rows.0.\ufffd\ufffd\ufffd", "half of a surrogate pair"),
        (b'{"unit": "\\ud800", "rows": [{"x": ""}]}', "unit", "half of a surrogate pair"),
        (b'{"unit": "a.em", "rows": [{"x": ""}], "right": [{"y": {}}]}', "right.0.y", "a value is text, a number"),
    ],
)
def test_the_place_and_the_fault_of_a_value_are_plain(
    echo: Any, opened: Any, content: bytes, where: str, words: str
) -> None:
    client = opened(echo)
    problem = _problem(_send(client, content), 422)
    assert problem["where"] == where
    assert problem["what"].startswith(f"The request does not fit: {words}")
    assert _problem(_send(client, b'{"unit": "a.di", "row": {"x": {}}}', "/v1/explain"), 422)["where"] == "row.x"


def _send(client: Any, content: bytes, path: str = "/v1/predict") -> httpx.Response:
    response: httpx.Response = client.post(path, content=content, headers={"content-type": "application/json"})
    return response


@pytest.mark.parametrize(
    ("path", "content", "key"),
    [
        ("/v1/predict", b'{"unit": "a.di", "rows": [{"name": "a", "name": "b"}]}', "name"),
        ("/v1/predict", b'{"unit": "a.di", "unit": "a.em", "rows": [{"name": "a"}]}', "unit"),
        ("/v1/explain", b'{"unit": "a.di", "row": {"x": "", "name": "a", "name": "a"}}', "name"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(echo: Any, opened: Any, path: str, content: bytes, key: str) -> None:
    problem = _problem(_send(opened(echo), content, path), 422)
    assert problem["what"] == f"An object of the body names {key!r} more than once."
    assert echo.batches == []


@pytest.mark.parametrize(
    ("method", "path", "content", "code"),
    [
        ("GET", "/nothing", b"", 404),
        ("GET", "/v1/predict", b"", 405),
        ("DELETE", "/v1/units", b"", 405),
        ("POST", "/v1/predict", b"", 422),
        ("POST", "/v1/predict", b"{", 400),
        ("POST", "/v1/predict", b"\xff\xfe", 400),
        ("POST", "/v1/predict", b"[" * 100_000, 400),
        ("POST", "/v1/predict", b'{"rows": [{"x": ' + b"1" * 5000 + b"}]}", 400),
        ("POST", "/v1/predict", b"[]", 422),
        ("POST", "/v1/predict", b'{"rows": []}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"x": {"y": 1}}]}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"x": NaN}]}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"x": 1e999}]}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"x": "\\ud800"}]}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"\\ud800": ""}]}', 422),
        ("POST", "/v1/predict", b'{"\\ud800": 1, "rows": [{"x": ""}]}', 422),
        ("POST", "/v1/predict", b'{"unit": "\\ud800", "rows": [{"x": ""}]}', 422),
        ("POST", "/v1/predict", b'{"unit": "none.di", "rows": [{"x": ""}]}', 422),
        ("POST", "/v1/predict", b'{"rows": [{"x": ""}], "more": 1}', 422),
        ("POST", "/v1/explain", b'{"row": [{"x": ""}]}', 422),
    ],
)
def test_what_is_malformed_is_refused(
    echo: Any, opened: Any, method: str, path: str, content: bytes, code: int
) -> None:
    headers = {"content-type": "application/json"}
    problem = _problem(opened(echo).request(method, path, content=content, headers=headers), code)
    assert problem["what"]
    assert problem["fix"]


def test_ending_answers_what_is_in_flight(echo: Any, opened: Any) -> None:
    client = opened(echo)
    echo.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, "/v1/predict", json={"unit": "a.di", "rows": [{"x": "1"}]})
        assert echo.begun.wait(10)
        threading.Timer(0.05, echo.gate.set).start()
        client.app.state.server.batcher.close()
        assert held.result().status_code == 200


def test_the_page_loads_nothing_from_elsewhere(echo: Any, opened: Any) -> None:
    found = opened(echo).get("/docs")
    assert found.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/v1/predict" in found.text
    assert "<script" not in found.text
    assert "http://" not in found.text.replace("http://127.0.0.1", "")
