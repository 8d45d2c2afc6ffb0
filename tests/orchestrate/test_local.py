"""The parts of the local cluster that need no cluster: ports, the state folder, and which processes are its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from ftmeta.errors import FtmetaError
from ftmeta.orchestrate import local


def a_cluster(state: Path, cluster_id: str = "0" * 32) -> local.LocalCluster:
    gone = local.Service(pid=2**22 + 1, started=0.0, address="http://127.0.0.1:1")
    return local.LocalCluster(cluster_id, str(state), gone, gone, "127.0.0.1:6379", 8000, str(state / "ray"))


def test_ports_are_the_usual_ones_unless_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        first, second = local._free_ports(taken, taken)
    assert taken not in (first, second)
    assert first != second
    assert local._free_ports(taken) == [taken]


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    assert local.find(tmp_path) is None
    assert local.stop(tmp_path) is False
    assert local.stop(tmp_path / "absent") is False


def test_a_cluster_that_has_ended_is_found_not_alive_and_cleared(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps(asdict(a_cluster(tmp_path))))
    found = local.find(tmp_path)
    assert found == a_cluster(tmp_path)
    assert not found.alive
    assert local.stop(tmp_path) is True
    assert local.find(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"id": "x", "ray": {"pid": 1}}', '{"ray": 1, "mlflow": 2}'])
def test_a_torn_or_older_cluster_json_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    for look in (local.find, local.stop):
        with pytest.raises(FtmetaError, match=r"cluster\.json is torn or of another version.*then remove"):
            look(tmp_path)


def test_when_the_second_service_cannot_start_the_first_is_ended(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mlflow.log").mkdir()  # so that it cannot be opened
    command = [sys.executable, "-m", "ftmeta.orchestrate.local", "up", "--state", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mlflow.log" in done.stderr
    assert (tmp_path / "logs" / "ray.log").exists()  # it had been started
    assert not [process for process in psutil.process_iter() if names(process, str(tmp_path))]
    assert local.find(tmp_path) is None


def names(process: psutil.Process, state: str) -> bool:
    try:
        return process.environ().get("FTMETA_STATE") == state and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def test_a_client_s_environment_names_no_other_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "another:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://another:8265")
    cluster = a_cluster(tmp_path)
    environment = cluster.client_environment()
    assert local.OF_ANOTHER_CLUSTER & environment.keys() == {"RAY_API_SERVER_ADDRESS"}
    assert environment["RAY_API_SERVER_ADDRESS"] == cluster.ray.address
    assert environment["PATH"] == os.environ["PATH"]


def test_orphans_are_found_by_their_mark_and_others_are_left_alone(tmp_path: Path) -> None:
    cluster = a_cluster(tmp_path, cluster_id="f" * 32)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    own = subprocess.Popen(sleep, env={local.MARK: cluster.id})
    other = subprocess.Popen(sleep, env={local.MARK: "another"})
    try:
        assert [process.pid for process in local.processes(cluster)] == [own.pid]
        (tmp_path / "cluster.json").write_text(json.dumps(asdict(cluster)))
        assert local.stop(tmp_path) is True
        assert own.wait(10) != 0
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_a_later_process_with_the_same_pid_is_not_ours() -> None:
    me = psutil.Process()
    assert local.Service(me.pid, me.create_time(), "").process == me
    assert local.Service(me.pid, me.create_time() - 100, "").process is None
