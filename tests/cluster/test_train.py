"""Runs on several workers: what the command line says of bad requests, and sweeps whose runs are multi-worker trainers.

Faults and the job on two nodes are in test_faults.py, the arithmetic in tests/finetune/test_zero.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftmeta.metadataset import Ledger

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Without a cluster: each command starts Ray for itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def ftmeta(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ftmeta")), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380)


def test_more_workers_than_the_machine_has(environment: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = ftmeta(
        environment, "finetune", "elements", "--pipeline", "default", "--workers", "4000", "--out", out, "--json"
    )
    assert done.returncode == 2
    assert "4000 workers with 1 CPU each were asked for" in done.stderr
    assert "are missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--zero", "3"], "--zero belongs to a run on several workers"),
        (["--workers", "2", "--zero", "1"], "--zero is 1; choose 0, 2 or 3"),
        (["--workers", "2", "--gpus-per-worker", "2"], "gpus-per-worker"),
        (["--workers", "0"], "workers"),
    ],
)
def test_options_that_make_no_sense(environment: dict[str, str], arguments: list[str], said: str) -> None:
    done = ftmeta(environment, "finetune", "elements", "--pipeline", "default", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_sweep_of_runs_on_two_workers(environment: dict[str, str], tmp_path: Path) -> None:
    """Two runs one after the other, the second with a pipeline that cannot be (rows are data); again: nothing to do."""
    sweep = {
        "name": "spread",
        "tasks": ["elements"],
        "pipelines": {"include": ["strong-default"]},
        "seeds": [0, 1],
        "budget": {"epochs": 0.3, "max_fidelity": 2, "eval_examples": 8, "max_train_examples": 100},
        "workers_per_run": 2,
        "zero": 0,
        "slots": 1,
        "cpus_per_slot": 0.5,
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    out = tmp_path / "out"
    arguments = ["collect", str(tmp_path / "sweep.yaml"), "--out", str(out), "--json"]
    first = ftmeta(environment, *arguments)
    assert first.returncode == 0, first.stderr[-2000:]
    summary: dict[str, Any] = json.loads(first.stdout)
    assert (summary["planned"], summary["done"], summary["failed"]) == (2, 2, 0)
    ledger = Ledger(out / "ledger")
    results = [ledger.get(run_id) for run_id in ledger.run_ids()]
    for result in results:
        assert [point.fidelity for point in result.curve] == [0, 1, 2]
        assert result.run.status == "ok"
        assert result.run.generation is not None
        assert result.run.cost_s == pytest.approx(result.curve[-1].cost_s)
    assert not list((out / "runs").iterdir()), "neither adapters nor checkpoints stay"
    again = ftmeta(environment, *arguments)
    assert json.loads(again.stdout)["skipped"] == 2
