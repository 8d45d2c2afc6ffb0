"""Two drivers on one ledger, as two commands started one after the other, with the simulated worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftmeta import metadataset
from ftmeta.metadataset import Ledger

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
RUNS = 500


def a_driver(sweep: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.collect", "--config", str(sweep), "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_drivers_share_a_sweep(tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "out"
    sweep.write_text(
        f"name: shared\ntasks: [elements]\nworker: simulated\nslots: 1\npipelines: {{sample: {RUNS}}}\n"
        "budget: {max_fidelity: 2}\n"
    )
    ledger = Ledger(out / "ledger")
    with a_driver(sweep, out) as first:
        while first.poll() is None and not (out / "drivers").is_dir():
            time.sleep(0.05)
        with a_driver(sweep, out) as second:
            said = [driver.communicate(timeout=150) for driver in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    one, other = (json.loads(output) for output, _ in said)
    for summary in (one, other):
        assert (summary["planned"], summary["done"], summary["failed"]) == (RUNS, RUNS, 0)
        assert not summary["interrupted"]
    assert "works on this sweep already; the work is shared" in said[1][1]
    runs, problems = ledger.scan()
    assert (len(runs), problems) == (RUNS, [])
    assert set(metadataset.read(out).runs["run_id"]) == ledger.run_ids()
    # Each made some, and what both made are a few at the place where they met.
    made = [RUNS - summary["skipped"] - summary["elsewhere"] for summary in (one, other)]
    assert min(made) > 0
    assert sum(made) in (RUNS, RUNS + 1)  # two that end the same run in the same millisecond both write its row
