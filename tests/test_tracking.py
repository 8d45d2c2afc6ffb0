"""Tracking against a real MLflow database: what is stored, sending twice, and a server that is down or late."""

from __future__ import annotations

import logging
import math
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.schema import CurvePoint, Pipeline, RunResult, RunRow, RunSpec, Status
from ftmeta.tracking import tracker

pytestmark = [
    # MLflow's own use of its dependencies' older names, not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


def a_result(seed: int = 0, status: Status = "ok", max_fidelity: int = 2) -> RunResult:
    pipeline = Pipeline("tiny", {"lora_rank": 4, "lr_multiplier": 0.5})
    spec = RunSpec("elements", "t" * 16, "phi3-micro", "b" * 16, pipeline, seed)
    curve = tuple(
        CurvePoint(
            fidelity=t,
            step=10 * t,
            examples=40 * t,
            tokens=900 * t,
            score=0.1 * t,
            val_nll=2.0 - 0.1 * t,
            val_token_accuracy=0.5,
            test_score=None if t == 0 else 0.09 * t,
            test_nll=2.1,
            train_loss=None if t == 0 else 1.9,
            cost_train_s=1.0 * t,
            cost_eval_s=0.5 * (t + 1),
            cost_s=1.0 * t + 0.5 * (t + 1),
            wall_s=2.0 * (t + 1),
        )
        for t in range(max_fidelity + 1)
    )
    row = RunRow(
        run_id=spec.run_id,
        task="elements",
        base_model="phi3-micro",
        seed=seed,
        status=status,
        error=None if status == "ok" else "loss is not finite",
        max_fidelity=max_fidelity,
        fidelity=max_fidelity,
        cost_s=curve[-1].cost_s,
        wall_s=curve[-1].wall_s,
        peak_memory_gb=0.4,
        device="cpu",
        code_version="0.1.0",
        task_fingerprint="t" * 16,
        base_model_fingerprint="b" * 16,
        space="tiny",
        started_at="2026-01-01T00:00:00+00:00",
        pipeline=pipeline,
        generation={"exact_match": 0.25},
    )
    return RunResult(row, curve)


def runs_in(uri: str, experiment: str, *, parent: bool = True) -> tuple[list, list]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    parents = [run for run in runs if run.data.tags["kind"] == "sweep"]
    children = [run for run in runs if run.data.tags["kind"] == "run"]
    if parent:
        assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}
    return parents, children


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_sweep_is_one_parent_with_a_child_per_run_and_again_changes_nothing(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = database(tmp_path)
    results = [a_result(seed=0), a_result(seed=1, status="diverged"), a_result(seed=2, status="stopped")]
    for sent in (results[:2], results):  # the second submission knows two of the three
        sweep = tracker(uri, "collect", usd=lambda cost_s, device: cost_s / 3600).sweep(
            "smoke", "key", {"tasks": "elements"}, definition="name: smoke\n"
        )
        for result in sent:
            sweep.log(result)
            sweep.log(result)
        assert sweep.close("ok", {"runs.done": float(len(sent)), "cost.usd": None}) == 0

    parents, children = runs_in(uri, "collect")
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.params == {"tasks": "elements"}
    totals = {name: value for name, value in parents[0].data.metrics.items() if not name.startswith("system/")}
    assert totals == pytest.approx({"runs.done": 3.0, "cost.device_seconds": 10.5, "cost.usd": 10.5 / 3600})
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("sweep.yaml")] == ["name: smoke\n"]
    by_run = {child.data.tags["run_id"]: child for child in children}
    assert set(by_run) == {result.run.run_id for result in results}
    assert len(children) == 3
    assert [by_run[result.run.run_id].info.status for result in results] == ["FINISHED", "FAILED", "KILLED"]

    child = by_run[results[0].run.run_id]
    assert child.data.params == {"lora_rank": "4", "lr_multiplier": "0.5", "base_model": "phi3-micro", "seed": "0"}
    assert child.data.tags["task_fingerprint"] == "t" * 16
    assert child.data.tags["status"] == "ok"
    assert child.info.end_time - child.info.start_time == 6000
    client = MlflowClient(tracking_uri=uri)
    costs = sorted(client.get_metric_history(child.info.run_id, "cost.device_seconds"), key=lambda m: m.step)
    assert [(metric.step, metric.value) for metric in costs] == [(0, 0.5), (1, 2.0), (2, 3.5)]
    assert math.isclose(child.data.metrics["cost.usd"], 3.5 / 3600)
    assert child.data.metrics["test_exact_match"] == 0.25
    assert [m.step for m in client.get_metric_history(child.info.run_id, "test_score")] == [1, 2]  # None is not logged


def test_a_run_that_was_begun_and_not_finished_is_completed_in_place(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri, result = database(tmp_path), a_result()
    sweep = tracker(uri, "collect").sweep("smoke", "key")
    sweep.log(result)
    sweep.close("stopped", {})
    _, (child,) = runs_in(uri, "collect")
    MlflowClient(tracking_uri=uri).update_run(child.info.run_id, status="RUNNING")  # as a killed driver leaves it

    sweep = tracker(uri, "collect").sweep("smoke", "key")
    sweep.log(result)
    sweep.close("ok", {})
    _, (child,) = runs_in(uri, "collect")
    assert child.info.status == "FINISHED"
    assert len(MlflowClient(tracking_uri=uri).get_metric_history(child.info.run_id, "score")) == 3


def test_a_failed_run_that_was_made_again_is_replaced(tmp_path: Path) -> None:
    uri = database(tmp_path)
    for result in (a_result(status="error"), a_result(status="ok"), a_result(status="ok")):
        sweep = tracker(uri, "collect").sweep("smoke", "key")
        sweep.log(result)
        assert sweep.close("ok", {}) == 0
        _, (child,) = runs_in(uri, "collect")
        assert child.data.tags["status"] == result.run.status
    assert child.info.status == "FINISHED"
    assert "error" not in child.data.tags


def test_more_metrics_than_one_batch_takes(tmp_path: Path) -> None:
    result = a_result(max_fidelity=120)
    sweep = tracker(database(tmp_path), "collect").sweep("long", "key")
    sweep.log(result)
    assert sweep.close("ok", {}) == 0
    _, (child,) = runs_in(database(tmp_path), "collect")
    assert math.isclose(child.data.metrics["score"], 12.0)


def test_a_server_that_is_down_costs_one_warning_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ftmeta.tracking"):
        sweep = tracker(f"http://127.0.0.1:{free_port()}", "collect", drain_s=20).sweep("smoke", "key")
        for seed in range(5):
            sweep.log(a_result(seed))
        assert sweep.close("ok", {}) == 5
    messages = [record.getMessage() for record in caplog.records if record.name == "ftmeta.tracking"]
    assert ["does not answer" in message for message in messages] == [True, False]
    assert "5 finished runs are not in MLflow" in messages[1]


def test_a_server_that_comes_late_gets_everything(tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    sweep = tracker(uri, "collect", drain_s=90).sweep("smoke", "key", definition="name: smoke\n")
    sweep.log(a_result())
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "files")),
    ]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        sweep.log(replace(a_result(seed=1)))
        assert sweep.close("ok", {"runs.done": 2.0}) == 0
        parents, children = runs_in(uri, "collect")
        assert (len(parents), len(children)) == (1, 2)
    finally:
        server.terminate()
        server.wait(30)


def test_a_run_of_no_sweep_has_no_parent_and_is_one_run_however_often_it_is_sent(tmp_path: Path) -> None:
    for _ in range(2):
        single = tracker(database(tmp_path), "finetune").single()
        single.log(a_result())
        assert single.close("ok", {}) == 0
    parents, (child,) = runs_in(database(tmp_path), "finetune", parent=False)
    assert parents == []
    assert child.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in child.data.tags


def test_off(tmp_path: Path) -> None:
    sweep = tracker(None, "collect").sweep("smoke", "key")
    sweep.log(a_result())
    assert sweep.close("ok", {}) == 0
