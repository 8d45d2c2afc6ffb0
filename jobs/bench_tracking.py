"""What tracking costs, and how long ten thousand runs take to read: `python -m jobs.bench_tracking overhead | read`.

- overhead: a sweep of 200 small real runs with and without an MLflow server (sqlite, on this machine and so on the same
  cores), in turns, on a fresh database each time (`make bench-tracking`; about twenty minutes). The machine must be
  quiet, or the difference says nothing; the spread between turns is told.
- read: `ftmeta costs` and `ftmeta report` as commands on a sweep of 10,000 runs, of a parent that has ended (its table
  is read) and of one under way (tables of its chunks, and the runs of the last one), in a database and behind a server.
  The runs are copies, by bulk insert into MLflow's tables, of twenty that were sent through MLflow itself.

Out: docs/reports/tracking.json and tracking.md; each part keeps what the other has found.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
import yaml

from ftmeta.costs import usd_of
from ftmeta.files import write_json, write_text
from ftmeta.finetune.provenance import device_name
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.orchestrate.sweep import Sweep, make_plan
from ftmeta.orchestrate.workers import SimulatedWorker
from ftmeta.tracking import Tracker, parents, store, tracker

TARGETS = {"overhead_percent": 2.0, "costs_s": 5.0, "report_s": 20.0}
_CHUNK = Tracker.chunk
_SENT = 20  # runs that go through MLflow before they are copied
_CLI = "import sys; from ftmeta.cli import main; sys.argv[0] = 'ftmeta'; main()"
OutOption = Annotated[Path, typer.Option(help="The results, as JSON; the page lies beside it.")]
_MODULE = "python -m jobs.bench_tracking"
_OUT = Path("docs/reports/tracking.json")

app = typer.Typer(add_completion=False)


@app.command()
def overhead(
    out: OutOption = _OUT,
    runs: Annotated[int, typer.Option(min=2, help="Of a sweep.")] = 200,
    turns: Annotated[int, typer.Option(min=1, help="Sweeps with tracking, and as many without.")] = 3,
) -> None:
    """Sweeps with and without tracking, in turns."""
    took: dict[str, list[float]] = {"without": [], "with": []}
    load_before = os.getloadavg()[0]
    for turn in range(turns):
        order = ("without", "with") if turn % 2 == 0 else ("with", "without")  # a machine that warms up favours none
        for how in order:
            sys.stderr.write(f"turn {turn + 1} of {turns}: {how} tracking\n")
            took[how].append(_sweep_s(runs, is_tracked=how == "with"))
    ratio = median(took["with"]) / median(took["without"]) - 1
    found = {
        "runs": runs,
        "sweep_s": took,
        "overhead_percent": 100 * ratio,
        "spread_percent": 100 * (max(took["without"]) / min(took["without"]) - 1),
        "load_before": load_before,
    }
    _keep(out, "overhead", found)


@app.command()
def read(
    out: OutOption = _OUT,
    runs: Annotated[int, typer.Option(min=_SENT)] = 10_000,
    turns: Annotated[int, typer.Option(min=1)] = 3,
    beside: Annotated[str | None, typer.Option(help="What else the machine does meanwhile.")] = None,
) -> None:
    """`ftmeta costs` and `ftmeta report` on many runs."""
    found: dict[str, Any] = {"runs": runs, "load_before": os.getloadavg()[0]}
    if beside is not None:
        found["beside"] = beside
    with tempfile.TemporaryDirectory(prefix="ftmeta-tracking-") as name:
        folder = Path(name)
        found["end_of_sweep_s"] = _many_runs(folder, runs)
        found["database"] = _reading_s(f"sqlite:///{folder}/mlflow.db", folder, turns)
        with _server(folder) as address:
            found["server"] = _reading_s(address, folder, turns)
        with sqlite3.connect(folder / "mlflow.db") as database:
            database.execute("update runs set status = 'RUNNING' where name = 'many'")
        found["database_under_way"] = _reading_s(f"sqlite:///{folder}/mlflow.db", folder, 1)
    _keep(out, "read", found)


# --- a sweep ----------------------------------------------------------------------------------------------------------


def _sweep_s(runs: int, *, is_tracked: bool) -> float:
    """Wall seconds from the first slot to the end of the command, MLflow's last request included."""
    sweep = {
        "name": "bench-tracking",
        "tasks": ["elements"],
        "pipelines": {"sample": runs, "seed": 0},
        "budget": {"epochs": 0.3, "max_fidelity": 3, "max_train_examples": 100, "eval_examples": 32},
        "slots": 2,
    }
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with tempfile.TemporaryDirectory(prefix="ftmeta-tracking-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
        address = stack.enter_context(_server(folder)) if is_tracked else None
        tracking = [] if address is None else ["--tracking-uri", address]
        command = ["collect", str(folder / "sweep.yaml"), "--out", str(folder / "out"), "--json", *tracking]
        summary = json.loads(_command(command, own))
        if summary["done"] != runs or summary.get("untracked"):
            raise RuntimeError(f"the sweep did not end as it should: {summary}")
        return float(summary["wall_s"])


# --- many runs --------------------------------------------------------------------------------------------------------


def _many_runs(folder: Path, runs: int) -> float:
    """A database with a sweep of so many runs; how long the end of such a sweep takes in MLflow, in seconds."""
    uri = f"sqlite:///{folder}/mlflow.db"
    planned = Sweep.model_validate(
        {
            "name": "many",
            "tasks": ["elements", "world-facts"],
            "worker": "simulated",
            "pipelines": {"sample": _SENT // 2},
        }
    )
    worker = SimulatedWorker()
    tracked = tracker(uri, "collect", usd=usd_of).sweep("many", "key")
    for spec in make_plan(planned).runs:
        run = worker.begin(spec)
        for _ in range(spec.budget.max_fidelity + 1):
            next(run)
        tracked.log(run.finish())
    if tracked.close("ok", {}):
        raise RuntimeError("MLflow has not taken the runs")
    _copy(folder / "mlflow.db", runs - _SENT)
    _close_chunks(uri, runs - _SENT)
    began = time.perf_counter()
    tracker(uri, "collect", usd=usd_of, drain_s=600).sweep("many", "key").close("ok", {})
    return time.perf_counter() - began


def _copy(file: Path, copies: int) -> None:
    chance = random.Random(0)
    database = sqlite3.connect(file)
    database.row_factory = sqlite3.Row
    of_runs = "select r.* from runs r join tags t on t.run_uuid = r.run_uuid where t.key = 'kind' and t.value = 'run'"
    sources = [dict(row) for row in database.execute(of_runs)]
    tables = ("params", "tags", "latest_metrics", "metrics")
    held: dict[str, dict[str, list[dict[str, Any]]]] = {table: {} for table in tables}
    for table in tables:
        for row in database.execute(f"select * from {table}"):
            held[table].setdefault(row["run_uuid"], []).append(dict(row))
    new: dict[str, list[dict[str, Any]]] = {table: [] for table in ("runs", *tables)}
    for number in range(copies):
        source, run_id = sources[number % len(sources)], uuid.UUID(int=chance.getrandbits(128)).hex
        later_ms = chance.randrange(300 * 86_400_000)
        times = {name: source[name] + later_ms for name in ("start_time", "end_time")}
        new["runs"].append({**source, **times, "run_uuid": run_id})
        for table in tables:
            for row in held[table].get(source["run_uuid"], []):
                changed = {"run_uuid": run_id}
                if table == "tags" and row["key"] in _OF_THE_COPY:
                    changed["value"] = _OF_THE_COPY[row["key"]].format(
                        run_id=run_id, task=number % 20, chunk=number // _CHUNK
                    )
                new[table].append({**row, **changed})
    for table, rows in new.items():
        if rows:
            marks = ",".join("?" * len(rows[0]))
            statement = f"insert into {table} ({','.join(rows[0])}) values ({marks})"
            database.executemany(statement, [tuple(row.values()) for row in rows])
    database.commit()
    database.close()


_OF_THE_COPY = {"run_id": "{run_id:.16}", "task": "task-{task}", "chunk": "chunk-{chunk}"}


def _close_chunks(uri: str, copies: int) -> None:
    """As a sweep does on its way: all but the last one."""
    opened = store.open_store(uri, "collect", usd_of)
    opened.parent_id = parents.find_parent(opened, "key").info.run_id  # type: ignore[union-attr]
    last = (copies - 1) // _CHUNK
    for number in range(last + 1):
        opened.client.set_tag(opened.parent_id, f"chunk.chunk-{number}", "open")
        if number < last:
            opened.chunk = f"chunk-{number}"
            parents.close_chunk(opened)


def _reading_s(address: str, folder: Path, turns: int) -> dict[str, Any]:
    """Wall seconds of the commands, with the start of the interpreter and all imports."""
    own = {**os.environ, "MLFLOW_TRACKING_URI": address}
    took: dict[str, list[float]] = {}
    for _ in range(turns):
        for name, command in {
            "costs": ["costs", "--by", "month", "--json"],
            "report": ["report", "collect", "--out", str(folder / "report.html"), "--json"],
        }.items():
            began, cpu_before_s = time.perf_counter(), _cpu_of_children_s()
            _command(command, own)
            took.setdefault(f"{name}_s", []).append(time.perf_counter() - began)
            took.setdefault(f"{name}_cpu_s", []).append(_cpu_of_children_s() - cpu_before_s)
    return {**took, "page_bytes": (folder / "report.html").stat().st_size}


def _cpu_of_children_s() -> float:
    """Of those that have ended; a server that still runs is not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- processes --------------------------------------------------------------------------------------------------------


def _command(arguments: list[str], environment: dict[str, str]) -> str:
    command = [sys.executable, "-W", "ignore", "-c", _CLI, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"ftmeta {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
    return done.stdout


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """MLflow on the database of `folder`; its address, once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log)
    try:
        _await(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(url, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError("the MLflow server does not answer")


# --- the page ---------------------------------------------------------------------------------------------------------


def _keep(out: Path, part: str, found: dict[str, Any]) -> None:
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    hardware = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores"
    document = {**before, "targets": TARGETS, part: {**found, "hardware": hardware}}
    write_json(out, document)
    write_text(out.with_suffix(".md"), page(document))


def page(document: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    parts = ["# Tracking: what it costs, and reading many runs"]
    if (found := document.get("overhead")) is not None:
        rows = "\n".join(f"| {how} | {_seconds(took)} |" for how, took in found["sweep_s"].items())
        parts += [
            f"## A sweep of {found['runs']} small runs",
            f"`{_MODULE} overhead` on {found['hardware']}; load before it {found['load_before']:.1f}.",
            f"| tracking | wall s of each sweep |\n|---|---|\n{rows}",
            f"Medians: {found['overhead_percent']:+.1f} % with tracking (target: at most "
            f"{document['targets']['overhead_percent']:g} %). Sweeps without tracking differ by "
            f"{found['spread_percent']:.1f} % among themselves.",
        ]
    if (found := document.get("read")) is not None:
        named = {"database": "ended, database", "server": "ended, server", "database_under_way": "under way, database"}
        rows = "\n".join(
            f"| {text} | {_both(found[key], 'costs')} | {_both(found[key], 'report')} |" for key, text in named.items()
        )
        parts += [
            f"## {found['runs']:,} runs",
            f"`{_MODULE} read` on {found['hardware']}; load before it {found['load_before']:.1f}. Wall seconds of the "
            f"whole commands, in brackets their own CPU-seconds; targets {document['targets']['costs_s']:g} and "
            f"{document['targets']['report_s']:g}.",
            f"| sweep | `ftmeta costs` | `ftmeta report` |\n|---|---|---|\n{rows}",
            *([f"Beside it: {found['beside']}."] if "beside" in found else []),
            f"At the end of such a sweep its table is made, in {found['end_of_sweep_s']:.0f} s. The page has "
            f"{found['database']['page_bytes'] / 1000:.0f} kB.",
        ]
    return "\n\n".join(parts) + "\n"


def _both(found: dict[str, Any], name: str) -> str:
    return f"{_seconds(found[f'{name}_s'])} ({_seconds(found[f'{name}_cpu_s'])})"


def _seconds(took: list[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in took)


if __name__ == "__main__":
    with exit_codes():
        app()
