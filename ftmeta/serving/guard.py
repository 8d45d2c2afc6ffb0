"""What every request passes before the routes see it, and every answer after: one ASGI middleware.

Request ids in and out, bearer tokens, security headers, metrics, one structured log line a request, and the last
resort for an error that nobody foresaw. Logs hold no data and no token: route, status, duration, request id.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftmeta.serving.metrics import Metrics
from ftmeta.serving.problems import ProblemError, problem_response
from ftmeta.serving.tokens import is_loopback, is_valid

log = logging.getLogger("ftmeta.serving")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PROTECTED = ("/v1/", "/metrics")  # the rest holds nothing: the page, its documentation, the probes
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Wraps the application. `sends_request_id` is off behind Ray Serve's proxy, which adds the header itself."""

    def __init__(self, app: ASGIApp, *, tokens: Sequence[str], metrics: Metrics, sends_request_id: bool) -> None:
        self.app = app
        self.tokens = tuple(tokens)
        self.metrics = metrics
        self.sends_request_id = sends_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given_id = headers.get("x-request-id")
        request_id = given_id if given_id and _REQUEST_ID.fullmatch(given_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            self._admit(scope, headers, given_id)
            await self.app(scope, receive, send_guarded)
        except ProblemError as problem:
            await problem_response(problem, request_id)(scope, receive, send_guarded)
        except Exception as error:
            # The message of an unforeseen error may quote the request, so the log gets its type and its frames only.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _write(logging.ERROR, event="error", request_id=request_id, error=type(error).__name__, frames=frames)
            if status is None:
                detail = "the service failed; the operator finds the reason in its log under this request id"
                failure = ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
                await problem_response(failure, request_id)(scope, receive, send_guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self.metrics.observe(route, scope["method"], status or 499, seconds)
            _write(
                logging.INFO,
                event="request",
                request_id=request_id,
                method=scope["method"],
                route=route,
                status=status,
                ms=round(seconds * 1000, 2),
            )

    def _admit(self, scope: Scope, headers: Headers, given_id: str | None) -> None:
        """Raises the ProblemError with which a request is turned away before any of it is read."""
        if given_id is not None and not _REQUEST_ID.fullmatch(given_id):
            detail = "X-Request-ID must be 1 to 128 of the characters A-Z a-z 0-9 . _ -"
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, [("header.X-Request-ID", "malformed")])
        if not self.tokens:
            self._require_this_machine(scope, headers)
        elif scope["path"].startswith(_PROTECTED):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not is_valid(token.strip(), self.tokens):
                detail = "a bearer token is needed: send 'Authorization: Bearer TOKEN' with one that is valid here"
                raise ProblemError(HTTPStatus.UNAUTHORIZED, detail, [("header.Authorization", "missing or not valid")])

    def _require_this_machine(self, scope: Scope, headers: Headers) -> None:
        """Without tokens only this machine is served, whatever address the socket was bound to.

        The Host header is checked too: a web page of another site may point its own name at 127.0.0.1 (DNS rebinding).
        """
        client = scope.get("client")
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if client is None or not is_loopback(client[0]) or not is_loopback(host):
            detail = "no tokens are configured, so only this machine is served, as http://127.0.0.1 or http://localhost"
            raise ProblemError(HTTPStatus.FORBIDDEN, detail)

    def _add_headers(self, headers: MutableHeaders, request_id: str) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        if self.sends_request_id:
            headers["X-Request-ID"] = request_id


def _write(level: int, **fields: object) -> None:
    log.log(level, json.dumps(fields, ensure_ascii=True))
