"""System metrics: in MLflow's names, energy summed over time, and nothing that could stop the work."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from ftmeta.tracking import tracker
from ftmeta.tracking.machine import Energy, Watch, sample, watch_this_machine
from ftmeta.tracking.rows import read_experiments
from ftmeta.tracking.scheme import joules_of
from tests.test_tracking import a_result, database

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


def a_driver(folder: Path, rows: str) -> None:
    """A program that says what NVIDIA's says: there is no such device on most machines that run the tests."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'ROWS'\n{rows}\nROWS\n")
    (folder / "nvidia-smi").chmod(0o755 | stat.S_IXUSR)


def test_energy_is_power_over_time() -> None:
    energy = Energy(joules=10.0)
    assert not energy.is_known
    for at_s, watts in ((0.0, 100.0), (10.0, 200.0), (15.0, 200.0)):
        energy.add("gpu_0", at_s, watts)
        energy.add("gpu_1", at_s, 0.0)
    assert energy.is_known
    assert energy.joules == pytest.approx(10 + 1500 + 1000)


def test_the_names_are_mlflows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    a_driver(tmp_path, "0, 87, 40536, 512.25\n1, 0, 3, [N/A]\nNo devices were found")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = sample(Energy())
    for monitor in (CPUMonitor(), DiskMonitor()):
        monitor.collect_metrics()
        assert set(monitor.aggregate_metrics()) & found.keys()
    assert found["gpu_0_utilization_percentage"] == 87
    assert found["gpu_0_power_usage_watts"] == 512.25
    assert found["gpu_1_memory_usage_megabytes"] == pytest.approx(3 * 1.048576)  # the driver says MiB
    assert "gpu_1_power_usage_watts" not in found
    assert found["energy_joules"] == 0.0


def test_a_machine_without_devices_reports_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "energy_joules" not in sample(Energy())


def test_a_worker_reports_to_its_run_and_energy_is_shared_out_by_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    a_driver(tmp_path, "0, 87, 40536, 500.0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    uri = database(tmp_path)
    sweep = tracker(uri, "collect").sweep("smoke", "key")
    results = [a_result(0), a_result(1)]
    for result in results:
        sweep.log(result)
    client = MlflowClient(tracking_uri=uri)
    deadline = time.monotonic() + 60
    while client.get_experiment_by_name("collect") is None or not read_experiments(uri, ["collect"])[0].parents:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (found,) = read_experiments(uri, ["collect"])
    parent_id = found.parents[0].mlflow_id
    assert watch_this_machine("collect", "sweep", "key", "") is None, "off without an address"
    watch = Watch(uri, parent_id, "sweep-key", "node-1", interval_s=0.05)
    second = Watch(uri, parent_id, "sweep-key", "node-1", interval_s=0.05)  # of the same machine
    while (joules_of(client.get_run(parent_id).data.metrics) or 0.0) <= 0.0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    watch.stop()
    of_cpu = "system/node-1/cpu_utilization_percentage"
    before = len(client.get_metric_history(parent_id, of_cpu))
    while len(client.get_metric_history(parent_id, of_cpu)) <= before:  # the second one takes over
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second.stop()
    worker = watch_this_machine("collect", "sweep", "key", uri, name="node-2", interval_s=0.05)
    assert worker is not None
    while not any(name.startswith("system/node-2/") for name in client.get_run(parent_id).data.metrics):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker.stop()
    assert sweep.close("ok", {}) == 0
    (found,) = read_experiments(uri, ["collect"])
    whole = found.parents[0].energy_j
    assert whole is not None
    assert whole > 0
    assert [run.energy_j for run in found.runs] == pytest.approx([whole / 2, whole / 2])
    assert found.parents[0].metrics["system/node-1/gpu_0_power_usage_watts"] == 500.0


def test_a_watch_of_a_server_that_is_down_ends_by_itself() -> None:
    watch = Watch("http://127.0.0.1:9", "0" * 32, "nothing", interval_s=0.01)
    watch._thread.join(60)
    assert not watch._thread.is_alive()
