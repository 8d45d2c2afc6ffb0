"""What is sent and what its answer means, without sending it: shared by the two clients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftmeta.client.errors import AccessError, RefusedError, UnavailableError
from ftmeta.client.retries import PASSING
from ftmeta.errors import DataError, FtmetaError, UserError

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]
_SHOWN = 3  # reasons of one refusal in a message


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    content: bytes | None = None


def recommendations(
    records: Iterable[Mapping[str, Any]] | None,
    metafeatures: Mapping[str, float] | None,
    options: Mapping[str, Any],
) -> Call:
    return _post("recommendations", {"dataset": _dataset(records, metafeatures), **_given(options)})


def suggestions(
    records: Iterable[Mapping[str, Any]] | None,
    metafeatures: Mapping[str, float] | None,
    observations: Sequence[Mapping[str, Any]],
    under_way: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> Call:
    seen = {"observations": [dict(one) for one in observations], "under_way": [dict(one) for one in under_way]}
    return _post("suggestions", {"dataset": _dataset(records, metafeatures), **seen, **_given(options)})


def exports(pipeline: Mapping[str, Any], format: str, splits: Mapping[str, int], options: Mapping[str, Any]) -> Call:
    return _post("exports", {"pipeline": dict(pipeline), "format": format, "splits": dict(splits), **_given(options)})


def selector() -> Call:
    return Call("GET", "/v1/selector")


def read(response: httpx.Response) -> Json:
    """The answer's document. Raises an error of ftmeta's tree for any other answer."""
    if response.is_success:
        try:
            document = response.json()
        except ValueError:
            document = None
        if isinstance(document, dict):
            return document
        raise UnavailableError(f"{response.url} answered something else than JSON; is it ftmeta's service?")
    raise _error(response)


def _error(response: httpx.Response) -> FtmetaError:
    """From the problem document; what comes without one was said by something on the way."""
    try:
        problem = response.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return UnavailableError(
            f"{response.url} answered {response.status_code} without a problem document; a proxy on the way, or "
            "another service, said so"
        )
    fields = [str(one.get("field")) for one in problem.get("errors", [])][:_SHOWN]
    where = f" ({', '.join(fields)})" if fields else ""
    said = f"{response.status_code}: {detail}{where}; request {problem.get('request_id', 'without an id')}"
    if response.status_code in (401, 403):
        return AccessError(said)
    passing = response.status_code in PASSING or response.is_server_error
    return UnavailableError(said) if passing else RefusedError(said)


def _dataset(records: Iterable[Mapping[str, Any]] | None, metafeatures: Mapping[str, float] | None) -> Json:
    if (records is None) == (metafeatures is None):
        raise UserError("give either the dataset's records or its metafeatures, and not both")
    if metafeatures is not None:
        return {"metafeatures": dict(metafeatures)}
    return {"records": [dict(row) for row in records or ()]}


def _given(options: Mapping[str, Any]) -> Json:
    """What is None is left to the service."""
    return {name: value for name, value in options.items() if value is not None}


def _post(route: str, body: Json) -> Call:
    try:
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError, for half of a surrogate pair, is a ValueError
        raise DataError(f"the request cannot be written as JSON ({error}); give text, finite numbers, lists") from None
    return Call("POST", f"/v1/{route}", content)
