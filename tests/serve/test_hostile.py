"""Whatever is sent, made up from the OpenAPI document or against it: 2xx, 4xx, 503 or 504, and never a stack trace."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
"""Any JSON, also what Python writes beyond the standard: NaN, infinities and halves of surrogate pairs."""


def made_from(
    schema: dict[str, Any], document: dict[str, Any], words: st.SearchStrategy[str]
) -> st.SearchStrategy[Any]:
    """What a schema of the document admits."""
    if "$ref" in schema:
        return made_from(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, words)
    if "anyOf" in schema:
        return st.one_of([made_from(one, document, words) for one in schema["anyOf"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        parts = {name: made_from(one, document, words) for name, one in schema["properties"].items()}
        needed = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {name: part for name, part in parts.items() if name in needed},
            optional={name: part for name, part in parts.items() if name not in needed},
        )
    if kind == "object":
        return st.dictionaries(words, made_from(schema["additionalProperties"], document, words), max_size=5)
    if kind == "array":
        return st.lists(made_from(schema["items"], document, words), min_size=schema.get("minItems", 0), max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "string": words | st.text(max_size=12),
        "integer": st.integers(),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple[kind]


@st.composite
def spoiled(draw: st.DrawFn, good: st.SearchStrategy[Any]) -> Any:
    """What a schema admits, with one part of it replaced by anything."""
    value = draw(good)
    holder: Any = {"": value}
    key: Any = ""
    for _ in range(draw(st.integers(0, 4))):
        inner = holder[key]
        if isinstance(inner, dict) and inner:
            holder, key = inner, draw(st.sampled_from(sorted(inner)))
        elif isinstance(inner, list) and inner:
            holder, key = inner, draw(st.integers(0, len(inner) - 1))
    if holder.get("") is value if isinstance(holder, dict) else False:
        return draw(ANY)
    holder[key] = draw(ANY)
    return value


def _check(response: httpx.Response) -> None:
    code = response.status_code
    assert code < 300 or 400 <= code < 500 or code in {503, 504}, response.text
    for word in ("Traceback", 'File "', "site-packages", ".py"):
        assert word not in response.text
    if code >= 400:
        assert set(response.json()) == {"error"}
        assert set(response.json()["error"]) == {"what", "where", "fix"}
        assert len(response.content) < 20_000


def _attack(client: Any, words: list[str], examples: int) -> None:
    document = client.get("/openapi.json").json()
    named = st.sampled_from(words)
    bodies = {
        path: methods["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path, methods in document["paths"].items()
        if "post" in methods
    }
    assert set(bodies) == {"/v1/predict", "/v1/explain"}
    seen: set[int] = set()
    for path, schema in bodies.items():
        good = made_from(schema, document, named)

        @settings(
            deadline=None,
            max_examples=examples,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(body=st.one_of(good, spoiled(good), ANY))
        def send(path: str, body: Any) -> None:
            headers = {"content-type": "application/json"}
            response = client.post(path, content=json.dumps(body).encode(), headers=headers)
            seen.add(response.status_code)
            _check(response)

        send(path)
    # An attack that is always turned away at the door tests nothing.
    assert 422 in seen, seen


def test_made_up_bodies(echo: Any, opened: Any) -> None:
    client = opened(echo, rows=2, columns=3, cell_chars=8)
    _attack(client, [*echo.units, "di", "em", "x", "y"], 150)
    # Nor does one on a door that opens for nobody, whatever was sent before.
    for path, asked in (("predict", {"rows": [{"x": "1"}]}), ("explain", {"row": {"x": "1"}})):
        assert client.post(f"/v1/{path}", json={"unit": "a.di", **asked}).status_code == 200


@pytest.mark.slow
def test_made_up_bodies_over_a_bundle(model: Any, opened: Any) -> None:
    words = [*model.units, "di", "ed", "em"]
    for unit in model.units:
        words += [name for side in model.card(unit)["sides"] for name in side or ()]
    # Rows that fit are rare by chance; here they are made by design, with values by chance.
    client = opened(model)
    for unit in model.units:
        card = model.card(unit)
        sides = ("left_", "right_") if len(card["sides"]) == 2 else ("",)
        columns = [f"{side}{name}" for side, names in zip(sides, card["sides"], strict=True) for name in names]

        @settings(deadline=None, max_examples=8)
        @given(
            row=st.fixed_dictionaries({name: st.none() | st.integers() | st.text(max_size=30) for name in columns}),
            target=st.sampled_from([*card["targets"], "nothing", ""]) | st.none(),
        )
        def send(unit: str, row: dict[str, Any], target: str | None) -> None:
            for path, body in (("predict", {"rows": [row, row]}), ("explain", {"row": row})):
                response = client.post(f"/v1/{path}", json={"unit": unit, "target": target, **body})
                _check(response)

        send(unit)
        row = dict.fromkeys(columns, "x")
        right = {"unit": unit, "rows": [row], **({"target": card["targets"][0]} if card["targets"] else {})}
        assert client.post("/v1/predict", json=right).status_code == 200
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["PredictRequest"]

    @settings(deadline=None, max_examples=60)
    @given(
        body=st.one_of(
            made_from(schema, document, st.sampled_from(words)),
            spoiled(made_from(schema, document, st.sampled_from(words))),
        )
    )
    def more(body: Any) -> None:
        headers = {"content-type": "application/json"}
        _check(client.post("/v1/predict", content=json.dumps(body).encode(), headers=headers))

    more()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    path=st.sampled_from(["/v1/predict", "/v1/explain", "/v1/units", "/metrics", "/health", "/docs"])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#\\"), max_size=8).map(
        "/{}".format
    ),
    content=st.binary(max_size=60),
    kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data", "application/json; charset=x", ""]),
    headers=st.dictionaries(
        st.sampled_from(["accept", "content-encoding", "authorization", "range", "x-forwarded-for", "expect"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
        max_size=3,
    ),
)
def test_made_up_requests(
    shared: Any, method: str, path: str, content: bytes, kind: str, headers: dict[str, str]
) -> None:
    _check(
        shared.request(method, f"http://127.0.0.1{path}", content=content, headers={**headers, "content-type": kind})
    )


@pytest.fixture(scope="module")
def shared(echo_class: Any) -> Any:
    """One open application for many examples."""
    from starlette.testclient import TestClient

    from meld.serve.app import make_app
    from meld.serve.limits import Limits

    app = make_app(echo_class(), Limits())
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


class _Document(BaseModel):
    """What OpenAPI 3.1 asks of a document."""

    model_config = ConfigDict(extra="forbid")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, dict[str, dict[str, Any]]]
    components: dict[str, dict[str, Any]]


@pytest.mark.parametrize("token", [None, "a-token-of-some-length"])
def test_the_openapi_document_is_valid(echo: Any, opened: Any, token: str | None) -> None:
    from fastapi.openapi.models import OpenAPI

    found = opened(echo, token=token).get("/openapi.json").json()
    OpenAPI.model_validate(found)
    document = _Document.model_validate(found)
    assert document.openapi.startswith("3.1")
    names: list[str] = []
    references: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                references.add(node["$ref"])
            for part in node.values():
                walk(part)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    walk(found)
    schemas = document.components["schemas"]
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    assert {f"#/components/schemas/{name}" for name in ("PredictRequest", "Answer", "Refusal")} <= references
    for path, methods in document.paths.items():
        for method, operation in methods.items():
            names.append(operation["operationId"])
            assert operation["responses"]["200"]["description"], (path, method)
            for code in operation["responses"]:
                assert 200 <= int(code) < 600
    assert len(set(names)) == len(names)
    assert set(document.paths) == {"/v1/predict", "/v1/explain", "/v1/units", "/health", "/ready", "/metrics"}
    # Every error has the one form; FastAPI's own is not what is sent.
    for code in ("400", "413", "422", "503", "504"):
        schema = document.paths["/v1/predict"]["post"]["responses"][code]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Refusal"}
