"""What the driver of a sweep costs with the number of runs: one size, in a process of its own.

    python -m jobs.bench_collection_scale 10000

In: a number of runs. Out: JSON on standard output. A sweep of so many runs is made on Ray Tune with the worker
`simulated`, which trains nothing, so all that is left is the driver's own work, Tune's and Ray's. Then one row is taken
away and the sweep submitted again, in a new process: the time to resume.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.collect import collect
from ftmeta.orchestrate.status import sweep_status
from ftmeta.orchestrate.sweep import BudgetChanges, Pipelines, Sweep, make_plan
from ftmeta.schema import RunResult, Status

EVERY = 1000  # runs between two marks
SLOTS = 2


class Marks:
    """In the place of an MLflow server: notes when each thousandth row came, and what the driver had used by then."""

    def __init__(self) -> None:
        self.began_s = time.perf_counter()
        self.first_s: float | None = None
        self.marks: list[dict[str, float]] = []
        self._rows, self._process = 0, psutil.Process()

    def sweep(self, *named: Any, **more: Any) -> Marks:
        return self

    def log(self, result: RunResult) -> None:
        self._rows += 1
        if self.first_s is None:
            self.first_s = time.perf_counter() - self.began_s
        if self._rows % EVERY == 0:
            used = self._process.cpu_times()
            self.marks.append(
                {
                    "runs": self._rows,
                    "at_s": time.perf_counter() - self.began_s,
                    "cpu_s": used.user + used.system,
                    "memory_mb": self._process.memory_info().rss / 2**20,
                }
            )

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> int:
        return 0


def the_sweep(runs: int) -> Sweep:
    """Two tasks, ten fidelities, as many pipelines as it takes."""
    return Sweep(
        name=f"simulated-{runs}",
        tasks=["elements", "world-facts"],
        pipelines=Pipelines(sample=runs // 2),
        budget=BudgetChanges(max_fidelity=10),
        worker="simulated",
        slots=SLOTS,
        cpus_per_slot=0.5,
    )


def make(runs: int, out: Path) -> dict[str, Any]:
    """The whole sweep: marks at every thousand, and what writing the tables took."""
    marks = Marks()
    summary = collect(the_sweep(runs), out, tracked=marks)  # type: ignore[arg-type]
    ended_s = time.perf_counter() - marks.began_s
    of_runs = marks.marks[: runs // EVERY]  # the tables' turn logs all rows once more
    return {
        "done": summary["done"],
        "slots": SLOTS,
        "first_run_s": marks.first_s,
        "marks": of_runs,
        "tables_s": ended_s - of_runs[-1]["at_s"],
        "peak_with_tables_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def resume(runs: int, out: Path) -> dict[str, Any]:
    """One row is missing: how long until its run is done, and what of that is planning and reading the ledger."""
    ledger = Ledger(out / "ledger")
    began_s = time.perf_counter()
    plan = make_plan(the_sweep(runs))
    planned_s = time.perf_counter()
    there = sum(1 for _ in ledger.results())
    read_s = time.perf_counter()
    status = sweep_status(out)
    status_s = time.perf_counter()
    last = plan.runs[-1].run_id
    (ledger.directory / last[:2] / f"{last}.json").unlink()
    marks = Marks()
    summary = collect(the_sweep(runs), out, tracked=marks)  # type: ignore[arg-type]
    assert summary["skipped"] == runs - 1 == there - 1 == status["done"] - 1
    return {
        "plan_s": planned_s - began_s,
        "read_s": read_s - planned_s,
        "status_s": status_s - read_s,
        "to_first_run_s": marks.first_s,
    }


def measure(runs: int) -> dict[str, Any]:
    """Both, each in a fresh process, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ftmeta-scale-") as folder:
        load = os.getloadavg()[0]
        made = _in_a_process("make", runs, folder)
        resumed = _in_a_process("resume", runs, folder)
        return {"runs": runs, "load": [load, os.getloadavg()[0]], **made, "resume": resumed}


def _in_a_process(what: str, runs: int, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "jobs.bench_collection_scale", str(runs), what, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} of {runs} simulated runs ended with {done.returncode}; its words are above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    number, *which = sys.argv[1:]
    steps = {"make": make, "resume": resume}
    found = steps[which[0]](int(number), Path(which[1])) if which else measure(int(number))
    sys.stdout.write(json.dumps(found) + "\n")
