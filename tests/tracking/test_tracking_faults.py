"""What may happen to an MLflow server while a sweep runs: nothing is lost, nothing is there twice, and it is said."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta.tracking import tracker
from ftmeta.tracking.filling import Parent, fill
from ftmeta.tracking.rows import Experiment, read_experiments
from tests.test_tracking import a_result
from tests.tracking.servers import Server, mlflow_server

pytestmark = [
    pytest.mark.cluster,  # starts servers; not for test-fast
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]
RESULTS = [a_result(seed) for seed in range(6)]


def everything(uri: str) -> Experiment:
    (found,) = read_experiments(uri, ["collect"])
    return found


def assert_each_run_once(uri: str, results: list = RESULTS) -> None:
    found = everything(uri)
    assert Counter(run.run_id for run in found.runs) == Counter(result.run.run_id for result in results)
    assert {run.status for run in found.runs} == {"ok"}
    assert len(found.parents) == 1


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with mlflow_server(tmp_path) as running:
        yield running


def test_a_server_that_is_killed_and_started_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    sweep = tracker(server.uri, "collect", drain_s=90).sweep("smoke", "key")
    for result in RESULTS[:3]:
        sweep.log(result)
    wait_until(lambda: not sweep._waiting)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="ftmeta.tracking"):
        server.kill()
        for result in RESULTS[3:]:
            sweep.log(result)
        wait_until(lambda: "does not answer" in caplog.text)
        server.start()
        wait_until(lambda: not sweep._waiting)  # type: ignore[attr-defined]
        assert sweep.close("ok", {}) == 0
    assert caplog.text.count("does not answer") == 1
    assert_each_run_once(server.uri)


def test_a_disk_that_is_full_and_then_is_not(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    sweep = tracker(server.uri, "collect", drain_s=90).sweep("smoke", "key")
    sweep.log(RESULTS[0])
    wait_until(lambda: not sweep._waiting)  # type: ignore[attr-defined]
    assert server.process is not None
    main = psutil.Process(server.process.pid)
    processes = [main.pid, *(child.pid for child in main.children(recursive=True))]
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.WARNING, logger="ftmeta.tracking"):
        for pid in processes:  # a file may not grow any more, as on a full disk
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most))
        for result in RESULTS[1:]:
            sweep.log(result)
        wait_until(lambda: "does not answer" in caplog.text)
        for pid in processes:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        wait_until(lambda: not sweep._waiting)  # type: ignore[attr-defined]
        assert sweep.close("ok", {}) == 0
    assert_each_run_once(server.uri)


@contextmanager
def slow(server: Server, pause_s: float) -> Iterator[str]:
    """The server's address, behind something that keeps every answer back."""

    class Proxy(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(pause_s)
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            asked = urllib.request.Request(server.uri + self.path, body or None, headers, method=self.command)
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with direct.open(asked, timeout=60) as answer:
                    status, said = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, said = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # the names that http.server calls

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_a_server_that_takes_two_seconds_for_an_answer_holds_up_nothing(server: Server) -> None:
    with slow(server, 2.0) as uri:
        sweep = tracker(uri, "collect").sweep("smoke", "key")
        for result in RESULTS[:2]:
            sweep.log(result)
        assert len(sweep._waiting) == 2, "log has waited for the server"  # type: ignore[attr-defined]
        assert sweep.close("ok", {"runs.done": 2.0}) == 0
    assert_each_run_once(server.uri, RESULTS[:2])
    assert everything(server.uri).parents[0].metrics["runs.done"] == 2.0


_ONE_SWEEP = """
import sys
from ftmeta.tracking import tracker
from tests.test_tracking import a_result
uri, name, first = sys.argv[1:]
sweep = tracker(uri, "collect", drain_s=90).sweep(name, name)
for seed in range(int(first), int(first) + 3):
    sweep.log(a_result(seed))
print(sweep.close("ok", {}))
"""


def test_two_sweeps_at_once_on_a_database_that_is_not_there_yet(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _ONE_SWEEP, uri, name, first],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, first in (("one", "0"), ("other", "3"))
    ]
    said = [one.communicate(timeout=150) for one in both]
    unsent = [int(out) for out, _ in said]
    found = everything(uri)
    assert len(found.runs) == len(RESULTS) - sum(unsent)
    for name, runs in (("one", RESULTS[:3]), ("other", RESULTS[3:])):  # what one could not send is sent afterwards
        fill(tracker(uri, "collect"), runs, Parent(name, name))
    found = everything(uri)
    assert Counter(run.run_id for run in found.runs) == Counter(result.run.run_id for result in RESULTS)
    assert sorted(parent.name for parent in found.parents) == ["one", "other"]
    assert unsent == [0, 0], said
