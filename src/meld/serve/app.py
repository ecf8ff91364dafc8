"""The application: routes over anything that answers like a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from meld.errors import UserError
from meld.serve.batching import Batcher, Closed
from meld.serve.guard import OPEN, Guard, Json, refusal
from meld.serve.limits import Limits, Token, TooLarge
from meld.serve.metrics import Metrics
from meld.serve.page import page
from meld.serve.questions import Form, Line, Model, answer, check_sizes, form_of, lines_of
from meld.serve.schema import (
    ExplainAnswer,
    ExplainRequest,
    Health,
    PredictAnswer,
    PredictRequest,
    Refusal,
    Units,
)

_SAID = {
    400: "The body is not JSON",
    401: "The token is missing or wrong",
    408: "The body took too long to arrive",
    413: "The body, its rows or a cell are too large",
    421: "Another host was asked for",
    422: "The rows do not fit the question, or the question the bundle",
    500: "A fault of the server",
    503: "The server is full or ends; Retry-After says when to come again",
    504: "There was no answer in time",
}
_ALL: dict[int | str, dict[str, Any]] = {code: {"model": Refusal, "description": said} for code, said in _SAID.items()}
_FEW: dict[int | str, dict[str, Any]] = {code: _ALL[code] for code in (401, 421, 503)}


class _Twice(FastAPIHTTPException):
    """A key that an object of a body has twice. FastAPI lets no other exception out of the parsing of a body."""

    def __init__(self, key: str) -> None:
        super().__init__(422, key)


class _Strict(Request):
    """A request whose JSON objects have every key once; Python's parser alone would keep the last."""

    async def json(self) -> Any:
        """The parsed body."""
        if not hasattr(self, "_json"):
            self._json = json.loads(await self.body(), object_pairs_hook=_once)
        return self._json


class _Route(APIRoute):
    """A route that reads strict requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_Strict(request.scope, request.receive))

        return strictly


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


class Server:
    """What the routes share: the model's thread, limits and metrics.

    Args:
        model: The model; only the thread asks it, after its cards are read here.
        limits: The limits.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self.limits, self.metrics = limits, Metrics()
        self.units = tuple(model.units)
        self.cards = [model.card(unit) for unit in self.units]
        self.batcher: Batcher[Form, Line, dict[str, Any]] = Batcher(
            lambda form, lines: answer(model, form, lines),
            limits.batch_rows,
            limits.batch_seconds,
            self._observe,
            lambda form: form.lone,
        )
        self.metrics.watch(self.batcher.waiting)

    def _observe(self, form: Form, requests: int, rows: int, seconds: float) -> None:
        unit = self._label(form)
        self.metrics.batch_requests.labels(unit).observe(requests)
        self.metrics.batch_rows.labels(unit).observe(rows)
        self.metrics.batch_seconds.labels(unit).observe(seconds)

    def _label(self, form: Form) -> str:
        return form.unit if form.unit in self.units else "other"

    async def ask(self, asked: PredictRequest | ExplainRequest) -> list[dict[str, Any]]:
        """Answers to a request's rows, in order.

        Raises:
            UserError: If the rows do not fit.
            TimeoutError: If there is no answer in time; rows that have not begun are forgotten.
            Closed: If the server ends.
        """
        check_sizes(asked, self.limits)
        form = form_of(asked, self.units)
        job = self.batcher.submit(form, lines_of(asked, form))
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(job.future), self.limits.seconds)
        except asyncio.CancelledError:
            if self.batcher.alive:
                raise
            raise Closed from None
        finally:
            if self.batcher.drop(job):
                self.metrics.dropped.inc()
        for line in found:
            self.metrics.rows.labels(self._label(form), line.get("status", "explained")).inc()
        return found


def make_app(model: Model, limits: Limits, token: Token | None = None, local_only: bool = False) -> FastAPI:
    """The ASGI application.

    Args:
        model: What answers.
        limits: What clients may ask for.
        token: What they must bring, if anything.
        local_only: Refuse requests for other hosts' names than this machine's own.
    """
    server = Server(model, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.batcher.close, limits.seconds)

    app = FastAPI(
        title="MELD",
        description="Rows in, answers out, with the experts that gave them.",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = server
    app.router.route_class = _Route
    if token is not None:
        _say_that_a_token_is_needed(app)
    _add_questions(app, server)
    _add_states(app, server)
    _add_errors(app, server)
    app.add_middleware(
        Guard,
        limits=limits,
        token=token,
        local_only=local_only,
        metrics=server.metrics,
        routes=("/v1/predict", "/v1/explain", "/v1/units", "/metrics", *OPEN),
        patience=server.batcher.patience,
    )
    return app


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("meld-dp")
    except PackageNotFoundError:
        return "0"


def _say_that_a_token_is_needed(app: FastAPI) -> None:
    """Name the bearer token in the OpenAPI document."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path not in OPEN:
                    operation["security"] = [{"token": []}]
        return document

    app.openapi = described  # type: ignore[method-assign]


def _add_questions(app: FastAPI, server: Server) -> None:
    @app.post("/v1/predict", response_model=PredictAnswer, responses=_ALL)
    async def predict(asked: PredictRequest) -> Response:
        """Answer rows: one prediction per row, in their order."""
        if asked.right is not None and len(asked.right) != len(asked.rows):
            raise UserError(
                f"There are {len(asked.rows)} rows and {len(asked.right)} right ones.",
                where="right",
                fix="row by row they are the pairs",
            )
        return Json({"predictions": await server.ask(asked)})

    @app.post("/v1/explain", response_model=ExplainAnswer, responses=_ALL)
    async def explain(asked: ExplainRequest) -> Response:
        """How the answer to one row comes about: path, changes, options, evidence and prompt."""
        return Json((await server.ask(asked))[0])

    @app.get("/v1/units", response_model=Units, responses=_FEW)
    async def units() -> Response:
        """What can be asked, and what each question has to bring."""
        return Json({"units": server.cards})


def _add_states(app: FastAPI, server: Server) -> None:
    @app.get("/health", response_model=Health)
    async def health() -> Response:
        """Whether the process lives."""
        return Json({"status": "alive"})

    @app.get("/ready", response_model=Health, responses={503: _ALL[503]})
    async def ready() -> Response:
        """Whether rows are answered."""
        if not server.batcher.alive:
            raise Closed
        return Json({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses=_FEW)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(server.metrics.text(), media_type=server.metrics.content_type)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page(app.openapi()), headers=policy)


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return refusal(413 if isinstance(error, TooLarge) else 422, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(error.errors())

    @app.exception_handler(_Twice)
    async def twice(request: Request, error: _Twice) -> Response:
        said = f"An object of the body names {error.detail!r} more than once."
        return refusal(422, UserError(said, where="body", fix="give every key a name of its own"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        fix = "GET /docs says what there is" if error.status_code in {404, 405} else "send one JSON object"
        what = UserError(str(error.detail), where=f"{request.method} {request.url.path}", fix=fix)
        return refusal(error.status_code, what, dict(error.headers or {}))

    @app.exception_handler(TimeoutError)
    @app.exception_handler(asyncio.TimeoutError)
    async def late(request: Request, error: Exception) -> Response:
        what = UserError(f"There was no answer within {server.limits.seconds:g} s.", fix="fewer rows, or later")
        return refusal(504, what, {"retry-after": str(server.batcher.patience())})

    @app.exception_handler(Closed)
    async def closed(request: Request, error: Exception) -> Response:
        what = UserError("The server answers no more rows.", fix="come again later")
        return refusal(503, what, {"retry-after": "5"})


def _invalid(errors: Sequence[Any]) -> Response:
    """The first thing that is wrong with a body."""
    first = min(errors, key=lambda error: len(error["loc"]))
    # A name of a column that is wrong is followed by "[key]".
    place = [str(part) for part in first["loc"] if part not in {"body", "[key]"}]
    if first["type"] == "json_invalid":
        said = f"The body is not JSON: {first['ctx']['error']}."
        return refusal(400, UserError(said, where=f"character {'.'.join(place)}", fix="send one JSON object"))
    where = ".".join(place) or "body"
    fix = "GET /docs shows the form; the header Content-Type has to be application/json"
    said = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
    return refusal(422, UserError(f"The request does not fit: {said}.", where=where, fix=fix))
