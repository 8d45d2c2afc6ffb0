"""A sweep whose slots train many runs at once, for real: its rows are those of the same sweep with a run at a time, and
a worker that is killed costs nothing but time."""

from __future__ import annotations

import json
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


def scores(out: Path) -> pd.Series:
    meta = read(out)
    return meta.curves.sort_values(["run_id", "fidelity"]).set_index(["run_id", "fidelity"])["val_nll"]


def test_rows_are_those_of_a_run_at_a_time_and_a_killed_worker_costs_none(
    cluster: LocalCluster, client: dict[str, str], tmp_path: Path
) -> None:
    one, many = tmp_path / "one.yaml", tmp_path / "many.yaml"
    one.write_text(SWEEP)
    many.write_text(f"{SWEEP}runs_per_slot: 4\n")
    summary = summary_of(collected(cluster, client, one, tmp_path / "one"))
    assert (summary["planned"], summary["done"], summary["failed"]) == (8, 8, 0)

    process = collected(cluster, client, many, tmp_path / "many")
    ledger = Ledger(tmp_path / "many" / "ledger")
    deadline = time.monotonic() + 120
    while not (ledger.run_ids() and (lanes := lanes_at_work(cluster))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lanes[0].send_signal(signal.SIGKILL)
    summary = summary_of(process)
    assert (summary["planned"], summary["done"], summary["failed"]) == (8, 8, 0)
    assert 0 < summary["slot_efficiency"] <= 1.0
    pd.testing.assert_series_equal(scores(tmp_path / "many"), scores(tmp_path / "one"), rtol=1e-4)
    runs = read(tmp_path / "many").runs
    assert set(runs["status"]) == {"ok"}

    again = summary_of(collected(cluster, client, many, tmp_path / "many"))
    assert (again["skipped"], again["done"]) == (8, 8)
