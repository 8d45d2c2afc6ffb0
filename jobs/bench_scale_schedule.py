"""How busy 100 and 1,000 slots are kept: the simulation of bench_collection_schedule.py at other sizes.

    rows = efficiencies(driver_s_per_run=0.02)

In: what a run costs the driver. Out: a row for each kind of run and number of slots, with the share of the time that
slots are at work. The lengths of runs are spread as those of the bundled runs are, with another mean.
"""

from __future__ import annotations

import random
from statistics import mean
from typing import Any

from ftmeta.files import DATA
from ftmeta.orchestrate.execution import RUNS_PER_EXPERIMENT
from jobs.bench_collection_schedule import SCENARIOS, Job, drawn, durations_of, simulate

SLOTS = (64, 100, 1000)
RUNS_A_SLOT = 20
# GPU-seconds of a run, as docs/sizing.md has them from the planner for the sweep of jobs/configs/collect-64-gpus.yaml
KINDS = {
    "a short run on an H100": 26.0,  # 21 GPU-hours for 2,892 runs
    "the same on an A10G": 88.0,  # 71 GPU-hours
    "10,000 examples, 3 epochs on an H100": 540.0,
}
_REPEATS = 3


def efficiencies(driver_s_per_run: float, metadata: str = "spine") -> list[dict[str, Any]]:
    """Nothing goes wrong, runs as planned; with the barrier between experiments of Tune, and without one."""
    pipelines, _ = durations_of(DATA / "meta" / metadata)
    scale = 1 / mean(job.duration_s for pipeline in pipelines for job in pipeline)
    rows = []
    for kind, run_s in KINDS.items():
        scaled = [
            [Job(job.duration_s * scale * run_s, job.expected_s * scale * run_s) for job in pipeline]
            for pipeline in pipelines
        ]
        for slots in SLOTS:
            found = {
                name: mean(
                    _efficiency(scaled, slots, driver_s_per_run, per_experiment, repeat) for repeat in range(_REPEATS)
                )
                for name, per_experiment in (("efficiency", RUNS_PER_EXPERIMENT), ("without_barriers", 10**9))
            }
            rows.append({"kind": kind, "run_s": run_s, "slots": slots, "runs": RUNS_A_SLOT * slots, **found})
    return rows


def _efficiency(pipelines: list[list[Job]], slots: int, driver_s: float, per_experiment: int, repeat: int) -> float:
    rng = random.Random(f"scale {repeat}")
    jobs = drawn(pipelines, RUNS_A_SLOT * slots, SCENARIOS[0], rng)
    return simulate(jobs, slots, driver_s, SCENARIOS[0], rng, per_experiment).row(slots)["slot_efficiency"]
