"""From a ledger to the tables, without a cluster."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta import metadataset
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.collect import _adopt, _compact, collect
from ftmeta.orchestrate.sweep import Pipelines, Sweep, make_plan
from ftmeta.orchestrate.workers import SimulatedWorker
from ftmeta.schema import RunResult
from ftmeta.tracking import Tracker


def test_runs_that_another_folder_has_are_not_made_again(tmp_path: Path) -> None:
    sweep = Sweep(name="x", tasks=["elements"], worker="simulated", pipelines=Pipelines(sample=3))
    plan, worker = make_plan(sweep), SimulatedWorker()
    ledger = Ledger(tmp_path / "first" / "ledger")
    for spec in plan.runs:
        run = worker.begin(spec)
        for _ in range(spec.budget.max_fidelity + 1):
            next(run)
        ledger.put(run.finish())
    _compact(plan, ledger, tmp_path / "first", Tracker(None, "").sweep("x", "f", {}, definition=""))
    made = list(ledger.results())
    shutil.rmtree(ledger.directory)  # as in a bundled meta-dataset: the tables alone

    summary = collect(sweep, tmp_path / "second", known=[str(tmp_path / "first")])

    assert (summary["planned"], summary["done"], summary["skipped"]) == (3, 3, 3)
    assert list(Ledger(tmp_path / "second" / "ledger").results()) == made, "to the last digit"
    of_another = Sweep(name="y", tasks=["elements"], worker="simulated", pipelines=Pipelines(sample=3, seed=1))
    _adopt([str(tmp_path / "first")], make_plan(of_another), Ledger(tmp_path / "third" / "ledger"))
    assert not Ledger(tmp_path / "third" / "ledger").run_ids()


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
