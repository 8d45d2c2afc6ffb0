"""How busy a machine is while work lasts: system metrics of a worker's machine, in MLflow's own names.

    watch = Watch(uri, mlflow_run_id, "node-1")     # a thread; a value of each metric every INTERVAL_S
    watch.stop()

In: the MLflow run that the worker works for. Out: metrics `system/NAME/...` of that run, which MLflow shows on a page
of its own. Energy is the power that the driver of an NVIDIA device reports, summed over time; CPUs report none here.
The thread never raises, and gives up after a few refusals: it is there for curiosity, and training is not.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

SYSTEM, JOULES = "system/", "energy_joules"
INTERVAL_S = 15.0
_REFUSALS = 5  # in a row
_GPU_QUERY = "index,utilization.gpu,memory.used,power.draw"  # percent, MiB, watts

log = logging.getLogger("ftmeta.tracking")


class Watch:
    """Reports from now until `stop`, or until this process ends."""

    def __init__(self, uri: str, mlflow_id: str, name: str | None = None, *, interval_s: float = INTERVAL_S) -> None:
        self._uri, self._id, self._name = uri, mlflow_id, name or platform.node() or "driver"
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._report, name="ftmeta-system-metrics", daemon=True)
        self._thread.start()

    def stop(self, wait_s: float = 5.0) -> None:
        self._stopped.set()
        self._thread.join(wait_s)

    def _report(self) -> None:
        from ftmeta.tracking.store import new_client

        prefix, refusals = f"{SYSTEM}{self._name}/", 0
        energy: Energy | None = None
        with contextlib.suppress(Exception):  # psutil on a system that it does not know
            sample(Energy())  # shares of the CPU are of the time since the last sample
            while refusals < _REFUSALS and not self._stopped.wait(self._interval_s):
                try:
                    client = new_client(self._uri)
                    if energy is None:  # work that goes on has used some already
                        there = client.get_run(self._id).data.metrics
                        energy = Energy(there.get(prefix + JOULES, 0.0))
                    log_sample(client, self._id, prefix, sample(energy))
                    refusals = 0
                except Exception as error:
                    refusals += 1
                    log.debug("system metrics: %s", error)


def log_sample(client: MlflowClient, mlflow_id: str, prefix: str, values: Mapping[str, float]) -> None:
    """One batch. The step is the time, so that several processes and resumed work stay in order."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    rows = [Metric(prefix + name, float(value), now_ms, now_ms // 1000) for name, value in values.items()]
    client.log_batch(mlflow_id, metrics=rows)


def joules_of(metrics: Mapping[str, float]) -> float | None:
    """What all machines that have reported to a run have used together; None: none has said."""
    found = [value for name, value in metrics.items() if name.startswith(SYSTEM) and name.endswith(f"/{JOULES}")]
    return sum(found) if found else None


@dataclass
class Energy:
    """Joules of all devices since the first reading, by the trapezoidal rule."""

    joules: float = 0.0
    _last: dict[str, tuple[float, float]] = field(default_factory=dict)  # device -> (when in s, watts)

    def add(self, device: str, at_s: float, watts: float) -> None:
        before = self._last.get(device)
        if before is not None:
            self.joules += (at_s - before[0]) * (watts + before[1]) / 2
        self._last[device] = (at_s, watts)

    @property
    def is_known(self) -> bool:
        return bool(self._last)


def sample(energy: Energy) -> dict[str, float]:
    """Name -> value now. The names are those that MLflow's page groups by."""
    import psutil

    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    found: dict[str, float | None] = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": disk.free / 1e6,
    }
    for device in gpus():
        index = f"gpu_{device['index']}"
        found[f"{index}_utilization_percentage"] = device["utilization.gpu"]
        found[f"{index}_memory_usage_megabytes"] = device["memory.used"]
        found[f"{index}_power_usage_watts"] = watts = device["power.draw"]
        if watts is not None:
            energy.add(index, time.monotonic(), watts)
    if energy.is_known:
        found[JOULES] = energy.joules
    return {name: value for name, value in found.items() if value is not None}


def gpus() -> list[dict[str, Any]]:
    """What the driver says of each NVIDIA device; None for what a device does not report."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    asked = subprocess.run(query, capture_output=True, text=True, timeout=10)
    rows = [line.split(",") for line in asked.stdout.splitlines() if line.count(",") == _GPU_QUERY.count(",")]
    return [dict(zip(_GPU_QUERY.split(","), map(_number, row), strict=True)) for row in rows]


def _number(said: str) -> int | float | None:
    text = said.strip()
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:  # [N/A]
        return None
