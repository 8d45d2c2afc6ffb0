"""What `ftmeta doctor --cluster` makes of what was gathered: each finding provoked, on facts of a cluster that is well.

On a real cluster: tests/cluster/test_doctor.py.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta.doctor import Check, check_cluster
from ftmeta.errors import ConfigError
from ftmeta.orchestrate.health import ClusterFacts, Endpoint, NodeFacts, Service, Storage, cluster_address
from ftmeta.orchestrate.probe import Probe, _gpus, ask, ask_mlflow

VERSIONS = {
    "python": "3.11.9",
    "ray": "2.60.0",
    "torch": "2.13.0",
    "ftmeta": "0.1.0+g1",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "deepspeed": "0.19.8",
}
HEAD = NodeFacts(
    node_id="a",
    address="10.0.0.1",
    hostname="head",
    is_head=True,
    versions=VERSIONS,
    token_mode=True,
    ray_gpus=0,
    nvidia_gpus=None,
    torch_gpus=None,
    clock_ahead_s=0.0,
    clock_doubt_s=0.001,
    disk="/tmp/ray",
    disk_total_gb=100,
    disk_free_gb=60,
    memory_total_gb=32,
    memory_free_gb=20,
    shared_memory_gb=10,
    object_store_gb=9,
    state="/shared/ftmeta",
)
WORKER = replace(
    HEAD, node_id="b", address="10.0.0.2", hostname="gpu-1", is_head=False, ray_gpus=4, nvidia_gpus=4, torch_gpus=4
)
WELL = ClusterFacts(
    address="10.0.0.1:6379",
    nodes=(HEAD, WORKER),
    silent={},
    job_server=Endpoint("http://10.0.0.1:8265", 401, None),
    storage=Storage("/shared/ftmeta", {}, {}),
    mlflow=Endpoint("http://mlflow:5000", 200, None),
    service=Service({"ftmeta": "RUNNING"}, {"gpu-1 (10.0.0.2)": Endpoint("http://127.0.0.1:8000/readyz", 200, None)}),
)


def worker_with(**changes: Any) -> ClusterFacts:
    return replace(WELL, nodes=(HEAD, replace(WORKER, **changes)))


def wrong_in(facts: ClusterFacts) -> list[Check]:
    return [check for check in check_cluster(facts) if not check.ok]


def test_nothing_is_wrong_with_a_cluster_that_is_well() -> None:
    assert wrong_in(WELL) == []
    checks = check_cluster(WELL)
    assert len({check.name for check in checks}) == len(checks)
    assert {check.part for check in checks} == {"cluster"}
    assert all(check.found and check.wanted and check.fix for check in checks)


def test_what_is_not_in_use_is_not_wrong() -> None:
    facts = replace(WELL, mlflow=Endpoint(None, None, None), service=Service({}, {}))
    said = {check.name: check.found for check in check_cluster(facts)}
    assert wrong_in(facts) == []
    assert said["MLflow"] == "not in use (MLFLOW_TRACKING_URI is not set)"
    assert said["Serve"] == "not in use"


FAULTS: dict[str, tuple[ClusterFacts, str, str]] = {  # facts, the check that fails, what it says
    "a silent node": (replace(WELL, silent={"10.0.0.3": "no answer within 60 s"}), "nodes", "10.0.0.3: no answer"),
    "no head": (replace(WELL, nodes=(WORKER,)), "nodes", "the head is none of those that answer"),
    "another torch": (
        worker_with(versions={**VERSIONS, "torch": "2.11.0"}),
        "torch",
        "2.13.0 on head (10.0.0.1); 2.11.0 on gpu-1 (10.0.0.2)",
    ),
    "another Python": (worker_with(versions={**VERSIONS, "python": "3.11.4"}), "python", "3.11.4 on gpu-1 (10.0.0.2)"),
    "no ftmeta": (worker_with(versions={**VERSIONS, "ftmeta": None}), "ftmeta", "missing on gpu-1 (10.0.0.2)"),
    "another peft": (worker_with(versions={**VERSIONS, "peft": "0.20"}), "libraries", "peft: 0.21.2 on head"),
    "no token mode": (worker_with(token_mode=False), "token", "off on gpu-1 (10.0.0.2)"),
    "an open job server": (
        replace(WELL, job_server=Endpoint("http://10.0.0.1:8265", 200, None)),
        "token",
        "the job server http://10.0.0.1:8265 answers 200 without a token",
    ),
    "no job server": (
        replace(WELL, job_server=Endpoint("http://10.0.0.1:8265", None, "refused")),
        "token",
        "does not answer: refused",
    ),
    "Ray promises GPUs": (worker_with(ray_gpus=8), "GPUs", "gpu-1 (10.0.0.2): Ray 8, torch 4, nvidia-smi 4"),
    "torch for the CPU": (worker_with(torch_gpus=0), "GPUs", "Ray 4, torch 0, nvidia-smi 4"),
    "no driver": (worker_with(nvidia_gpus=None, torch_gpus=None), "GPUs", "Ray 4, torch unknown, no driver"),
    "idle GPUs": (worker_with(ray_gpus=0), "GPUs", "Ray 0, torch 4"),
    "torch cannot say": (worker_with(ray_gpus=0, torch_gpus=None), "GPUs", "Ray 0, torch unknown, nvidia-smi 4"),
    "a folder of one's own": (
        replace(WELL, storage=Storage("/shared/ftmeta", {}, {"gpu-1 (10.0.0.2)": ["head (10.0.0.1)"]})),
        "storage",
        "gpu-1 (10.0.0.2) does not see what head (10.0.0.1) wrote",
    ),
    "a read-only folder": (
        replace(WELL, storage=Storage("/shared/ftmeta", {"gpu-1 (10.0.0.2)": "Read-only file system"}, {})),
        "storage",
        "gpu-1 (10.0.0.2) cannot write to /shared/ftmeta: Read-only file system",
    ),
    "no folder": (replace(WELL, storage=Storage(None, {}, {})), "storage", "no node has FTMETA_STATE"),
    "two folders": (worker_with(state="/data"), "storage", "FTMETA_STATE is /data on gpu-1 (10.0.0.2)"),
    "a clock that is late": (worker_with(clock_ahead_s=-61.0), "clocks", "gpu-1 (10.0.0.2) is 61.0 s behind"),
    "a full disk": (worker_with(disk_free_gb=4), "disk", "gpu-1 (10.0.0.2): 4.0 of 100 GB free at /tmp/ray"),
    "full memory": (worker_with(memory_free_gb=1), "memory", "gpu-1 (10.0.0.2): 1.0 of 32 GB free"),
    "a small /dev/shm": (worker_with(shared_memory_gb=0.06), "/dev/shm", "0.06 GB for an object store of 9.00 GB"),
    "MLflow is away": (
        replace(WELL, mlflow=Endpoint("http://mlflow:5000", None, "Connection refused")),
        "MLflow",
        "http://mlflow:5000: Connection refused",
    ),
    "MLflow refuses": (replace(WELL, mlflow=Endpoint("http://mlflow:5000", 403, None)), "MLflow", "answers 403"),
    "MLflow is broken": (replace(WELL, mlflow=Endpoint("http://mlflow:5000", 500, None)), "MLflow", "answers 500"),
    "an application that fails": (
        replace(WELL, service=replace(WELL.service, applications={"ftmeta": "DEPLOY_FAILED"})),
        "Serve",
        "application ftmeta is DEPLOY_FAILED",
    ),
    "a proxy that fails": (
        replace(WELL, service=Service({"ftmeta": "RUNNING"}, {"gpu-1": Endpoint("http://x:8000/readyz", 503, None)})),
        "Serve",
        "gpu-1: http://x:8000/readyz answers 503",
    ),
    "no proxy": (replace(WELL, service=Service({"ftmeta": "RUNNING"}, {})), "Serve", "no node has a proxy"),
    "Serve unknown": (replace(WELL, service=Service({}, {}, "there is no dashboard to ask")), "Serve", "no dashboard"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_nothing_else(fault: str) -> None:
    facts, name, said = FAULTS[fault]
    (check,) = wrong_in(facts)
    assert check.name == name
    assert said in check.found
    assert check.fix


def test_a_doubtful_clock_is_not_wrong_and_hidden_gpus_are_fine() -> None:
    assert wrong_in(worker_with(clock_ahead_s=8.0, clock_doubt_s=4.0)) == []
    assert wrong_in(worker_with(ray_gpus=2, torch_gpus=2)) == []


def test_of_many_nodes_five_are_named() -> None:
    many = [replace(WORKER, node_id=str(n), hostname=f"gpu-{n}", memory_free_gb=0) for n in range(100)]
    (check,) = wrong_in(replace(WELL, nodes=(HEAD, *many)))
    assert check.found.count("GB free") == 5
    assert check.found.endswith("; and 95 more")


def test_without_a_cluster_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTMETA_STATE", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="give --address HOST:6379"):
        cluster_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"


# --- the probe --------------------------------------------------------------------------------------------------------


def test_files_are_written_seen_missed_and_forgotten(tmp_path: Path) -> None:
    probe, place = Probe(), tmp_path / "state" / ".doctor-1"
    assert probe.write(str(place), "a") == "No such file or directory"  # the doctor makes no shared folder
    place.parent.mkdir()
    assert probe.write(str(place), "a") is None
    assert probe.missing(str(place), ["a"], wait_s=0) == []
    assert probe.missing(str(place), ["a", "b"], wait_s=0) == ["b"]
    probe.forget(str(place))
    assert list((tmp_path / "state").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert probe.write(str(tmp_path / "file" / "x"), "a") == "Not a directory"


def test_the_probe_travels_to_nodes_that_have_no_ftmeta(tmp_path: Path) -> None:
    """As health.py sends it: by value. In a process in which ftmeta cannot be imported it writes its file."""
    pickled, out = tmp_path / "probe", tmp_path / "out"
    sender = (
        "import sys\nfrom ray import cloudpickle\nfrom ftmeta.orchestrate import probe\n"
        "cloudpickle.register_pickle_by_value(probe)\nopen(sys.argv[1], 'wb').write(cloudpickle.dumps(probe.Probe))\n"
    )
    receiver = (
        "import pickle, sys\nsys.modules['ftmeta'] = None\nprobe = pickle.load(open(sys.argv[1], 'rb'))\n"
        "versions = probe.facts.__globals__['_versions']()\nassert versions['ftmeta'] is None, versions\n"
        "assert versions['ray'], versions\nassert probe().write(sys.argv[2], 'a') is None\n"
    )
    for program in (sender, receiver):
        subprocess.run([sys.executable, "-c", program, str(pickled), str(out)], check=True, timeout=120)
    assert (out / "a").read_text() == "a"


def test_gpus_are_counted_by_the_driver_and_by_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A10G (UUID: GPU-1)'\necho 'GPU 1: NVIDIA A10G (UUID: GPU-2)'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = _gpus(2, psutil.Process())
    assert found == {"nvidia_gpus": 2, "torch_gpus": torch.cuda.device_count()}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert _gpus(0, psutil.Process()) == {"nvidia_gpus": None, "torch_gpus": None}  # torch is not even loaded


class _Server(http.server.BaseHTTPRequestHandler):
    """An MLflow that lets one user in."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Basic ZnRtZXRhOnNlY3JldA=="  # ftmeta:secret
        body = json.dumps({"experiments": []}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_mlflow_is_asked_as_a_driver_would(server: str) -> None:
    uri = f"http://{server}"
    assert ask_mlflow({}) == {"uri": None, "status": None, "error": None}
    assert ask_mlflow({"MLFLOW_TRACKING_URI": uri}) == {"uri": uri, "status": 401, "error": None}
    named = {"MLFLOW_TRACKING_USERNAME": "ftmeta", "MLFLOW_TRACKING_PASSWORD": "secret"}
    assert ask_mlflow({"MLFLOW_TRACKING_URI": uri, **named})["status"] == 200
    in_address = ask_mlflow({"MLFLOW_TRACKING_URI": f"http://ftmeta:secret@{server}"})
    assert in_address == {"uri": uri, "status": 200, "error": None}  # and the password is not shown
    assert ask_mlflow({"MLFLOW_TRACKING_URI": "sqlite:////tmp/x.db"})["status"] is None


def test_what_does_not_answer_is_an_error_and_not_an_exception(server: str) -> None:
    assert ask(f"http://{server}/")["status"] == 401
    assert ask("http://127.0.0.1:9/")["error"]
    assert ask("http://127.0.0.1:port/")["error"]
