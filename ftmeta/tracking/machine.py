"""How busy a machine is while work lasts: system metrics of a worker's machine, in MLflow's own names.

    watch = Watch(uri, mlflow_run_id, "sweep-KEY")     # a thread; a value of each metric every INTERVAL_S
    watch.stop()

In: the MLflow run that the worker works for. Out: metrics `system/NAME/...` of that run, which MLflow shows on a page
of its own. Energy is the power that the driver of an NVIDIA device reports, summed over time; CPUs report none here.
The thread never raises, and gives up after a few refusals: it is there for curiosity, and training is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ftmeta.tracking.scheme import JOULES, SYSTEM

if TYPE_CHECKING:
    from mlflow import MlflowClient

INTERVAL_S = 15.0
_REFUSALS = 5  # in a row
_GPU_QUERY = "index,utilization.gpu,memory.used,power.draw"  # percent, MiB, watts

log = logging.getLogger("ftmeta.tracking")


class Watch:
    """Reports from now until `stop`, or until this process ends. Of several on one machine for one run, one does."""

    def __init__(
        self,
        uri: str,
        run: str | Callable[[MlflowClient], str | None],
        work: str,
        name: str | None = None,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`run`: MLflow's id of the run, or what finds it (None: it is not there yet); `work`: what it is of, by which
        processes know that they would report the same."""
        self._uri, self._run, self._name = uri, run, name or platform.node() or "driver"
        self._work, self._interval_s = work, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._report, name="ftmeta-system-metrics", daemon=True)
        self._thread.start()

    def stop(self, wait_s: float = 5.0) -> None:
        self._stopped.set()
        self._thread.join(wait_s)

    def _report(self) -> None:
        from ftmeta.tracking.store import new_client

        prefix, refusals = f"{SYSTEM}{self._name}/", 0
        found: str | None = None
        energy = Energy()
        with contextlib.ExitStack() as held, contextlib.suppress(Exception):  # psutil on a system that it does not know
            lock = held.enter_context(_lock_file(f"{self._work}-{self._name}").open("w"))
            while not _is_taken(lock):  # whoever reports may end before this process does
                if self._stopped.wait(self._interval_s):
                    return
            sample(Energy())  # shares of the CPU are of the time since the last sample
            while refusals < _REFUSALS and not self._stopped.wait(self._interval_s):
                try:
                    client = new_client(self._uri)
                    if found is None:
                        found = self._run if isinstance(self._run, str) else self._run(client)
                        if found is None:
                            continue
                        # Work that goes on has used some energy already.
                        energy.joules = client.get_run(found).data.metrics.get(prefix + JOULES, 0.0)
                    log_sample(client, found, prefix, sample(energy))
                    refusals = 0
                except Exception as error:
                    refusals += 1
                    log.debug("system metrics: %s", error)


def watch_this_machine(
    experiment: str,
    kind: str,
    key: str,
    uri: str | None = None,
    *,
    name: str | None = None,
    interval_s: float = INTERVAL_S,
) -> Watch | None:
    """For a worker, on whatever node: reports to the parent run of that `kind` and `key` once the driver has made it.
    `uri` None: $MLFLOW_TRACKING_URI; None of both: off."""
    address = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        return None

    def parent(client: MlflowClient) -> str | None:
        from ftmeta.tracking.parents import find_parent
        from ftmeta.tracking.store import Store

        there = client.get_experiment_by_name(experiment)
        if there is None:
            return None
        found = find_parent(Store(client, there.experiment_id, lambda cost_s, device: None), key, kind)
        return None if found is None else str(found.info.run_id)

    return Watch(address, parent, f"{kind}-{key}", name, interval_s=interval_s)


def _lock_file(name: str) -> Path:
    """Of this user, for what processes of this machine report under one name."""
    safe = "".join(c if c.isalnum() else "-" for c in name)
    return Path(tempfile.gettempdir()) / f"ftmeta-watch-{os.getuid()}-{safe}.lock"


def _is_taken(file: TextIO) -> bool:
    """Takes the lock, until the file is closed; False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def log_sample(client: MlflowClient, mlflow_id: str, prefix: str, values: Mapping[str, float]) -> None:
    """One batch. The step is the time, so that several processes and resumed work stay in order."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    rows = [Metric(prefix + name, float(value), now_ms, now_ms // 1000) for name, value in values.items()]
    client.log_batch(mlflow_id, metrics=rows)


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
        used_mib = device["memory.used"]
        found[f"{index}_memory_usage_megabytes"] = None if used_mib is None else used_mib * 1.048576
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
