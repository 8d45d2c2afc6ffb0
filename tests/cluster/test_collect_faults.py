"""A sweep survives kill -9 of a worker, of its driver, of the head node's Ray and of MLflow, each once.

The long version, twenty kills of a sweep of real runs: `python -m jobs.bench_collection faults`; what it gave is in
docs/reports/collection.md. Here the worker is simulated, which starts in a moment.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ftmeta.orchestrate.status import sweep_status
from jobs.bench_collection_faults import KINDS, Stage, audit, finish, under_fire

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

RUNS = 200  # more than there is time for between four kills
EXACTLY_ONCE = ("in_ledger", "in_tables", "in_mlflow")


def test_every_planned_run_exists_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"name: under-fire\ntasks: [elements]\nworker: simulated\nslots: 2\npipelines: {{sample: {RUNS}}}\n"
        "budget: {max_fidelity: 2}\n"
    )
    rng = random.Random(0)
    with Stage(tmp_path / "stage", sweep) as stage:
        faults = under_fire(stage, KINDS, rng, within_s=0.3)
        assert [fault.kind for fault in faults] == list(KINDS)
        assert [fault.driver.split()[0] for fault in faults] == ["went", "killed", "ended", "went"]
        assert [fault.rows for fault in faults] == sorted(fault.rows for fault in faults)  # no row is ever lost
        assert faults[-1].rows < RUNS

        summary = finish(stage)
        found = audit(stage)
    assert (summary["planned"], summary["done"], summary["failed"]) == (RUNS, RUNS, 0)
    assert {name: found[name] for name in EXACTLY_ONCE} == dict.fromkeys(EXACTLY_ONCE, RUNS)
    # The run whose worker was killed was a row with `error` first, and MLflow may still say so of it.
    assert found.pop("status_differs_in_mlflow") <= 1
    assert {name: count for name, count in found.items() if name not in (*EXACTLY_ONCE, "planned") and count} == {}
    status = sweep_status(stage.out)
    assert (status["done"], status["failed"], status["torn"], status["running"]) == (RUNS, 0, 0, False)
