"""A sweep whose MLflow server is killed under it: for a while, and for good. A real server, the simulated worker."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta.metadataset import Ledger

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]

ROOT = Path(__file__).parents[2]
RUNS = 50


class Server:
    """An MLflow server on loopback that can be killed and started again at the same address, with its database."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._folder = f"http://127.0.0.1:{self.port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"),
            *("--artifacts-destination", str(self._folder / "files")),
        ]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=self._folder, **quiet)
        wait_for(self._answers)

    def kill(self) -> None:
        """kill -9, of the server and of the processes that it started."""
        if self._process is None:
            return
        main = psutil.Process(self._process.pid)
        for process in (main, *main.children(recursive=True)):
            process.kill()
        self._process.wait()
        self._process = None
        wait_for(lambda: not self._answers())

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "mlflow-server").mkdir()
    server = Server(tmp_path / "mlflow-server")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: tracked\ntasks: [elements]\nworker: simulated\nslots: 1\npipelines: {{sample: {RUNS}}}\n"
        "budget: {max_fidelity: 2}\n"
    )
    return path


@contextmanager
def driver(sweep: Path, out: Path, uri: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "jobs.collect", "--config", str(sweep), "--out", str(out), "--tracking-uri", uri]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Its summary and what it said; it has to end well."""
    said, complaint = process.communicate(timeout=150)
    assert process.returncode == 0, complaint
    return json.loads(said), complaint


def wait_for(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def tracked(uri: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The states of the parent runs; run id and state of each child."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("collect")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    parents = [run.info.status for run in runs if run.data.tags["kind"] == "sweep"]
    return parents, [(run.data.tags["run_id"], run.info.status) for run in runs if run.data.tags["kind"] == "run"]


def test_a_server_that_is_away_for_a_while_misses_nothing(server: Server, sweep: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out" / "ledger")
    with driver(sweep, tmp_path / "out", server.uri) as process:
        wait_for(lambda: len(ledger) >= 5)
        server.kill()
        rows = len(ledger)
        wait_for(lambda: len(ledger) >= rows + 10)  # nobody waits for it
        process.send_signal(signal.SIGSTOP)  # so that the sweep is not over before the server is back
        assert len(ledger) < RUNS
        server.start()
        process.send_signal(signal.SIGCONT)
        summary, said = ended(process)
    assert (summary["done"], summary["untracked"]) == (RUNS, 0)
    assert said.count("does not answer") == 1
    parents, children = tracked(server.uri)
    assert parents == ["FINISHED"]
    assert {run_id for run_id, _ in children} == ledger.run_ids()
    assert [state for _, state in children] == ["FINISHED"] * RUNS


def test_a_server_that_never_comes_back_costs_no_row_and_the_next_submission_fills_the_gap(
    server: Server, sweep: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with driver(sweep, out, server.uri) as process:
        wait_for(lambda: len(Ledger(out / "ledger")) >= 5)
        server.kill()
        summary, said = ended(process)
    assert (summary["planned"], summary["done"]) == (RUNS, RUNS)
    assert summary["untracked"] > 0
    assert "submitting again sends them" in said
    assert len(Ledger(out / "ledger")) == RUNS
    server.start()
    with driver(sweep, out, server.uri) as process:
        again, _ = ended(process)
    assert (again["skipped"], again["untracked"]) == (RUNS, 0)
    parents, children = tracked(server.uri)
    assert parents == ["FINISHED"]
    assert sorted(children) == [(run_id, "FINISHED") for run_id in sorted(Ledger(out / "ledger").run_ids())]
