"""The simulation of the scheduling, on cases that can be worked out by hand, and the report with parts missing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from jobs.bench_collection import REPORT
from jobs.bench_collection_page import page, verdicts
from jobs.bench_collection_schedule import (
    ORDERS,
    SCENARIOS,
    START_S,
    Job,
    Outcome,
    Scenario,
    drawn,
    durations_of,
    simulate,
)

ROOT = Path(__file__).parents[2]
CALM = SCENARIOS[0]


def jobs(*durations_s: float) -> list[Job]:
    return [Job(duration_s, duration_s) for duration_s in durations_s]


def outcome(work: list[Job], slots: int, driver_s: float = 0.0, **more: Any) -> Outcome:
    return simulate(work, slots, driver_s, CALM, random.Random(0), **more)


def test_a_slot_makes_one_run_after_the_other() -> None:
    assert outcome(jobs(3, 4, 5), slots=1).makespan_s == START_S + 12
    assert outcome(jobs(3, 4, 5), slots=1).row(1)["slot_efficiency"] == pytest.approx(12 / (START_S + 12))


def test_the_longest_run_first_leaves_no_tail() -> None:
    assert outcome(jobs(1, 1, 1, 1, 4), slots=2).makespan_s == START_S + 6
    assert outcome(ORDERS["longest run first"](jobs(1, 1, 1, 1, 4)), slots=2).makespan_s == START_S + 4


def test_the_driver_does_one_thing_at_a_time() -> None:
    found = outcome(jobs(1, 1, 1, 1), slots=4, driver_s=0.5)
    assert found.makespan_s == START_S + 4 * 0.5 + 1
    assert found.driver_s == 2.0


def test_at_the_end_of_an_experiment_all_wait_and_start_anew() -> None:
    assert outcome(jobs(4, 1, 1, 4), slots=2).makespan_s == START_S + 6
    assert outcome(jobs(4, 1, 1, 4), slots=2, per_experiment=2).makespan_s == 2 * (START_S + 4)


def test_what_a_dead_worker_lost_is_made_again() -> None:
    work = jobs(*[10.0] * 200)
    found = simulate(work, 4, 0.0, Scenario("x", worker_dies_every_s=100), random.Random(1))
    assert found.busy_s == 2000  # every run comes to an end, once
    assert found.lost_s > 0
    assert found.makespan_s > outcome(work, 4).makespan_s


def test_a_sweep_is_drawn_from_real_runs_pipeline_by_pipeline() -> None:
    pipelines, tasks = durations_of(ROOT / "ftmeta" / "data" / "meta" / "spine")
    assert tasks == 3
    assert {len(pipeline) for pipeline in pipelines} == {3}
    sweep = drawn(pipelines, 100, CALM, random.Random(0))
    assert len(sweep) == 100
    assert sweep[:3] in pipelines
    slow = drawn(pipelines, 100, Scenario("x", straggler_share=1.0, straggler_factor=4), random.Random(0))
    assert sum(job.duration_s for job in slow) > sum(job.duration_s for job in sweep)


def test_what_was_not_measured_is_said() -> None:
    text = page({})
    assert text.count("Not measured yet") == 4
    assert list(verdicts({})) == []


def test_the_report_is_that_of_its_numbers() -> None:
    numbers = ROOT / REPORT
    assert page(json.loads(numbers.read_text())) == numbers.with_suffix(".md").read_text()


def test_a_missed_target_is_said() -> None:
    audit = dict.fromkeys(("planned", "in_ledger", "in_tables", "in_mlflow"), 6)
    flaws = ("torn", "twice_in_tables", "twice_in_mlflow", "foreign", "failed", "curves_that_end_early")
    good = {**audit, **dict.fromkeys(flaws, 0)}

    def faults(found: dict[str, int]) -> dict[str, Any]:
        measured = {"audit": found, "faults": [], "wanted": 0, "seed": 0, "wall_s": 60.0}
        made = {"command": "c", "date": "d", "hardware": "h", "versions": {"ftmeta": "v"}}
        return {"faults": {"measured": measured, "circumstances": made}}

    assert list(verdicts(faults(good))) == [True]
    torn = faults({**good, "torn": 1})
    assert list(verdicts(torn)) == [False]
    assert "**not as it should be**" in page(torn)
    assert list(verdicts(faults({**good, "in_mlflow": 5}))) == [False]
