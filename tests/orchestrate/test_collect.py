"""From a ledger to the tables, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta import metadataset
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.collect import _compact
from ftmeta.orchestrate.sweep import Pipelines, Sweep, make_plan
from ftmeta.orchestrate.workers import SimulatedWorker
from ftmeta.schema import RunResult
from ftmeta.tracking import Tracker


def test_a_torn_file_does_not_cost_the_tables_and_devices_are_kept_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(Sweep(name="x", tasks=["elements"], worker="simulated", pipelines=Pipelines(sample=4)))
    worker, ledger = SimulatedWorker(), Ledger(tmp_path / "ledger")
    devices = ["cpu", "NVIDIA L4", "NVIDIA of tomorrow", "cpu"]
    for spec, device in zip(plan.runs, devices, strict=True):
        run = worker.begin(spec)
        for _ in range(spec.budget.max_fidelity + 1):
            next(run)
        result = run.finish()
        ledger.put(RunResult(replace(result.run, device=device), result.curve))
    torn = plan.runs[-1].run_id
    (tmp_path / "ledger" / torn[:2] / f"{torn}.json").write_text("{")

    results = _compact(plan, ledger, tmp_path, Tracker(None, "").sweep("x", "f", {}, definition=""))

    assert len(results) == 3
    assert f"{torn}.json is torn" in caplog.text
    meta = metadataset.read(tmp_path)
    assert set(meta.runs["run_id"]) == {spec.run_id for spec in plan.runs[:3]}
    assert {device: profile.name for device, profile in meta.hardware.items()} == {"cpu": "cpu-core", "NVIDIA L4": "l4"}
    assert set(meta.manifest["hardware"]) == set(devices)
