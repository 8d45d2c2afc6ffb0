"""Sweeps as real jobs on a real cluster: rows, tables and MLflow; again; killed workers; stopped drivers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta import metadataset
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster
from ftmeta.schema import RunRow
from ftmeta.version import code_version

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*")]

ROOT = Path(__file__).parents[2]
BASE_MODEL = "phi3-micro"


def write_sweep(folder: Path, name: str, pipelines: str, budget: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\ntasks: [elements]\nbase_model: {BASE_MODEL}\npipelines: {pipelines}\nbudget: {budget}\n"
    )
    return path


def submit(client: dict[str, str], *command: str) -> tuple[int, str]:
    """`ray job submit` as the documentation gives it; returns the exit code and everything that was said."""
    job = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--", *command]
    done = subprocess.run(job, cwd=ROOT, env=client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def summary_in(said: str) -> dict[str, Any]:
    return dict(json.loads(said[said.index("\n{\n") : said.index("\n}\n") + 2]))


@contextmanager
def driver_of(
    cluster: LocalCluster, client: dict[str, str], sweep: Path, out: Path, *more: str
) -> Iterator[subprocess.Popen[str]]:
    """`python -m jobs.collect` as a client of the cluster, without a job around it."""
    command = [sys.executable, "-m", "jobs.collect", "--config", str(sweep), "--out", str(out), *more]
    environment = {**client, "RAY_ADDRESS": cluster.gcs_address}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Any, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def test_a_submitted_sweep_fills_ledger_tables_and_mlflow_and_again_skips_all(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    out = tmp_path / "meta"
    sweep = write_sweep(
        tmp_path, "job", "{include: [default, strong-default]}", "{epochs: 0.05, max_fidelity: 2, eval_examples: 16}"
    )
    command = ("python", "-m", "jobs.collect", "--config", str(sweep), "--out", str(out))
    code, said = submit(client, *command)
    assert code == 0, said
    summary = summary_in(said)
    assert (summary["planned"], summary["done"], summary["failed"], summary["skipped"]) == (2, 2, 0, 0)
    assert summary["untracked"] == 0
    assert summary["busy_s"] <= summary["slots"] * summary["wall_s"]

    meta = metadataset.read(out)
    assert list(meta.runs["status"]) == ["ok", "ok"]
    assert sorted(meta.curves["fidelity"]) == [0, 0, 1, 1, 2, 2]
    assert set(meta.runs["run_id"]) == Ledger(out / "ledger").run_ids()
    assert {version.removesuffix(".dirty") for version in meta.runs["code_version"]} == {
        code_version().removesuffix(".dirty")  # although a job's working directory has no .git
    }

    store = MlflowClient(tracking_uri=cluster.mlflow.address)
    experiment = store.get_experiment_by_name("collect")
    assert experiment is not None

    def tracked() -> tuple[list[Any], list[Any]]:
        runs = store.search_runs([experiment.experiment_id])
        parents = [run for run in runs if run.data.tags["kind"] == "sweep" and run.info.run_name == "job"]
        mine = {parent.info.run_id for parent in parents}
        return parents, [run for run in runs if run.data.tags.get("mlflow.parentRunId") in mine]

    (parent,), children = tracked()
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["runs.done"] == 2
    assert {child.data.tags["run_id"] for child in children} == set(meta.runs["run_id"])
    for child in children:
        assert child.data.metrics["cost.device_seconds"] > 0
        assert child.data.tags["task"] == "elements"
        assert [m.step for m in store.get_metric_history(child.info.run_id, "val_nll")] == [0, 1, 2]

    files = {path: path.stat().st_mtime_ns for path in (out / "ledger").rglob("*.json")}
    code, said = submit(client, *command)
    assert code == 0, said
    again = summary_in(said)
    assert (again["planned"], again["done"], again["skipped"], again["busy_s"]) == (2, 2, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in (out / "ledger").rglob("*.json")} == files
    parents, children = tracked()
    assert (len(parents), len(children)) == (1, 2)


def test_in_a_job_mlflow_is_the_package_and_results_may_not_be_relative(client: dict[str, str]) -> None:
    script = (
        "import mlflow, os, subprocess, sys; assert mlflow.MlflowClient; assert os.path.isdir('mlflow'); "
        "job = [sys.executable, '-m', 'jobs.collect', '--config', 'jobs/configs/collect-smoke.yaml', '--out', 'here']; "
        "sys.exit(subprocess.run(job).returncode)"
    )
    code, said = submit(client, "python", "-c", script)
    assert code != 0
    assert "--out here is relative" in said


def test_a_killed_worker_is_a_row_a_stopped_sweep_keeps_its_rows_and_both_are_made_good(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "meta"
    ledger = Ledger(out / "ledger")
    sweep = write_sweep(tmp_path, "faults", "{sample: 8}", "{epochs: 0.1, max_fidelity: 2, eval_examples: 16}")

    def at_work() -> list[psutil.Process]:
        return [process for process in local.processes(cluster) if "Trainable.train" in name_of(process)]

    def failed() -> list[RunRow]:
        return [result.run for result in ledger.results() if result.run.status == "error"]

    with driver_of(cluster, client, sweep, out) as driver:
        wait_for(at_work)[0].kill()
        wait_for(failed)
        driver.send_signal(signal.SIGTERM)
        said, complaint = driver.communicate(timeout=90)
    assert driver.returncode == 1, complaint
    assert "submitting the sweep again" in complaint
    (row,) = failed()
    assert "the worker died" in (row.error or "")
    summary = json.loads(said)
    assert summary["interrupted"]
    assert (summary["failed"], summary["done"] + 1) == (1, len(ledger))
    assert summary["done"] + 1 < summary["planned"] == 8
    assert len(metadataset.read(out).runs) == len(ledger)

    with driver_of(cluster, client, sweep, out, "--retry-failed") as again:
        said, complaint = again.communicate(timeout=150)
    assert again.returncode == 0, complaint
    assert json.loads(said)["skipped"] == summary["done"]
    assert (json.loads(said)["done"], json.loads(said)["failed"]) == (8, 0)  # one that diverges is done too
    assert len(metadataset.read(out).runs) == len(ledger) == 8


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
