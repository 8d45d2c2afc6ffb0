"""The arithmetic of docs/reports/scale.md on numbers that can be worked out by hand, and the page that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.bench_scale import CASES, REPORT
from jobs.bench_scale_page import FILE_SYSTEM_MS, full_at, page, seconds_per_run
from jobs.bench_scale_parts import ledger, objects
from jobs.bench_scale_schedule import KINDS, SLOTS, efficiencies

ROOT = Path(__file__).parents[2]
PARTS: dict[str, Any] = {
    "driver": {"driver_s": 0.02, "gcs_s": 0.001},
    "mlflow": {"server_s": 0.05, "send_s": 0.01},
    "ledger": {"put_s": 0.001, "operations": 6},
}


def test_what_takes_longest_is_full_first() -> None:
    costs = seconds_per_run(PARTS)
    assert next(iter(costs)) == "the thread that sends to MLflow"
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    assert costs["the thread that sends to MLflow"] == pytest.approx(0.06)  # the thread waits for the server
    assert costs[f"driver whose ledger takes {FILE_SYSTEM_MS:g} ms an operation"] == pytest.approx(0.02 + 6 * 0.005)
    assert full_at(0.02, run_s=26) == pytest.approx(1300)
    assert seconds_per_run({}) == {}


def test_more_slots_are_kept_less_busy_and_a_slow_driver_keeps_none() -> None:
    rows = efficiencies(driver_s_per_run=0.01)
    assert {(row["kind"], row["slots"]) for row in rows} == {(kind, slots) for kind in KINDS for slots in SLOTS}
    for row in rows:
        assert 0 < row["efficiency"] <= row["without_barriers"] + 0.01 < 1.01
    slow = {row["slots"]: row for row in efficiencies(driver_s_per_run=1.0) if row["kind"] == next(iter(KINDS))}
    assert slow[1000]["efficiency"] == pytest.approx(26 / 1000, rel=0.1)  # one run a second, of 26 s, on 1,000 slots


def test_rows_and_bytes_are_measured() -> None:
    rows = ledger(rows=4)
    assert rows["operations"] >= 3  # a folder, a file, a rename
    assert rows["row_bytes"] > 1000
    bytes_of = objects(tasks=["elements"])
    assert bytes_of["tasks"] == 1
    assert bytes_of["report_bytes"] < bytes_of["run_bytes"] < bytes_of["tasks_bytes"] < bytes_of["package_bytes"]


def test_the_page_is_made_of_the_numbers_beside_it() -> None:
    found = json.loads((ROOT / REPORT).read_text(encoding="utf-8"))
    assert set(found["parts"]) == set(CASES)
    assert (ROOT / REPORT).with_suffix(".md").read_text(encoding="utf-8") == page(found)
