"""Errors over HTTP: RFC 9457 problem documents, made here and nowhere else.

A `ProblemError` is raised where the mistake is seen; `problem_response` turns it into the answer. No document ever
holds a stack trace, a path of the server, or more of the request than the name of the field that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from pydantic import ValidationError
from starlette.responses import JSONResponse

from ftmeta.errors import UserError
from ftmeta.serving.models import MAX_ROWS

RETRY_AFTER_S = 1
_KINDS = {  # anchors of the table in page/docs.html
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.REQUEST_TIMEOUT: "timeout",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "not-json",
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid-field",
    HTTPStatus.SERVICE_UNAVAILABLE: "busy",
}
MAX_FIELDS = 20  # of one document; the first ones are what a person repairs first


class ProblemError(Exception):
    """A request that is answered with an error. `errors` are (field, reason)."""

    def __init__(self, status: HTTPStatus, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)[:MAX_FIELDS]


class FieldError(UserError):
    """A value of a request that cannot be used; `field` says where it stands."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def problem_response(problem: ProblemError, request_id: str) -> JSONResponse:
    headers = {}
    kind = _KINDS.get(problem.status)
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="ftmeta"'
    content = {
        "type": "about:blank" if kind is None else f"/docs#{kind}",
        "title": problem.status.phrase,
        "status": int(problem.status),
        "detail": problem.detail,
        "request_id": request_id,
        "errors": [{"field": field, "reason": reason} for field, reason in problem.errors],
    }
    return JSONResponse(content, int(problem.status), headers, media_type="application/problem+json")


def from_validation(error: ValidationError) -> ProblemError:
    """The fields that a request model refused. Too many rows is 413, everything else 422."""
    found = error.errors(include_url=False, include_context=True, include_input=False)
    errors = [(_field(problem["loc"]), _reason(problem["type"], problem["msg"])) for problem in found]
    if any(problem["type"] == "too_long" and problem["loc"] == ("dataset", "records") for problem in found):
        detail = f"the dataset has more than {MAX_ROWS:,} rows; send a sample, which is enough for a recommendation"
        return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, errors)
    first = "; ".join(f"{field}: {reason}" for field, reason in errors[:3])
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, first, errors)


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"


def _reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "is not a field of this request; see /docs for those that are"
    return message[:1].lower() + message[1:]
