"""What a slot of a sweep does with a run that several workers share: it starts a trainer and passes on what it says.

In: a sweep with `workers_per_run`. The slot itself only waits, and takes no core.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmeta.orchestrate.room import Workers
from ftmeta.orchestrate.sweep import Sweep
from ftmeta.orchestrate.workers import FinetuneWorker, Run, SimulatedWorker, Worker, now
from ftmeta.schema import CurvePoint, RunResult, RunSpec, Task
from ftmeta.tracking import SWEEP
from ftmeta.tracking.machine import watch_this_machine


class DistributedWorker:
    """Finetunes on several workers of the cluster (train.py). `out` is the sweep's folder, which all nodes see: what a
    run has done lies in it until the run is in the ledger."""

    def __init__(self, tasks: Mapping[str, Task], sweep: Sweep, out: Path) -> None:
        self._tasks, self._sweep, self._out = tasks, sweep, out

    def begin(self, spec: RunSpec) -> Run:
        return _DistributedRun(spec, self._tasks[spec.task], self._sweep, self._out / "runs" / spec.run_id)


class _DistributedRun:
    """`train` in a thread of its own; its points come through a queue, and last of all what it returned or raised."""

    def __init__(self, spec: RunSpec, task: Task, sweep: Sweep, folder: Path) -> None:
        self._spec, self._folder, self._started_at = spec, folder, now()
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._document: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._train, args=(task, sweep), daemon=True)
        self._thread.start()

    def _train(self, task: Task, sweep: Sweep) -> None:
        from ftmeta.orchestrate.train import train  # with torch, which the sweep's driver need not load

        assert sweep.workers_per_run is not None
        workers = Workers(sweep.workers_per_run, sweep.cpus_per_slot, sweep.gpus_per_slot, wait_s=600)
        try:
            document = train(
                self._spec,
                task,
                sweep.base_model,
                self._folder,
                workers,
                zero_stage=sweep.zero,
                replace=True,
                stop=self._stop,
                on_point=self._heard.put,
            )
            self._heard.put(document)
        except Exception as error:
            self._heard.put(error)

    def __next__(self) -> CurvePoint:
        heard = self._heard.get()
        if isinstance(heard, Exception):
            raise heard
        if isinstance(heard, CurvePoint):
            return heard
        self._document = heard
        raise StopIteration

    def finish(self) -> RunResult:
        from ftmeta.finetune.single import result_of

        while self._document is None:
            next(self, None)  # type: ignore[call-overload]
        for folder in (self._folder, self._folder.with_name(f"{self._folder.name}.unfinished")):
            shutil.rmtree(folder, ignore_errors=True)  # a sweep keeps curves, not adapters, and the run has its row now
        return result_of(self._document, self._spec, self._started_at)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def make_worker(sweep: Sweep, out: Path, tasks: Mapping[str, Task]) -> Worker:
    """The worker that a sweep names: `finetune`, and `simulated` to measure the rest."""
    watch_this_machine("collect", SWEEP, sweep.fingerprint)
    if sweep.worker == "simulated":
        return SimulatedWorker()
    if sweep.workers_per_run is not None:
        return DistributedWorker(tasks, sweep, out)
    return FinetuneWorker(tasks, sweep.base_model, sweep.device, threads=max(1, int(sweep.cpus_per_slot)))
