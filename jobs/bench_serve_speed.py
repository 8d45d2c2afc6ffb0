"""How fast the service answers, beside an empty deployment on the same Serve: wrk, in turns.

In each round every case is measured for some seconds, so that a noisy moment hits all of them. The ratios are of the
medians over the rounds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ftmeta.errors import MissingDependencyError
from jobs.bench_serve_session import datasets, in_session, questions, replicas_here

_ANSWER = "/v1/recommendations"
_SCRIPT = """
local requests, n = {}, 0
function init(args)
  for line in io.lines(os.getenv("BENCH_BODIES")) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, line)
  end
end
function request() n = n % #requests + 1; return requests[n] end
function done(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status, failed))
end
"""


@dataclass(frozen=True)
class Case:
    path: str
    bodies: str  # the name of the file
    connections: int


CASES = {
    "empty, 1 connection": Case("/empty/", "one", 1),
    "a new task each time, 1 connection": Case(_ANSWER, "different", 1),
    "the same task again, 1 connection": Case(_ANSWER, "one", 1),
    "empty, 16 connections": Case("/empty/", "one", 16),
    "a new task each time, 16 connections": Case(_ANSWER, "different", 16),
    "the same task again, 16 connections": Case(_ANSWER, "one", 16),
    "1,000 rows, 1 connection": Case(_ANSWER, "rows", 1),
}


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """Raises MissingDependencyError without wrk."""
    if shutil.which("wrk") is None:
        raise MissingDependencyError("wrk is missing: apt-get install wrk")
    return in_session(lambda url: _measure(url, rounds, seconds))


def _measure(url: str, rounds: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "load.lua").write_text(_SCRIPT)
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            described = client.get("/openapi.json").json()["paths"][_ANSWER]["post"]
            metafeatures = described["responses"]["200"]["content"]["application/json"]["example"]["metafeatures"]
            selector = client.get("/v1/selector").json()
        for name, bodies in (
            ("one", questions(metafeatures, 1)),
            ("different", questions(metafeatures, 5_000)),
            ("rows", datasets(1_000, 40)),
        ):
            (folder / name).write_text("\n".join(bodies) + "\n")
        for case in CASES.values():
            _wrk(url, case, folder, 2)  # nothing is cold
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
        for _ in range(rounds):
            for name, case in CASES.items():
                found[name].append(_wrk(url, case, folder, seconds))
        memory_mb = max(one.memory_info().rss for one in replicas_here()) / 1e6
    return {
        "cases": {name: _summary(rows) for name, rows in found.items()},
        "memory_mb": memory_mb,
        "rounds": rounds,
        "seconds": seconds,
        "selector": {"name": selector["name"], "runs": selector["meta_dataset"]["runs"]},
    }


def _wrk(url: str, case: Case, folder: Path, seconds: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(folder / "load.lua"), url + case.path]
    environment = {**os.environ, "BENCH_BODIES": str(folder / case.bodies)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the rounds, sums of what went wrong."""
    return {
        "p50_ms": statistics.median(one["p50_ms"] for one in rows),
        "p99_ms": statistics.median(one["p99_ms"] for one in rows),
        "per_s": statistics.median(one["requests"] / one["seconds"] for one in rows),
        "requests": sum(one["requests"] for one in rows),
        "refused": sum(one["refused"] for one in rows),
        "failed": sum(one["failed"] for one in rows),
    }
