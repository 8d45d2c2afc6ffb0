"""The HTTP interface: routes, reading of bodies within limits, errors. A plain FastAPI application.

`create_app(selector)` needs no Ray: tests call it in-process, and Ray Serve runs the same object (app.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import pydantic_core
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

import ftmeta
from ftmeta.serving.guard import Guard
from ftmeta.serving.metrics import CONTENT_TYPE, Metrics
from ftmeta.serving.models import (
    MAX_BODY_BYTES,
    ExportAnswer,
    ExportRequest,
    RecommendationAnswer,
    RecommendationRequest,
    SelectorAnswer,
    SuggestionAnswer,
    SuggestionRequest,
)
from ftmeta.serving.openapi import describe_routes
from ftmeta.serving.problems import FieldError, ProblemError, from_validation, problem_response
from ftmeta.serving.service import Asked, Service

if TYPE_CHECKING:
    from ftmeta.schema import BaseModelInfo
    from ftmeta.selector import Selector
    from ftmeta.serving.sources import Registered

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jsonl": "application/jsonl; charset=utf-8",
}
_BODY_DEADLINE_S = 30.0
_ADMITTED = 64  # questions that are read or wait for a thread
_LARGE_ADMITTED = 16  # of them, with bodies above _LARGE_BYTES or of no announced length: each may hold MAX_BODY_BYTES
_LARGE_BYTES = 1_000_000
_THREADS = 2  # that compute at once; more would only share the same cores


def create_app(
    selector: Selector,
    *,
    base_models: Sequence[BaseModelInfo] | None = None,
    tokens: Sequence[str] = (),
    replica: str = "local",
    sends_request_id: bool = True,
    registered: Registered | None = None,
) -> FastAPI:
    """The application. `base_models` None means those on this machine and those whose sizes are published;
    `registered`: what the selector is called in a registry. `tokens` are SHA-256 hashes (tokens.py); without any, only
    this machine is served.

    `app.state.service` is the Service that answers, whose selector can be switched while the application runs.
    """
    app = FastAPI(
        title="ftmeta",
        version=ftmeta.__version__,
        description="Which finetuning pipeline to run on a dataset, what it will score and what it will cost.",
        docs_url=None,  # FastAPI's own page loads scripts from another host; ours does not
        redoc_url=None,
    )
    metrics = Metrics(replica)
    service = Service(selector, metrics, base_models, registered)
    app.state.service = service
    app.add_middleware(Guard, tokens=tokens, metrics=metrics, sends_request_id=sends_request_id)
    _add_error_handlers(app)
    _add_page(app)
    threads = anyio.CapacityLimiter(_THREADS)
    admitted = large_admitted = 0

    async def answered(request: Request, model: type[Asked]) -> Response:
        """Reads the body and has a thread answer it, unless too many are at it already."""
        nonlocal admitted, large_admitted
        large = _is_large(request)
        if admitted >= _ADMITTED or (large and large_admitted >= _LARGE_ADMITTED):
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions are under way; try again shortly")
        admitted, large_admitted = admitted + 1, large_admitted + large
        metrics.in_progress.inc()
        try:
            route, body = request.url.path, await _read_body(request)
            known = service.recall(route, body)
            if known is not None:
                return _with_request_id(known, _request_id(request))
            read = time.perf_counter()

            def work() -> Response:
                metrics.waited.observe(time.perf_counter() - read)
                return _with_request_id(service.answer(route, body, _parsed(body, model)), _request_id(request))

            return await anyio.to_thread.run_sync(work, limiter=threads)
        finally:
            admitted, large_admitted = admitted - 1, large_admitted - large
            metrics.in_progress.dec()

    @app.post("/v1/recommendations", response_model=RecommendationAnswer, tags=["selector"])
    async def recommend(request: Request) -> Response:
        """Ranked finetuning pipelines for a dataset, with predicted score, learning curve, time and money."""
        return await answered(request, RecommendationRequest)

    @app.post("/v1/suggestions", response_model=SuggestionAnswer, tags=["selector"])
    async def suggest(request: Request) -> Response:
        """What to train next on a dataset that is being tuned, given the scores seen so far. Nothing is kept: each
        request says all that was seen."""
        return await answered(request, SuggestionRequest)

    @app.post("/v1/exports", response_model=ExportAnswer, tags=["selector"])
    async def export(request: Request) -> Response:
        """A pipeline as files for ftmeta, trl, LLaMA-Factory or axolotl, without the rows."""
        return await answered(request, ExportRequest)

    @app.get("/v1/selector", response_model=SelectorAnswer, tags=["selector"])
    async def selector_in_use() -> Response:
        """The selector that answers: name, version, meta-dataset, space, supported base models and hardware."""
        return JSONResponse(service.describe())

    @app.get("/healthz", tags=["operation"])
    async def alive() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"])
    async def ready() -> dict[str, str]:
        """A selector is loaded and has answered its canary."""
        return {"status": "ready", "selector": service.name, "version": service.version}

    @app.get("/metrics", response_class=Response, tags=["operation"])
    async def prometheus() -> Response:
        """Metrics of the replica that answers, for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    describe_routes(app, service)
    return app


def _with_request_id(document: bytes, request_id: str) -> Response:
    """The id stands first; it has no character that JSON would escape (guard.py)."""
    return Response(b'{"request_id":"' + request_id.encode() + b'",' + document[1:], media_type="application/json")


def _parsed(body: bytes, model: type[Asked]) -> Asked:
    """Parsing takes the processor for a while, so it is done where the answer is made. Raises ProblemError."""
    try:
        document = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        detail = f"the body is not JSON: {error}"
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail, [("body", str(error))]) from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None


def _is_large(request: Request) -> bool:
    announced = request.headers.get("content-length", "")
    return not announced.isdigit() or int(announced) > _LARGE_BYTES


async def _read_body(request: Request) -> bytes:
    """The body, read no further than its limits. Raises ProblemError: 408, 413 or 415."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        detail = f"the body is '{kind[:100] or 'of no type'}'; send JSON with 'Content-Type: application/json'"
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, [("header.Content-Type", "must be application/json")]
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        detail = "compressed bodies are not read; send the JSON as it is"
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, [("header.Content-Encoding", "must be left out")])
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    parts = bytearray()
    try:
        async with asyncio.timeout(_BODY_DEADLINE_S):
            async for part in request.stream():
                parts += part
                if len(parts) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        detail = f"the body did not arrive within {_BODY_DEADLINE_S:g} s; send it again, or send fewer rows"
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail) from None
    return bytes(parts)


def _too_large() -> ProblemError:
    detail = (
        f"the body is larger than {MAX_BODY_BYTES // 1_000_000} MB; send a sample of the rows, which is enough for a "
        "recommendation, or the meta-features"
    )
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, [("body", "too large")])


def _add_error_handlers(app: FastAPI) -> None:
    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem_response(error, _request_id(request))

    async def field(request: Request, error: Exception) -> Response:
        assert isinstance(error, FieldError)
        found = ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), [(error.field, str(error))])
        return problem_response(found, _request_id(request))

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        said = {
            HTTPStatus.NOT_FOUND: "there is nothing at this address; /docs lists what there is",
            HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method[:20]} is not allowed here; /docs lists what is",
        }
        response = problem_response(ProblemError(status, said.get(status, status.description)), _request_id(request))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ProblemError, problem)
    app.add_exception_handler(FieldError, field)
    app.add_exception_handler(HTTPException, routing)


def _add_page(app: FastAPI) -> None:
    """The page and its files, read once: no request ever names a path."""

    def add(route: str, file: Path) -> None:
        content, media_type = file.read_bytes(), _TYPES[file.suffix]

        async def send() -> Response:
            return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

        app.add_api_route(route, send, methods=["GET"], include_in_schema=False)

    for file in sorted(PAGE.iterdir()):
        if file.suffix != ".html":
            add(f"/page/{file.name}", file)
    add("/", PAGE / "index.html")
    add("/docs", PAGE / "docs.html")


def _request_id(request: Request) -> str:
    return request.state.request_id
