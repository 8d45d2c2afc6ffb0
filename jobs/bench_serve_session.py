"""The service and an empty deployment side by side on one private Ray, for as long as a measurement takes.

    found = in_session(lambda url: measure(url))

The empty one is a FastAPI application that answers `{}` to everything under /empty: what Serve itself costs.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
from fastapi import FastAPI

from ftmeta.serving.answering import EXAMPLE
from ftmeta.serving.local import serve_locally

Found = TypeVar("Found")


def in_session(measure: Callable[[str], Found], *, replicas: int = 1) -> Found:
    """Calls `measure` with the service's address and returns what it returns. Nothing is left running."""
    found: list[Found] = []

    def ready(url: str) -> None:
        from ray import serve

        from ftmeta.serving.app import build

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if replicas > 1:
            serve.run(build({"replicas": replicas}), name="ftmeta", route_prefix="/")
        serve.run(empty(), name="empty", route_prefix="/empty")
        found.append(measure(url))
        raise KeyboardInterrupt  # ends what serves

    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    serve_locally(port=_free_port(), on_ready=ready)
    return found[0]


def empty() -> Any:
    """The application to compare with, with the options of ours."""
    from ray import serve

    app = FastAPI()

    @serve.deployment(name="Empty", max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
    @serve.ingress(app)
    class Empty:
        @app.post("/")
        async def nothing(self) -> dict[str, str]:
            return {}

    return Empty.bind()  # type: ignore[attr-defined]  # what the decorators make of it


def replicas_here() -> list[psutil.Process]:
    """The processes of the service's replicas that this process started."""
    ours = psutil.Process().children(recursive=True)
    return [one for one in ours if _title(one).startswith("ray::ServeReplica:ftmeta")]


def questions(metafeatures: dict[str, float], count: int) -> list[str]:
    """`count` different bodies for /v1/recommendations: tasks of other sizes and lengths."""
    bodies = []
    for n in range(count):
        change = 1 + 0.3 * (n / count - 0.5)
        moved = {name: value * change if "tokens_" in name else value for name, value in metafeatures.items()}
        bodies.append(json.dumps({"dataset": {"metafeatures": moved}, "top_k": 5}))
    return bodies


def datasets(rows: int, count: int) -> list[str]:
    """`count` different bodies with `rows` rows, of the length of usual questions and answers."""
    examples = [json.loads(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    bodies = []
    for n in range(count):
        records = [
            {
                "question": f"{examples[at % len(examples)]['question']} ({n}.{at})",
                "answer": examples[at % 97]["answer"],
            }
            for at in range(rows)
        ]
        bodies.append(json.dumps({"dataset": {"records": records}, "top_k": 5}))
    return bodies


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
