"""The service under load while its replicas are killed: wrong answers, lost ones, and how soon it is as fast as before.

32 connections ask different questions, of which each answer was noted before; every ten seconds one of two replicas
gets SIGKILL. A request that fails is asked again as `ftmeta.client` does, seven times at most; every attempt counts.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from jobs.bench_serve_session import in_session, questions, replicas_here

CONNECTIONS, REPLICAS, QUESTIONS = 32, 2, 64
KILL_EVERY_S = 10.0
_ATTEMPTS = 8
_WARM_S = 5.0


@dataclass
class Seen:
    began: float
    right: int = 0
    wrong: int = 0
    refused: int = 0  # the last of all attempts had a clear error for an answer
    lost: int = 0  # the last of all attempts had none
    errors: Counter[str] = field(default_factory=Counter)  # of single attempts
    per_second: Counter[int] = field(default_factory=Counter)
    kills_s: list[float] = field(default_factory=list)

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self.began


def measure(requests: int) -> dict[str, Any]:
    return in_session(lambda url: asyncio.run(_measure(url, requests)), replicas=REPLICAS)


async def _measure(url: str, requests: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
        document = (await client.get("/openapi.json")).json()["paths"]["/v1/recommendations"]["post"]
        example = document["responses"]["200"]["content"]["application/json"]["example"]
        bodies = [one.encode() for one in questions(example["metafeatures"], QUESTIONS)]
        expected = [_told(await _ask(client, body)) for body in bodies]
        seen = Seen(time.perf_counter())
        numbers = iter(range(requests))
        killer = asyncio.create_task(_kill(seen))
        await asyncio.gather(*(_load(client, bodies, expected, numbers, seen) for _ in range(CONNECTIONS)))
        killer.cancel()
    return _summary(seen, requests)


async def _load(
    client: httpx.AsyncClient, bodies: list[bytes], expected: list[bytes], numbers: Iterator[int], seen: Seen
) -> None:
    for number in numbers:
        at = number % len(bodies)
        for attempt in itertools.count(1):
            response = None
            try:
                response = await _ask(client, bodies[at])
            except httpx.TransportError as error:
                seen.errors[type(error).__name__] += 1
            if response is not None:
                if response.status_code == 200:
                    right = _told(response) == expected[at]
                    seen.right, seen.wrong = seen.right + right, seen.wrong + (not right)
                    seen.per_second[int(seen.now_s)] += 1
                    break
                kind = response.headers.get("content-type", "no type").split(";")[0]
                seen.errors[f"{response.status_code} {kind}"] += 1
            if attempt == _ATTEMPTS:
                seen.lost, seen.refused = seen.lost + (response is None), seen.refused + (response is not None)
                break
            await asyncio.sleep(min(0.2 * 2**attempt, 3.0))


async def _kill(seen: Seen) -> None:
    await asyncio.sleep(_WARM_S)
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        alive = replicas_here()
        if len(alive) > 1:  # never the last one: that would measure how long a replica takes to start
            alive[0].send_signal(signal.SIGKILL)
            seen.kills_s.append(seen.now_s)


async def _ask(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await client.post("/v1/recommendations", content=body, headers={"Content-Type": "application/json"})


def _told(response: httpx.Response) -> bytes:
    """The answer without its request id, which stands first."""
    return response.content.partition(b",")[2]


def _summary(seen: Seen, requests: int) -> dict[str, Any]:
    seconds = range(int(max(seen.per_second, default=0)))
    counts = [seen.per_second[second] for second in seconds]
    first = int(min(seen.kills_s, default=len(counts)))
    before = statistics.median(counts[2:first] or counts or [0])
    return {
        "requests": requests,
        "seconds": seen.now_s,
        "kills": len(seen.kills_s),
        "right": seen.right,
        "wrong": seen.wrong,
        "refused": seen.refused,
        "lost": seen.lost,
        "attempts_that_failed": dict(seen.errors),
        "per_s_before": before,
        "per_s": seen.right / seen.now_s,
        "recovered_s": [_recovered(counts, at, before) for at in seen.kills_s],
    }


def _recovered(counts: list[int], killed_s: float, before: float) -> float | None:
    """Seconds until two in a row are as fast as nine tenths of before; None: the load ended first."""
    for second in range(int(killed_s) + 1, len(counts) - 1):
        if min(counts[second], counts[second + 1]) >= 0.9 * before:
            return second - killed_s
    return None
