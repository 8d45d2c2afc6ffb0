"""A sweep under fire: kill -9 of a worker, of the driver, of the head node's Ray and of MLflow, at random moments.

    python -m jobs.bench_collection faults

In: how many runs, how often each is killed, a seed. Out: what was killed when, and whether afterwards every planned run
exists exactly once, whole, in the ledger, in the tables and in MLflow. All processes are of a stage of their own on
loopback, and only they are killed, by their ids. tests/cluster/test_collect_faults.py has the short version.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from ftmeta import metadataset
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import MARK, OF_ANOTHER_CLUSTER, Service
from ftmeta.orchestrate.sweep import load_sweep, make_plan
from ftmeta.version import VARIABLE, code_version

KINDS = ("worker", "driver", "head", "mlflow")
PATIENCE_S = 300.0  # for anything to start or to end
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Fault:
    """What was killed, so many seconds after the beginning, with so many rows in the ledger."""

    kind: str
    at_s: float
    rows: int
    killed: int  # processes
    driver: str  # what became of the driver: `went on`, `killed`, or how it ended


class Stage:
    """MLflow, a Ray head with its workers, and the sweep's driver, each a process tree that can be killed and started
    again at the same address: `with Stage(folder, sweep) as stage: ...`. Nothing outlives the block."""

    def __init__(self, folder: Path, sweep: Path, slots: int = 2) -> None:
        self.folder, self.sweep, self._slots = folder, sweep, slots
        self.out = folder / "out"
        self.ledger = Ledger(self.out / "ledger")
        self._gcs, self._dashboard, self._client, self._agent, self._mlflow = local._free_ports(0, 0, 0, 0, 0)
        self.mlflow_uri = f"http://127.0.0.1:{self._mlflow}"
        self._marks: dict[str, str] = {}
        self._mains: dict[str, subprocess.Popen[bytes]] = {}
        self._temp_dirs: list[str] = []  # short ones: socket paths end at 107 bytes

    def __enter__(self) -> Self:
        for name in ("logs", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        try:
            self.start_mlflow()
            self.start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("driver", "head", "mlflow"):
            self.kill(name)
        for temp_dir in self._temp_dirs:
            shutil.rmtree(temp_dir, ignore_errors=True)

    def start_head(self) -> None:
        """`ray start --head`, with as many cores as the sweep has slots. Returns when it takes drivers."""
        temp_dir = tempfile.mkdtemp(prefix="ftc-", dir="/tmp")
        self._temp_dirs.append(temp_dir)
        command = [
            *(str(BIN / "ray"), "start", "--head", "--block", "--log-style", "record", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", str(self._gcs), "--include-dashboard", "false"),
            *("--ray-client-server-port", str(self._client), "--dashboard-agent-listen-port", str(self._agent)),
            *("--temp-dir", temp_dir, "--object-store-memory", "200000000", "--num-cpus", str(self._slots)),
        ]
        self._spawn("head", command)
        log = self.folder / "logs" / "head.log"
        self._await("head", lambda: "Ray runtime started." in log.read_text(encoding="utf-8", errors="replace"))

    def start_mlflow(self, wait: bool = True) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._mlflow)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        self._spawn("mlflow", command)
        if wait:
            self.await_mlflow()

    def await_mlflow(self) -> None:
        self._await("mlflow", lambda: _listens(self._mlflow))

    def start_driver(self) -> None:
        """Submits the sweep: what failed is run again too, because a killed worker leaves a row with `error`."""
        command = [sys.executable, "-m", "jobs.collect", "--config", str(self.sweep), "--out", str(self.out)]
        self._spawn("driver", [*command, "--retry-failed", "--tracking-uri", self.mlflow_uri])

    def workers(self) -> list[psutil.Process]:
        """The processes that make runs."""
        return [process for process in self.processes("head") if "SweepSlot" in _title(process)]

    def processes(self, name: str) -> list[psutil.Process]:
        """Every living process of `head`, `mlflow` or `driver`, wherever its parents have gone."""
        main = self._mains.get(name)
        if main is None:
            return []
        services: tuple[Service, ...] = ()
        with contextlib.suppress(psutil.NoSuchProcess):
            services = (Service(main.pid, psutil.Process(main.pid).create_time(), ""),)
        return local._processes(self._marks[name], services)

    def kill(self, name: str) -> int:
        """kill -9 of all its processes, until none is left; returns how many there were."""
        pids = set()
        while found := self.processes(name):
            for process in found:
                pids.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=2)
        if (main := self._mains.pop(name, None)) is not None:
            main.wait()
        return len(pids)

    def driver_ended(self) -> int | None:
        """Its exit code; None while it is at work."""
        return self._mains["driver"].poll()

    def await_driver(self) -> int:
        return self._mains["driver"].wait(timeout=10 * PATIENCE_S)

    def said(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        own = {key: value for key, value in os.environ.items() if key not in OF_ANOTHER_CLUSTER}
        self._marks[name] = uuid.uuid4().hex
        environment = {
            **own,
            MARK: self._marks[name],
            VARIABLE: code_version(),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),  # what killed drivers leave there goes with it
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its queue of background jobs is not used
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # how long a driver waits for a head that is gone, not 60
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            **({"RAY_ADDRESS": f"127.0.0.1:{self._gcs}"} if name == "driver" else {}),
        }
        with (self.folder / "logs" / f"{name}.log").open("ab" if name == "driver" else "wb") as log:
            self._mains[name] = subprocess.Popen(
                command,
                cwd=self.folder if name != "driver" else ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await(self, name: str, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            if self._mains[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{self.said(name)[-2000:]}")
            time.sleep(0.1)


def under_fire(
    stage: Stage,
    kinds: Sequence[str],
    rng: random.Random,
    within_s: float = 5.0,
    say: Callable[[str], object] = lambda text: None,
) -> list[Fault]:
    """Kills `kinds` one after the other, each at a random moment within `within_s` of work, and brings back what was
    killed. A driver that was killed, or that ended because its head was, is submitted again. Ends early only when the
    sweep is finished before all faults have happened."""
    faults: list[Fault] = []
    began_s = time.monotonic()
    stage.start_driver()
    for kind in kinds:
        if not _at_work(stage):
            break
        time.sleep(rng.uniform(0, within_s))
        rows = len(stage.ledger)
        at_s = time.monotonic() - began_s
        if kind == "worker":
            target = rng.choice(_until(stage.workers))
            target.kill()
            killed = 1
        else:
            killed = stage.kill(kind)
        became = _brought_back(stage, kind)
        faults.append(Fault(kind, at_s, rows, killed, became))
        say(f"{kind} killed after {at_s:.0f} s with {rows} rows; the driver: {became}")
    return faults


def _brought_back(stage: Stage, kind: str) -> str:
    """Starts again what was killed; returns what became of the driver."""
    if kind == "mlflow":
        stage.start_mlflow(wait=False)
    elif kind == "driver":
        stage.start_driver()
        return "killed"
    elif kind == "head":
        try:
            code = stage._mains["driver"].wait(timeout=PATIENCE_S)
            became = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            became = f"hung for {PATIENCE_S:.0f} s"
        stage.kill("driver")
        stage.start_head()
        stage.start_driver()
        return became
    return "went on"


def finish(stage: Stage, submissions: int = 4) -> dict[str, Any]:
    """Lets the driver end, and submits the sweep again while runs are failed; returns the last summary."""
    stage.await_mlflow()
    for _ in range(submissions):
        code = stage.await_driver()
        summary = _last_summary(stage.said("driver"))
        if code == 0 and summary is not None and not summary["failed"] and not summary["untracked"]:
            return summary
        stage.kill("driver")
        stage.start_driver()
    raise RuntimeError(f"the sweep does not finish:\n{stage.said('driver')[-3000:]}")


def audit(stage: Stage) -> dict[str, Any]:
    """What there is after all: every count has to be `planned`, and every other number zero."""
    planned = {spec.run_id for spec in make_plan(load_sweep(stage.sweep)).runs}
    whole, problems = stage.ledger.scan()
    table = metadataset.read(stage.out).runs
    tracked = _tracked(stage.mlflow_uri)
    in_ledger = [result.run.run_id for result in whole]
    return {
        "planned": len(planned),
        "in_ledger": len(set(in_ledger) & planned),
        "in_tables": len(set(table["run_id"]) & planned),
        "in_mlflow": len(set(tracked) & planned),
        "torn": len(problems),
        "twice_in_tables": len(table) - table["run_id"].nunique(),
        "twice_in_mlflow": sum(" again " in name for name in tracked),
        "foreign": len(set(in_ledger) - planned),
        "failed": sum(result.run.status in ("error", "oom") for result in whole),
        "curves_that_end_early": sum(
            result.run.status == "ok" and len(result.curve) != result.run.max_fidelity + 1 for result in whole
        ),
        "status_differs_in_mlflow": sum(
            tracked[result.run.run_id] != result.run.status for result in whole if result.run.run_id in tracked
        ),
    }


def smoke_sweep(path: Path, runs: int) -> Path:
    """A sweep of short real runs, a second or two each, as a file."""
    path.write_text(
        f"name: under-fire\ntasks: [elements, world-facts]\npipelines: {{sample: {runs // 2}}}\n"
        "budget: {epochs: 0.1, max_fidelity: 2, eval_examples: 16}\n"
    )
    return path


def measure(runs: int, times_each: int, seed: int) -> dict[str, Any]:
    """The long version: each kind `times_each` times, in random order."""
    rng = random.Random(seed)
    kinds = [kind for kind in KINDS for _ in range(times_each)]
    rng.shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="ftmeta-faults-") as name:
        sweep = smoke_sweep(Path(name) / "sweep.yaml", runs)
        with Stage(Path(name), sweep) as stage:
            return _measured(stage, kinds, rng, seed)


def _measured(stage: Stage, kinds: Sequence[str], rng: random.Random, seed: int) -> dict[str, Any]:
    began_s = time.monotonic()
    faults = under_fire(stage, kinds, rng, say=lambda text: sys.stderr.write(f"{text}\n"))
    finish(stage)
    return {
        "seed": seed,
        "wanted": len(kinds),
        "faults": [vars(fault) for fault in faults],
        "wall_s": time.monotonic() - began_s,
        "audit": audit(stage),
    }


def _at_work(stage: Stage) -> bool:
    """Waits until the driver has workers and has added a row; False when it ended well before that."""
    rows = len(stage.ledger)

    def begun() -> bool:
        code = stage.driver_ended()
        if code == 0:
            return True
        if code is not None:
            raise RuntimeError(f"the driver ended with {code}:\n{stage.said('driver')[-3000:]}")
        return bool(stage.workers()) and len(stage.ledger) > rows

    _until(begun)
    return stage.driver_ended() is None


def _until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"it did not happen within {PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return found


def _last_summary(said: str) -> dict[str, Any] | None:
    """The last JSON document in a driver's log."""
    start = said.rfind("\n{\n")
    with contextlib.suppress(ValueError):
        return dict(json.loads(said[start : said.index("\n}\n", start) + 2]))
    return None


def _tracked(uri: str) -> Mapping[str, str]:
    """Run id -> status of every child run in MLflow; a run that is there twice has an entry of its own."""
    address = f"{uri}/api/2.0/mlflow"
    experiment = _get(f"{address}/experiments/get-by-name?experiment_name=collect")["experiment"]["experiment_id"]
    found: dict[str, str] = {}
    token = None
    while True:
        page = _post(
            f"{address}/runs/search", {"experiment_ids": [experiment], "max_results": 500, "page_token": token}
        )
        for run in page.get("runs", []):
            tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            if tags["kind"] == "run":
                name = tags["run_id"]
                found[name if name not in found else f"{name} again {run['info']['run_id']}"] = tags["status"]
        token = page.get("next_page_token")
        if not token:
            return found


def _get(url: str) -> dict[str, Any]:
    return _asked(url, None)


def _post(url: str, document: Mapping[str, Any]) -> dict[str, Any]:
    return _asked(url, json.dumps({key: value for key, value in document.items() if value is not None}).encode())


def _asked(url: str, body: bytes | None) -> dict[str, Any]:
    import urllib.request

    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    with direct.open(request, timeout=60) as response:
        return dict(json.load(response))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
