"""An HTTP client for the application in this process, and rows to send."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI

from ftmeta.serving.models import ProblemDocument


class Client:
    """Sends requests as from `client`, without a network: httpx over ASGI."""

    def __init__(self, app: FastAPI, client: str = "127.0.0.1") -> None:
        self.app = app
        self._address = (client, 50_000)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.send("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.send("POST", path, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._send([(method, path, options)]))[0]

    def many(self, count: int, path: str, body: Any) -> list[httpx.Response]:
        """`count` requests at the same time."""
        return asyncio.run(self._send([("POST", path, {"json": body})] * count))

    async def _send(self, requests: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.app, client=self._address)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.gather(*(client.request(method, path, **more) for method, path, more in requests))


def records(count: int) -> list[dict[str, Any]]:
    """Questions and answers that follow from the row's number."""
    return [
        {"question": f"What comes after {number}, and what before it?", "answer": f"{number + 1} and {number - 1}."}
        for number in range(100, 100 + count)
    ]


def problem(response: Any, status: int, field: str | None = None) -> ProblemDocument:
    """The problem document of an answer, checked: its form, its status, the field that it names."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    document = ProblemDocument.model_validate(response.json())
    assert document.status == status
    assert document.request_id == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    if field is not None:
        assert field in [one.field for one in document.errors], document
    return document
