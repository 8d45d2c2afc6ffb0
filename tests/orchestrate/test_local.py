"""The parts of the local cluster that need no cluster: ports, the state folder, and which processes are its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

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
