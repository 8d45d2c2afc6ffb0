"""The two clients: `Client` for threads, `AsyncClient` for asyncio. The same calls, time-outs, retries and errors.

Answers are the JSON documents that the service's /docs describes, as dictionaries. Errors are ftmeta's: RefusedError
and AccessError (mistakes in the request), UnavailableError (no answer could be had).
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ftmeta
from ftmeta.client import calls
from ftmeta.client.calls import Call, Json
from ftmeta.client.errors import UnavailableError
from ftmeta.client.retries import Retry, may_pass, retry_after_s
from ftmeta.errors import UserError

if TYPE_CHECKING:
    import httpx

TOKEN = "FTMETA_API_TOKEN"
_CONNECT_S = 5.0
Rows = Iterable[Mapping[str, Any]]


class Client:
    """Talks to the service at `url`. One client may be used by several threads; close it, or use it with `with`.

    `token` None: that of $FTMETA_API_TOKEN, if there is one. `timeout_s` is what one attempt may take to answer.
    `transport`: httpx's, for what lies between (certificates of one's own, a proxy, a test).
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        retry: Retry = Retry(),  # noqa: B008  (frozen)
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        import httpx

        self._retry, self._rng = retry, random.Random()
        self._http = httpx.Client(**_options(url, token, timeout_s), transport=transport)

    def recommend(
        self,
        records: Rows | None = None,
        *,
        metafeatures: Mapping[str, float] | None = None,
        base_model: str | None = None,
        hardware: str | None = None,
        budget_s: float | None = None,
        budget_usd: float | None = None,
        top_k: int | None = None,
        front: bool | None = None,
    ) -> Json:
        """Ranked pipelines for a dataset: its rows, or the meta-features that an earlier answer gave."""
        options = {"base_model": base_model, "hardware": hardware, "top_k": top_k, "front": front}
        limits = {"budget_s": budget_s, "budget_usd": budget_usd}
        return self.call(calls.recommendations(records, metafeatures, {**options, **limits}))

    def suggest(
        self,
        records: Rows | None = None,
        *,
        budget_s: float,
        metafeatures: Mapping[str, float] | None = None,
        observations: Sequence[Mapping[str, Any]] = (),
        under_way: Sequence[Mapping[str, Any]] = (),
        only: Mapping[str, Sequence[Any]] | None = None,
        base_model: str | None = None,
        hardware: str | None = None,
    ) -> Json:
        """What to train next, given all that was seen so far; `Tuning` keeps count of that."""
        options = {"base_model": base_model, "hardware": hardware, "budget_s": budget_s, "only": only}
        return self.call(calls.suggestions(records, metafeatures, observations, under_way, options))

    def export(
        self,
        pipeline: Mapping[str, Any],
        format: str,
        *,
        splits: Mapping[str, int],
        base_model: str | None = None,
        name: str | None = None,
    ) -> Json:
        """A pipeline as files for `ftmeta`, `trl`, `llama-factory` or `axolotl`; `splits` are numbers of rows."""
        return self.call(calls.exports(pipeline, format, splits, {"base_model": base_model, "name": name}))

    def selector(self) -> Json:
        """The selector that answers: name, version, space, base models and hardware that it can be asked about."""
        return self.call(calls.selector())

    def call(self, call: Call) -> Json:
        """Sends until there is an answer or `retry` gives up. Raises FtmetaError or one of its kind."""
        import httpx

        for attempt in range(1, self._retry.attempts + 1):
            said: httpx.Response | httpx.TransportError
            try:
                said = self._http.request(call.method, call.path, content=call.content)
            except httpx.TransportError as error:
                said = error
            pause_s = _pause_s(self._retry, attempt, said, self._rng)
            if pause_s is None:
                return _outcome(said, self._http.base_url, attempt)
            time.sleep(pause_s)
        raise AssertionError("the last attempt has no pause")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """As `Client`, with coroutines; use it with `async with`."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        retry: Retry = Retry(),  # noqa: B008  (frozen)
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx

        self._retry, self._rng = retry, random.Random()
        self._http = httpx.AsyncClient(**_options(url, token, timeout_s), transport=transport)

    async def recommend(
        self,
        records: Rows | None = None,
        *,
        metafeatures: Mapping[str, float] | None = None,
        base_model: str | None = None,
        hardware: str | None = None,
        budget_s: float | None = None,
        budget_usd: float | None = None,
        top_k: int | None = None,
        front: bool | None = None,
    ) -> Json:
        options = {"base_model": base_model, "hardware": hardware, "top_k": top_k, "front": front}
        limits = {"budget_s": budget_s, "budget_usd": budget_usd}
        return await self.call(calls.recommendations(records, metafeatures, {**options, **limits}))

    async def suggest(
        self,
        records: Rows | None = None,
        *,
        budget_s: float,
        metafeatures: Mapping[str, float] | None = None,
        observations: Sequence[Mapping[str, Any]] = (),
        under_way: Sequence[Mapping[str, Any]] = (),
        only: Mapping[str, Sequence[Any]] | None = None,
        base_model: str | None = None,
        hardware: str | None = None,
    ) -> Json:
        options = {"base_model": base_model, "hardware": hardware, "budget_s": budget_s, "only": only}
        return await self.call(calls.suggestions(records, metafeatures, observations, under_way, options))

    async def export(
        self,
        pipeline: Mapping[str, Any],
        format: str,
        *,
        splits: Mapping[str, int],
        base_model: str | None = None,
        name: str | None = None,
    ) -> Json:
        return await self.call(calls.exports(pipeline, format, splits, {"base_model": base_model, "name": name}))

    async def selector(self) -> Json:
        return await self.call(calls.selector())

    async def call(self, call: Call) -> Json:
        import httpx

        for attempt in range(1, self._retry.attempts + 1):
            said: httpx.Response | httpx.TransportError
            try:
                said = await self._http.request(call.method, call.path, content=call.content)
            except httpx.TransportError as error:
                said = error
            pause_s = _pause_s(self._retry, attempt, said, self._rng)
            if pause_s is None:
                return _outcome(said, self._http.base_url, attempt)
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt has no pause")

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _options(url: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    import httpx

    if not url.startswith(("http://", "https://")):
        raise UserError(f"'{url}' is no address of a service; give one such as http://127.0.0.1:8000")
    presented = os.environ.get(TOKEN) if token is None else token
    headers = {"Content-Type": "application/json", "User-Agent": f"ftmeta/{ftmeta.__version__}"}
    if presented:
        headers["Authorization"] = f"Bearer {presented}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
    }


def _pause_s(
    retry: Retry, attempt: int, said: httpx.Response | httpx.TransportError, rng: random.Random
) -> float | None:
    """None: what was said is the last word."""
    if isinstance(said, Exception):
        return retry.pause_s(attempt, None, rng)
    if not may_pass(said.status_code, said.headers.get("content-type")):
        return None
    return retry.pause_s(
        attempt, retry_after_s(said.headers.get("retry-after"), datetime.datetime.now(datetime.UTC)), rng
    )


def _outcome(said: httpx.Response | httpx.TransportError, url: httpx.URL, attempts: int) -> Json:
    if isinstance(said, Exception):
        why = str(said) or type(said).__name__
        tried = "once" if attempts == 1 else f"{attempts} times"
        raise UnavailableError(f"{url} was asked {tried} and did not answer ({why}); is the service running?") from said
    return calls.read(said)
