"""What a sweep would take on 2 to 64 slots: a discrete-event simulation on the durations of real runs.

    python -m jobs.bench_collection schedule --metadata ftmeta/data/meta/spine

In: a meta-dataset, whose runs say how long a slot was busy with each, and what a run costs the driver (measured by
`bench_collection scale`). Out: makespan, slot efficiency and the driver's share for each number of slots, order of the
runs and scenario. The sweep is as long as collect-phi3-micro's: pipelines are drawn with replacement, each with its
durations on all tasks, and started in the plan's order, a pipeline on all tasks before the next.

The machine: a slot takes the next run when it is free and the driver, who does one thing at a time, has seen to it. A
worker that starts takes START_S. At the end of each experiment of Tune all slots wait for the slowest run, and all
workers start anew. What the scenarios assume is written in SCENARIOS; it is assumed, not measured.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ftmeta.orchestrate.execution import RUNS_PER_EXPERIMENT

SLOTS = (2, 4, 8, 16, 32, 64)
RUNS = 2892  # of jobs/configs/collect-phi3-micro.yaml
START_S = 15.0  # a worker's process with its imports and its base model, on two cores
REPEATS = 10  # simulations with other draws, of which the mean is reported


@dataclass(frozen=True)
class Scenario:
    """What goes wrong. A run whose worker dies is lost and made again at the end, as `--retry-failed` does."""

    name: str
    worker_dies_every_s: float | None = None  # mean of an exponential, for each worker
    straggler_share: float = 0.0  # of runs
    straggler_factor: float = 1.0  # so much longer


SCENARIOS = (
    Scenario("nothing goes wrong"),
    Scenario("each worker dies every two hours", worker_dies_every_s=7200),
    Scenario("one run in fifty takes four times as long", straggler_share=0.02, straggler_factor=4),
)


@dataclass(frozen=True)
class Job:
    """A run that is to be made: how long it keeps a slot busy, and what its driver could know of that before."""

    duration_s: float
    expected_s: float  # the mean of its task


@dataclass(frozen=True)
class Outcome:
    makespan_s: float
    busy_s: float  # of all slots, with runs that came to an end
    lost_s: float  # with runs whose worker died
    driver_s: float

    def row(self, slots: int) -> dict[str, float]:
        return {
            "makespan_s": self.makespan_s,
            "slot_efficiency": self.busy_s / (slots * self.makespan_s),
            "driver_share": self.driver_s / self.makespan_s,
            "lost_share": self.lost_s / (slots * self.makespan_s),
        }


ORDERS: dict[str, Callable[[Sequence[Job]], list[Job]]] = {
    "as planned": list,
    "tasks with long runs first": lambda jobs: sorted(jobs, key=lambda job: -job.expected_s),
    "longest run first": lambda jobs: sorted(jobs, key=lambda job: -job.duration_s),  # nobody knows it before
}


def durations_of(metadata: Path) -> tuple[list[list[Job]], int]:
    """The runs of each pipeline in the order of the tasks, and how many tasks there are."""
    from ftmeta import metadataset

    runs = metadataset.read(metadata).runs
    of_task = runs.groupby("task")["wall_s"].mean()
    columns = [name for name in runs.columns if name.startswith("p_")]
    pipelines = [
        [Job(float(wall_s), float(of_task[task])) for task, wall_s in zip(group["task"], group["wall_s"], strict=True)]
        for _, group in runs.sort_values("task").groupby([*columns, "seed"], dropna=False, sort=False)
    ]
    return pipelines, len(of_task)


def drawn(pipelines: Sequence[Sequence[Job]], runs: int, scenario: Scenario, rng: random.Random) -> list[Job]:
    """A sweep of so many runs, in the plan's order."""
    jobs: list[Job] = []
    while len(jobs) < runs:
        for job in rng.choice(pipelines):
            slow = rng.random() < scenario.straggler_share
            jobs.append(Job(job.duration_s * (scenario.straggler_factor if slow else 1.0), job.expected_s))
    return jobs[:runs]


def simulate(
    jobs: Sequence[Job],
    slots: int,
    driver_s_per_run: float,
    scenario: Scenario,
    rng: random.Random,
    per_experiment: int = RUNS_PER_EXPERIMENT,
) -> Outcome:
    """One sweep, from the first worker's start to the last row."""
    now_s, driver_free_s, driver_s, busy_s, lost_s = 0.0, 0.0, 0.0, 0.0, 0.0

    def handled(at_s: float) -> float:
        """When the driver has dealt with something that happened at `at_s`."""
        nonlocal driver_free_s, driver_s
        driver_free_s = max(at_s, driver_free_s) + driver_s_per_run
        driver_s += driver_s_per_run
        return driver_free_s

    def lives_for() -> float:
        every = scenario.worker_dies_every_s
        return float("inf") if every is None else rng.expovariate(1 / every)

    waiting = list(jobs)
    while waiting:
        again: list[Job] = []  # lost, and made anew when the rest is done
        for batch in _batches(waiting, per_experiment):
            # when a slot is free, and when its worker dies
            free = [(now_s + START_S, now_s + START_S + lives_for()) for _ in range(min(slots, len(batch)))]
            heapq.heapify(free)
            for job in batch:
                free_s, dies_s = heapq.heappop(free)
                begins_s = handled(free_s)
                ends_s = begins_s + job.duration_s
                if ends_s > dies_s:
                    died_s = max(begins_s, dies_s)
                    lost_s += died_s - begins_s
                    again.append(job)
                    ends_s = died_s + START_S
                    dies_s = ends_s + lives_for()
                else:
                    busy_s += job.duration_s
                heapq.heappush(free, (ends_s, dies_s))
            now_s = max(driver_free_s, *(free_s for free_s, _ in free))
        waiting = again
    return Outcome(now_s, busy_s, lost_s, driver_s)


def measure(metadata: Path, driver_s_per_run: float, seed: int = 0, runs: int = RUNS) -> dict[str, Any]:
    """All scenarios, orders and numbers of slots; and the sweep that the meta-dataset came from, as a check."""
    pipelines, tasks = durations_of(metadata)
    own = [job for pipeline in pipelines for job in pipeline]
    rows = [
        {"scenario": scenario.name, "order": order, "slots": slots, "per_experiment": per_experiment, **means}
        for scenario in SCENARIOS
        for order in ORDERS
        for slots in SLOTS
        for per_experiment in (RUNS_PER_EXPERIMENT, 1000)
        if per_experiment == RUNS_PER_EXPERIMENT or (scenario is SCENARIOS[0] and order == "as planned")
        for means in [_mean_of(pipelines, runs, scenario, order, slots, per_experiment, driver_s_per_run, seed)]
    ]
    calm = SCENARIOS[0]
    check = simulate(own, 2, driver_s_per_run, calm, random.Random(seed), per_experiment=1000)
    return {
        "metadata": metadata.name,
        "source": {
            "runs": len(own),
            "tasks": tasks,
            "mean_s": mean(job.duration_s for job in own),
            "max_s": max(job.duration_s for job in own),
        },
        "runs": runs,
        "repeats": REPEATS,
        "seed": seed,
        "start_s": START_S,
        "driver_s_per_run": driver_s_per_run,
        "rows": rows,
        "check": {"slots": 2, **check.row(2)},
    }


def _mean_of(
    pipelines: Sequence[Sequence[Job]],
    runs: int,
    scenario: Scenario,
    order: str,
    slots: int,
    per_experiment: int,
    driver_s_per_run: float,
    seed: int,
) -> dict[str, float]:
    outcomes = []
    for repeat in range(REPEATS):
        rng = random.Random(f"{seed} {scenario.name} {repeat}")  # the same sweeps for all orders and numbers of slots
        jobs = ORDERS[order](drawn(pipelines, runs, scenario, rng))
        outcomes.append(simulate(jobs, slots, driver_s_per_run, scenario, rng, per_experiment).row(slots))
    return {name: mean(outcome[name] for outcome in outcomes) for name in outcomes[0]}


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for first in range(0, len(jobs), size):
        yield jobs[first : first + size]
