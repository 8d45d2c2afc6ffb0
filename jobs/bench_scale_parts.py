"""What each part of the system costs for a run, a row, a question or a node: one measurement, in a process of its own.

    python -m jobs.bench_scale_parts driver '{"slots": 2, "runs": 100, "run_s": 0.5, "fidelities": 10}'

In: the part and its settings. Out: JSON, the last line of standard output. Costs are CPU-seconds of the process that is
meant, which other load on the machine moves far less than wall time. jobs/bench_scale.py puts them together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ftmeta.metadataset import Ledger
from ftmeta.orchestrate import execution, local
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.local import MARK, OF_ANOTHER_CLUSTER, Service
from ftmeta.orchestrate.progress import Totals, UnderWay
from ftmeta.orchestrate.state import State
from ftmeta.orchestrate.sweep import BudgetChanges, Pipelines, Sweep, make_plan
from ftmeta.orchestrate.trainable import SweepSlot
from ftmeta.orchestrate.workers import SimulatedWorker
from ftmeta.schema import CurvePoint, RunResult, RunSpec, Status
from ftmeta.tracking import Tracker, tracker

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
FIDELITIES = 10


def simulated_sweep(runs: int, slots: int | None = None, fidelities: int = FIDELITIES) -> Sweep:
    return Sweep(
        name=f"scale-{runs}",
        tasks=["elements"],
        pipelines=Pipelines(sample=runs),
        budget=BudgetChanges(max_fidelity=fidelities),
        worker="simulated",
        slots=slots,
        cpus_per_slot=0.5,
    )


# --- the driver of a sweep --------------------------------------------------------------------------------------------


class _Marks:
    """In the place of MLflow: what processes had used when a row came."""

    def __init__(self) -> None:
        self.at: list[dict[str, float]] = []
        self._me = psutil.Process()

    def log(self, result: RunResult, **more: Any) -> None:
        self.at.append({"wall_s": time.perf_counter(), "driver_s": _cpu_s(self._me), **self._head()})

    def close(self, status: Status, metrics: Mapping[str, float | None], *more: Any) -> int:
        return 0

    def _head(self) -> dict[str, float]:
        found = {"gcs_s": 0.0, "raylet_s": 0.0}
        for child in self._me.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                name = {"gcs_server": "gcs_s", "raylet": "raylet_s"}.get(child.name())
                if name is not None:
                    found[name] += _cpu_s(child)
        return found


@dataclass(frozen=True)
class _Unhurried:
    """A worker that computes nothing and takes its time: half to one and a half of `run_s`, by the run's id."""

    run_s: float

    def begin(self, spec: RunSpec) -> Any:
        takes_s = self.run_s * (0.5 + int(spec.run_id[-4:], 16) / 0xFFFF)
        return _UnhurriedRun(SimulatedWorker().begin(spec), takes_s / (spec.budget.max_fidelity + 1))


@dataclass(frozen=True)
class _UnhurriedRun:
    run: Any
    point_s: float

    def __next__(self) -> CurvePoint:
        time.sleep(self.point_s)
        return next(self.run)  # type: ignore[no-any-return]

    def finish(self) -> RunResult:
        return self.run.finish()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.run.close()


def driver(slots: int, runs: int, run_s: float, fidelities: int) -> dict[str, float]:
    """CPU-seconds a run of the driver, of the GCS and of the raylet while all slots are at work, and how many worker
    processes that took. Each fidelity is reported, as of runs that take minutes."""
    import ray
    from ray import tune

    plan = make_plan(simulated_sweep(runs, slots, fidelities))
    marks = _Marks()
    with tempfile.TemporaryDirectory(prefix="ftmeta-scale-") as folder, connected(None, max(1, slots // 2)):
        os.environ.update(execution._TUNE_SETTINGS)
        ledger = Ledger(Path(folder) / "ledger")
        state = State(ledger, marks, Totals(runs, slots))  # type: ignore[arg-type]
        slot = tune.with_parameters(
            SweepSlot,
            tasks={},
            make_worker=lambda tasks: _Unhurried(run_s),
            report_every_s=0.0,
        )
        searcher, rows = execution._searcher(plan.runs, state), execution._rows(state)
        execution._fit(slot, execution._resources(plan.sweep), searcher, rows, runs, state, Path(folder) / "tune")
        assert len(ledger) == runs
        logs = Path(ray.get_runtime_context().get_temp_dir()) / ray.get_runtime_context().get_session_name() / "logs"
        workers = len(list(logs.glob("worker-*-01000000-*.out")))
    first, last = marks.at[2 * slots], marks.at[-slots]
    counted = len(marks.at) - 3 * slots
    used = {name: (last[name] - first[name]) / counted for name in first}
    return {**used, "runs": runs, "counted": counted, "workers": workers}


# --- rows -------------------------------------------------------------------------------------------------------------


def ledger(rows: int) -> dict[str, float]:
    """Seconds of CPU to keep a row and to look for one; operations on the file system that keeping one takes."""
    operations: dict[str, int] = {}
    counting = False

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        named = event in {"os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.scandir", "os.listdir", "open"}
        if counting and named and folder in str(arguments[0]):
            operations[event] = operations.get(event, 0) + 1

    results = list(_results(rows))
    with tempfile.TemporaryDirectory(prefix="ftmeta-scale-") as folder:
        book = Ledger(Path(folder) / "ledger")
        put_s = _cpu_of(lambda: [book.put(result) for result in results]) / rows
        has_s = _cpu_of(lambda: [book.has(result.run.run_id) for result in results]) / rows
        ids_s = _cpu_of(lambda: book.run_ids()) / rows
        brief_s = _cpu_of(lambda: list(book.briefs())) / rows
        row_bytes = statistics.mean(path.stat().st_size for path in (Path(folder) / "ledger").glob("*/*.json"))
        sys.addaudithook(count)
        book_of_one = Ledger(Path(folder) / "one")
        for result in results[:2]:
            (book_of_one.directory / result.run.run_id[:2]).mkdir(parents=True, exist_ok=True)  # as after some runs
        counting = True
        book_of_one.put(results[0])
        counting = False
    return {
        "put_s": put_s,
        "has_s": has_s,
        "ids_s": ids_s,
        "brief_s": brief_s,
        "row_bytes": row_bytes,
        "operations": sum(operations.values()),
    }


def _results(count: int) -> Iterator[RunResult]:
    """Rows of simulated runs, as a worker would have made them."""
    plan = make_plan(simulated_sweep(count))
    for spec in plan.runs:
        run = SimulatedWorker().begin(spec)
        for _ in range(FIDELITIES + 1):
            next(run)  # type: ignore[call-overload]
        yield run.finish()


# --- MLflow -----------------------------------------------------------------------------------------------------------


def mlflow(runs: int) -> dict[str, float]:
    """CPU-seconds a run of the server (one worker, sqlite) and of the thread in the driver that sends."""
    (port,) = local._free_ports(0)
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="ftmeta-scale-") as folder:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
        ]
        more = {MARK: mark, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with _process(command, mark, {**os.environ, **more}, folder) as server:
            address = f"http://127.0.0.1:{port}"
            _until(lambda: local._answers(f"{address}/health", None), 120)
            first, *rest = _results(runs + 1)
            _sent(tracker(address, "scale"), [first])  # connects, makes the experiment and the parent run
            server_began_s, began_s = _tree_cpu_s(server), time.perf_counter()
            send_s = _cpu_of(lambda: _sent(tracker(address, "scale"), rest)) / runs
            wall_s = (time.perf_counter() - began_s) / runs
            return {"server_s": (_tree_cpu_s(server) - server_began_s) / runs, "send_s": send_s, "wall_s": wall_s}


def _sent(to: Tracker, results: Sequence[RunResult]) -> None:
    sweep = replace(to, drain_s=300.0).sweep("scale", "scale", {})
    for result in results:
        sweep.log(result)
    if unsent := sweep.close("ok", {}):
        raise RuntimeError(f"{unsent} runs were not taken by MLflow")


# --- what travels -----------------------------------------------------------------------------------------------------


def objects(tasks: Sequence[str]) -> dict[str, float]:
    """Bytes: of the tasks, which go to each node once; of a report and of a finished run, which go to the driver; of a
    driver's word (beacon) with so many runs under way; of the package of a job."""
    import yaml
    from ray._private.runtime_env.packaging import create_package

    sweep = simulated_sweep(1).model_copy(update={"tasks": list(tasks)})
    plan = make_plan(sweep)
    (result,) = itertools.islice(_results(1), 1)
    report = {"run_id": result.run.run_id, "fidelity": 5, "score": 0.5, "cost_s": 12.5, "done": False}
    under_way = [vars(UnderWay(result.run.run_id, "elements", result.run.pipeline.id, 0)) for _ in range(1000)]
    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text(encoding="utf-8"))["excludes"]
    with tempfile.TemporaryDirectory(prefix="ftmeta-scale-") as folder:
        package = Path(folder) / "package.zip"
        create_package(str(ROOT), package, True, excludes=excludes, logger=None)
        package_bytes = package.stat().st_size
    return {
        "tasks": len(plan.tasks),
        "tasks_bytes": len(pickle.dumps(dict(plan.tasks))),
        "report_bytes": len(pickle.dumps(report)),
        "run_bytes": len(pickle.dumps({**report, "finished": result})),
        "beacon_bytes_1000": len(json.dumps(under_way)),
        "package_bytes": package_bytes,
    }


# --- the service ------------------------------------------------------------------------------------------------------


def service(questions: int) -> dict[str, float]:
    """CPU-seconds of a replica's application for an answer, by what is asked; Ray Serve's own work is not in it."""
    import httpx

    from ftmeta.selector import load_selector
    from ftmeta.serving.web import create_app
    from jobs.bench_serve_session import datasets
    from jobs.bench_serve_session import questions as different

    app = create_app(load_selector(None))
    headers = {"Content-Type": "application/json"}

    async def asked(path: str, bodies: Sequence[str]) -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answers = [await client.post(path, content=body, headers=headers) for body in bodies]
        for answer in answers:
            answer.raise_for_status()
        return [answer.json() for answer in answers]

    def cost_s(path: str, bodies: Sequence[str]) -> float:
        asyncio.run(asked(path, bodies[:2]))
        return _cpu_of(lambda: asyncio.run(asked(path, bodies[2:]))) / (len(bodies) - 2)

    recommend, suggest = "/v1/recommendations", "/v1/suggestions"
    (known,) = asyncio.run(asked(recommend, datasets(30, 1)))
    metafeatures = known["metafeatures"]
    observed = [
        {"pipeline": one["pipeline"], "fidelity": 1, "score": one["curve"][0], "cost_s": one["cost_s"] / FIDELITIES}
        for one in known["recommendations"]
    ]
    tuning = [
        json.dumps({"dataset": {"metafeatures": metafeatures}, "budget_s": 3600 + n, "observations": observed})
        for n in range(questions + 2)
    ]
    return {
        "new_task_s": cost_s(recommend, different(metafeatures, questions + 2)),
        "1000_rows_s": cost_s(recommend, datasets(1000, 6)),
        "same_task_s": cost_s(recommend, different(metafeatures, 1) * (questions + 2)),
        "suggestion_s": cost_s(suggest, tuning),
    }


# --- nodes ------------------------------------------------------------------------------------------------------------


def nodes(more: int, watched_s: float) -> dict[str, float]:
    """CPU-seconds a second of the head's processes with one idle node, and what each further one adds. All nodes are
    on this machine, without tasks."""
    gcs, dashboard, client = local._free_ports(0, 0, 0)
    mark = uuid.uuid4().hex
    environment = {
        **{name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CLUSTER},
        MARK: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_enable_worker_prestart": "0",
    }
    with tempfile.TemporaryDirectory(prefix="ftn-", dir="/tmp") as folder, contextlib.ExitStack() as started:

        def start(index: int, *where: str) -> subprocess.Popen[bytes]:
            (agent,) = local._free_ports(0)
            command = [
                *(str(BIN / "ray"), "start", "--block", "--log-style", "record", "--disable-usage-stats", *where),
                *("--node-ip-address", f"127.0.0.{index + 1}", "--num-cpus", "0", "--temp-dir", f"{folder}/{index}"),
                *("--object-store-memory", "80000000", "--dashboard-agent-listen-port", str(agent)),
                *("--min-worker-port", "0", "--max-worker-port", "0"),
            ]
            process = started.enter_context(_process(command, mark, environment, folder, f"node{index}.log"))
            log = Path(folder) / f"node{index}.log"

            def started_up() -> bool:
                said = log.read_text(encoding="utf-8", errors="replace")
                if process.poll() is not None:
                    raise RuntimeError(f"node {index} did not start: {said[-1000:]}")
                return "Ray runtime started." in said

            _until(started_up, 180)
            return process

        head = start(
            *(0, "--head", "--port", str(gcs), "--ray-client-server-port", str(client), "--include-dashboard", "true"),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        )
        alone = _watched(head, watched_s)
        for index in range(1, more + 1):
            start(index, "--address", f"127.0.0.1:{gcs}")
        together = _watched(head, watched_s)
    slope = {f"{name}_per_node": (together[name] - alone[name]) / more for name in alone}
    return {**alone, **slope, "more": more}


def _watched(head: subprocess.Popen[bytes], seconds: float) -> dict[str, float]:
    """CPU-seconds a second of the head node's processes while nothing is asked of them."""
    names = {"gcs_server": "gcs", "raylet": "raylet", "dashboard.py": "dashboard"}

    def used() -> dict[str, float]:
        found = dict.fromkeys(names.values(), 0.0)
        for process in psutil.Process(head.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                for name, kind in names.items():
                    if process.name() == name or f"/{name} " in title:
                        found[kind] += _cpu_s(process)
                        break
        return found

    time.sleep(5)  # what starting has left to do
    before, began_s = used(), time.perf_counter()
    time.sleep(seconds)
    after, took_s = used(), time.perf_counter() - began_s
    return {kind: (after[kind] - before[kind]) / took_s for kind in before}


# --- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(
    command: Sequence[str], mark: str, environment: Mapping[str, str], folder: str, log: str = "log"
) -> Iterator[subprocess.Popen[bytes]]:
    """A process tree that ends with the block, wherever its children have gone."""
    with (Path(folder) / log).open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        services: tuple[Service, ...] = ()
        with contextlib.suppress(psutil.NoSuchProcess):
            services = (Service(process.pid, psutil.Process(process.pid).create_time(), ""),)
        while left := local._processes(mark, services):
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, timeout=2)
        process.wait()


def _until(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it did not happen within {seconds:.0f} s")
        time.sleep(0.2)


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def _tree_cpu_s(process: subprocess.Popen[bytes]) -> float:
    main = psutil.Process(process.pid)
    return sum(_cpu_s(one) for one in (main, *main.children(recursive=True)))


def _cpu_of(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "driver": driver,
    "ledger": ledger,
    "mlflow": mlflow,
    "objects": objects,
    "service": service,
    "nodes": nodes,
}

if __name__ == "__main__":
    part, settings = sys.argv[1:]
    found = PARTS[part](**json.loads(settings))
    sys.stdout.write(json.dumps(found) + "\n")
