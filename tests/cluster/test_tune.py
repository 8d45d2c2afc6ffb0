"""Live tuning on a real cluster: killed, taken up, a worker killed under it, and what is left in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster
from ftmeta.tuning.journal import Journal

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
]

BUDGET_S = 60  # of devices: wall time would depend on what else the machine does


@contextmanager
def tuning(client: dict[str, str], cwd: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ftmeta tune ... --json`; ended with the block, whatever happens in it."""
    code = "import sys; from ftmeta.cli import main; sys.argv = ['ftmeta', *sys.argv[1:]]; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "tune", *arguments, "--json"],
        cwd=cwd,
        env={**os.environ, **client},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def journal_lines(out: Path) -> list[dict[str, Any]]:
    path = out / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def points(out: Path) -> int:
    return sum(len(line["points"]) for line in journal_lines(out) if line["event"] == "advanced")


def slots_at_work(cluster: LocalCluster) -> list[psutil.Process]:
    return [process for process in local.processes(cluster) if "_SlotActor.do" in name_of(process)]


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_tuning_is_killed_loses_a_worker_is_taken_up_and_ends_with_an_adapter(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    client = {**client, "RAY_ADDRESS": cluster.gcs_address}
    out = tmp_path / "tuning"
    wished = ["elements", "--budget-device", f"{BUDGET_S}s", "--slots", "2", "--out", str(out)]
    with tuning(client, tmp_path, *wished) as first:
        wait_for(lambda: points(out) >= 4, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = journal_lines(out)

    with tuning(client, tmp_path, "--resume", str(out)) as second:
        wait_for(lambda: len(journal_lines(out)) > len(before) + 2, second)
        with tuning(client, tmp_path, "--resume", str(out)) as other:
            _, said = other.communicate(timeout=120)
        assert other.returncode == 2, said
        assert "another process works on" in said
        wait_for(lambda: bool(slots_at_work(cluster)), second)
        slots_at_work(cluster)[0].send_signal(signal.SIGKILL)
        answer, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    document = json.loads(answer)

    assert journal_lines(out)[: len(before)] == before
    kinds = [line["event"] for line in journal_lines(out)]
    assert "lost" in kinds
    seen = [(line["run_id"], p["fidelity"]) for line in journal_lines(out) for p in line.get("points", ())]
    assert len(seen) == len(set(seen))  # no fidelity was trained twice

    assert document["stopped"] in ("budget", "no gain expected")
    assert document["spent_s"] < BUDGET_S + 10  # a fidelity that a killed worker had begun is paid for twice
    assert document["incumbent"]["score"] > 0.3
    assert document["test"]["score"] > 0.3
    assert document["strong_default"]["fidelity"] == 10
    assert document["guard"]["fell_back"] is False
    assert Path(document["adapter"], "adapter_model.safetensors").is_file()
    assert {path.name for path in (out / "runs").iterdir()} == {one["run_id"] for one in document["finalists"]}
    assert "<svg" in Path(document["report"]).read_text()
    assert [one["score"] for one in document["trace"] if one["incumbent"]] == sorted(
        one["score"] for one in document["trace"] if one["incumbent"]
    )

    with tuning(client, tmp_path, "--resume", str(out)) as again:
        answer, errors = again.communicate(timeout=60)
    assert json.loads(answer) == document
    with Journal(out / "journal.jsonl") as journal:
        assert set(journal.trials) == {run["run_id"] for run in document["runs"]}
    in_mlflow(client, document)


@pytest.mark.long
def test_slots_that_share_a_process_lose_it_together_and_go_on(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    """Three runs at a time on one base model; their process is killed under them."""
    client = {**client, "RAY_ADDRESS": cluster.gcs_address}
    out = tmp_path / "tuning"
    wished = ["elements", "--budget-device", "30s", "--slots", "1", "--runs-per-slot", "3", "--out", str(out)]
    with tuning(client, tmp_path, *wished) as process:
        wait_for(lambda: points(out) >= 6 and bool(slots_at_work(cluster)), process)
        slots_at_work(cluster)[0].send_signal(signal.SIGKILL)
        answer, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    document = json.loads(answer)
    assert document["slots"] == 3
    assert document["stopped"] in ("budget", "no gain expected")
    assert document["incumbent"]["score"] > 0.3
    lines = journal_lines(out)
    assert "lost" in [line["event"] for line in lines]
    seen = [(line["run_id"], p["fidelity"]) for line in lines for p in line.get("points", ())]
    assert len(seen) == len(set(seen))
    assert len({run_id for run_id, _ in seen}) >= 3


def in_mlflow(client: dict[str, str], document: dict[str, Any]) -> None:
    """One child run for each run under one parent, ended, with one score a fidelity."""
    from mlflow import MlflowClient

    mlflow = MlflowClient(tracking_uri=client["MLFLOW_TRACKING_URI"])
    experiment = mlflow.get_experiment_by_name("tune")
    assert experiment is not None
    runs = mlflow.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "tuning"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["incumbent.test_score"] == pytest.approx(document["test"]["score"])
    children = {run.data.tags["run_id"]: run for run in runs if run.data.tags["kind"] == "run"}
    assert set(children) == {run["run_id"] for run in document["runs"]}
    for run in document["runs"]:
        child = children[run["run_id"]]
        assert child.info.status != "RUNNING"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["status"] == run["status"]
        logged = mlflow.get_metric_history(child.info.run_id, "score")
        assert {metric.step for metric in logged} == set(range(run["fidelity"] + 1))


def test_bad_input_is_said_in_one_line(tmp_path: Path) -> None:
    for arguments, words in (
        (["elements"], "say one budget"),
        (["elements", "--budget", "1m", "--budget-usd", "1"], "say one budget"),
        (["elements", "--budget", "1m", "--method", "magic"], "unknown method 'magic'; choose of"),
        (["elements", "--budget", "1m", "--method", "zero-shot"], "nothing to tune"),
        (["--resume", str(tmp_path / "none")], "holds no tuning"),
        (["--budget", "1m"], "a dataset is missing"),
    ):
        with tuning({}, tmp_path, *arguments) as process:
            answer, said = process.communicate(timeout=60)
        assert (process.returncode, answer) == (2, ""), said
        assert words in said
        assert "Traceback" not in said
