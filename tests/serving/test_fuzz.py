"""Requests that nobody means well: from the OpenAPI schema by schemathesis, and by hand. No 5xx, no growing memory.

`make test` sends few; `pytest -m long tests/serving/test_fuzz.py` sends 10,000, as issue 8 wants.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serving_client import records

from ftmeta.schema import BaseModelInfo

HERE = Path(__file__).parent
MAX_GROWTH = 1.10
JSON = {"Content-Type": "application/json"}
ROUTES = ("/v1/recommendations", "/v1/suggestions", "/v1/exports")


@dataclass
class Running:
    url: str
    port: int
    process: psutil.Process

    @property
    def memory(self) -> int:
        return int(self.process.memory_info().rss)


@pytest.fixture(scope="module")
def server(selector_folder: Path, base_models: list[BaseModelInfo]) -> Iterator[Running]:
    command = [sys.executable, str(HERE / "fuzz_server.py"), str(selector_folder), base_models[0].path]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}:{HERE}", "MALLOC_ARENA_MAX": "2"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        running = Running(f"http://127.0.0.1:{port}", port, psutil.Process(process.pid))
        with httpx.Client(base_url=running.url, trust_env=False) as client:
            assert client.get("/readyz").status_code == 200
        yield running
        process.terminate()


def fine(response: httpx.Response) -> None:
    """An answer, or a refusal that says why; never a failure of the service."""
    assert response.status_code < 500, (response.status_code, response.text[:300])
    assert "Traceback" not in response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json", response.text[:300]
        assert response.json()["detail"]


# By hand -------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b'{"dataset":{"records":' + b"[" * depth + b"]" * depth + b"}}"


ROW = {"question": "q", "answer": "a"}
GOOD = {"dataset": {"records": records(30)}}
BODIES: dict[str, Callable[[], bytes]] = {  # made when they are sent: some are 20 MB
    "nothing": lambda: b"",
    "null": lambda: b"null",
    "a number": lambda: b"1e400",
    "deep": lambda: nested(100_000),
    "deep, within what is parsed": lambda: nested(100),
    "20 MB of brackets": lambda: b"[" * 19_999_999,
    "20 MB of one text": lambda: rows(b'{"question":"' + b"x" * 19_000_000 + b'","answer":"a"}'),
    "500,000 columns": lambda: as_json({"dataset": {"records": [{str(i): 0 for i in range(500_000)}]}}),
    "100,000 rows of nothing": lambda: rows(*[b"{}"] * 100_000),
    "100,001 rows": lambda: rows(*[b'{"a":1}'] * 100_001),
    "NaN": lambda: b'{"dataset":{"metafeatures":{"answer_tokens_mean":NaN}}}',
    "infinity by size": lambda: b'{"dataset":{"metafeatures":{"answer_tokens_mean":1e999}}}',
    "UTF-16": lambda: json.dumps(GOOD).encode("utf-16"),
    "a byte order mark": lambda: b"\xef\xbb\xbf" + as_json(GOOD),
    "broken UTF-8": lambda: rows(b'{"question":"\xc3\x28","answer":"a"}'),
    "half a surrogate": lambda: rows(b'{"question":"\\ud800","answer":"a"}'),
    "control characters": lambda: as_json({"dataset": {"records": [{**ROW, "question": "\x00\x1b[31m"}] * 30}}),
    "names twice": lambda: b'{"dataset":{"records":[]},"dataset":{"metafeatures":{}}}',
    "a pickle": lambda: b"\x80\x04\x95\x10\x00\x00\x00",
    "a zip bomb": lambda: gzip.compress(b"0" * 10_000_000),
    "a path": lambda: as_json({"dataset": {"records": "/etc/passwd"}}),
    "a path as a model": lambda: as_json({**GOOD, "base_model": "../../../etc/passwd"}),
    "an address": lambda: as_json({"dataset": {"url": "http://169.254.169.254/latest"}}),
    "a prototype": lambda: as_json({**GOOD, "__proto__": {"x": 1}, "__class__": "os"}),
}


def rows(*texts: bytes) -> bytes:
    return b'{"dataset":{"records":[' + b",".join(texts) + b"]}}"


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", list(BODIES))
def test_bad_bodies(server: Running, name: str) -> None:
    content = BODIES[name]()
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        for route in ROUTES:
            fine(client.post(route, content=content, headers=JSON))
        assert client.get("/readyz").status_code == 200


def extreme() -> list[dict[str, Any]]:
    """Meta-features that costs need at their ends, where exponents and logarithms overflow."""
    names = ("log10_train_examples", "prompt_tokens_mean", "answer_tokens_mean")
    return [dict.fromkeys(names, value) for value in (0.0, -1.0, -1e308, 1e-308, 1e9, 1e308, 400.0)]


@pytest.mark.parametrize("metafeatures", extreme(), ids=lambda one: f"{next(iter(one.values())):g}")
@pytest.mark.parametrize("more", [{}, {"budget_s": 1e-300}, {"budget_s": 1e9}], ids=str)
def test_numbers_at_their_ends(server: Running, metafeatures: dict[str, float], more: dict[str, float]) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        fine(client.post(ROUTES[0], json={"dataset": {"metafeatures": metafeatures}, "front": True, **more}))
        fine(client.post(ROUTES[1], json={"dataset": {"metafeatures": metafeatures}, "budget_s": 60.0, **more}))


HOST = b"Host: 127.0.0.1\r\n"
RAW = {
    "path tricks": b"GET /page/../../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "encoded path tricks": b"GET /page/..%2f..%2f%2e%2e/app.py HTTP/1.1\r\n" + HOST + b"\r\n",
    "a null byte": b"GET /page/app.js%00.html HTTP/1.1\r\n" + HOST + b"\r\n",
    "two slashes": b"GET //etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "another host": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "no host": b"GET /v1/selector HTTP/1.1\r\n\r\n",
    "a negative length": b"POST /v1/exports HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST /v1/exports HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/exports HTTP/1.1\r\n" + HOST
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "broken chunks": b"POST /v1/exports HTTP/1.1\r\n" + HOST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    "a long header": b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n",
    "header injection": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-Request-ID: a\nSet-Cookie: b\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a strange method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", list(RAW))
def test_bad_bytes_on_the_wire(server: Running, name: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as wire:
        wire.sendall(RAW[name])
        wire.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while part := wire.recv(65536):
                said += part
        except ConnectionResetError:
            pass  # hanging up is an answer too
    status = said.split(b" ", 2)[1:2]
    assert not status or status[0].startswith((b"2", b"4")), said[:300]
    assert b"root:" not in said
    assert b"Set-Cookie" not in said.split(b"\r\n\r\n")[0]
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200


# By machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count",
    [150, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_requests_from_the_schema(server: Running, count: int) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is missing: pip install schemathesis")
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        spec = client.get("/openapi.json").json()
        for make in BODIES.values():  # what large bodies leave in the allocator is there before and after
            client.post(ROUTES[0], content=make(), headers=JSON)
        asked = spec["paths"][ROUTES[2]]["post"]["requestBody"]["content"]["application/json"]["examples"]["example0"]
        client.post(ROUTES[2], json=asked["value"])  # the first export imports torch
        send(spec, max(count // 10, 20), client)
        before = server.memory
        send(spec, count, client)
        after = server.memory
    assert after <= MAX_GROWTH * before, f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after {count} requests"


def send(spec: dict[str, Any], count: int, client: httpx.Client) -> None:
    """`count` requests, half of which keep to the schema and half of which do not."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings, strategies

    schema = schemathesis.openapi.from_dict(spec)
    statuses: Counter[int] = Counter()
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategies.one_of(*(schema.as_strategy(generation_mode=mode) for mode in modes)))
    def each(case: Any) -> None:
        wanted = case.as_transport_kwargs(base_url=str(client.base_url))
        body = wanted.get("data") if wanted.get("json") is None else json.dumps(wanted["json"]).encode()
        headers = {**dict(wanted.get("headers") or {}), **({} if wanted.get("json") is None else JSON)}
        try:
            request = client.build_request(
                wanted["method"], wanted["url"], content=body, headers=headers, params=wanted.get("params")
            )
        except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
            return  # nothing that can be sent
        response = client.send(request)
        fine(response)
        statuses[response.status_code] += 1

    each()
    assert statuses.total() >= 0.9 * count, statuses
    assert len(statuses) >= 3, statuses  # well meant ones among them
