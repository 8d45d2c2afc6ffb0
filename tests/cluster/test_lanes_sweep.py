"""A sweep whose slots train many runs at once, for real: its rows are those of the same sweep with a run at a time, and
a driver or a worker that is killed at any moment costs nothing but time."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from ftmeta.metadataset import Ledger, read
from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
SWEEP = """\
name: lanes
tasks: [elements, world-facts]
pipelines:
  include: [strong-default, {like: strong-default, but: {lora_rank: 4, batch_size: 4, lora_dropout: 0.1}},
    {like: strong-default, but: {peft_method: dora}}, {like: strong-default, but: {lr_multiplier: 0.3}}]
budget: {epochs: 0.3, max_fidelity: 3, eval_examples: 32}
slots: 1
"""


def collected(cluster: LocalCluster, client: dict[str, str], sweep: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.collect", "--config", str(sweep), "--out", str(out), "--tracking-uri", ""]
    environment = {**client, "RAY_ADDRESS": cluster.gcs_address, "MLFLOW_TRACKING_URI": ""}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    answer, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return dict(json.loads(answer[answer.index("{") :]))


def lanes_at_work(cluster: LocalCluster) -> list[psutil.Process]:
    found = []
    for process in local.processes(cluster):
        try:
            if "Trainable.train" in " ".join(process.cmdline()):  # Tune's wrapper of the lane
                found.append(process)
        except psutil.Error:
            continue
    return found


def lanes_with_rows(
    cluster: LocalCluster, ledger: Ledger, process: subprocess.Popen[str], rows: int
) -> list[psutil.Process]:
    """The lanes at work as soon as there are so many rows."""
    deadline = time.monotonic() + 120
    while not (len(ledger.run_ids()) >= rows and (lanes := lanes_at_work(cluster))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return lanes


def scores(out: Path) -> pd.Series:
    meta = read(out)
    return meta.curves.sort_values(["run_id", "fidelity"]).set_index(["run_id", "fidelity"])["val_nll"]


def test_rows_are_those_of_a_run_at_a_time_and_a_killed_driver_or_worker_costs_none(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    one, many = tmp_path / "one.yaml", tmp_path / "many.yaml"
    one.write_text(SWEEP)
    many.write_text(f"{SWEEP}runs_per_slot: 4\n")
    summary = summary_of(collected(cluster, client, one, tmp_path / "one"))
    assert (summary["planned"], summary["done"], summary["failed"]) == (8, 8, 0)

    ledger = Ledger(tmp_path / "many" / "ledger")
    killed = collected(cluster, client, many, tmp_path / "many")
    lanes_with_rows(cluster, ledger, killed, 1)
    time.sleep(random.uniform(0.0, 1.5))
    killed.kill()
    killed.communicate()
    found = set(ledger.run_ids())

    process = collected(cluster, client, many, tmp_path / "many")
    lanes_with_rows(cluster, ledger, process, len(found) + 1)[0].send_signal(signal.SIGKILL)
    summary = summary_of(process)
    assert (summary["planned"], summary["done"], summary["failed"]) == (8, 8, 0)
    assert summary["skipped"] >= len(found)
    assert found < set(ledger.run_ids())
    assert 0 < summary["slot_efficiency"] <= 1.0
    pd.testing.assert_series_equal(scores(tmp_path / "many"), scores(tmp_path / "one"), rtol=1e-4)
    runs = read(tmp_path / "many").runs
    assert set(runs["status"]) == {"ok"}

    again = summary_of(collected(cluster, client, many, tmp_path / "many"))
    assert (again["skipped"], again["done"]) == (8, 8)
