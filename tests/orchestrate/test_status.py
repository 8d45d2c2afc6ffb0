"""`ftmeta collect --status`: while a driver runs, after it died, and on a ledger alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ftmeta.cli import app
from ftmeta.cli.sweeping import status_lines
from ftmeta.errors import UserError
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.beacon import Beacon
from ftmeta.orchestrate.collect import _facts
from ftmeta.orchestrate.progress import Totals, UnderWay
from ftmeta.orchestrate.state import State
from ftmeta.orchestrate.status import sweep_status
from ftmeta.orchestrate.sweep import Pipelines, Plan, Sweep, make_plan
from ftmeta.orchestrate.workers import failed_result
from ftmeta.schema import RunResult, Status
from ftmeta.tracking import Tracker


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(
        Sweep(name="x", tasks=["elements", "world-facts"], worker="simulated", pipelines=Pipelines(sample=3))
    )


def keep(folder: Path, plan: Plan, *statuses: Status) -> Ledger:
    """A ledger with a run of each status, the first of the plan; each cost 10 s of a device with a price."""
    ledger = Ledger(folder / "ledger")
    for spec, status in zip(plan.runs, statuses, strict=False):
        result = failed_result(spec, status, "why")
        ledger.put(RunResult(replace(result.run, cost_s=10.0, device="NVIDIA L4"), ()))
    return ledger


def test_a_ledger_alone(tmp_path: Path, plan: Plan) -> None:
    ledger = keep(tmp_path, plan, "ok", "diverged", "oom", "error")
    torn = next(iter(sorted(ledger.run_ids())))
    (tmp_path / "ledger" / torn[:2] / f"{torn}.json").write_text("{")
    (tmp_path / "ledger" / "README").write_text("no run")
    status = sweep_status(tmp_path)
    assert (status["planned"], status["left"], status["running"], status["torn"]) == (None, None, False, 1)
    assert status["done"] + status["failed"] == 3
    assert status["cost_s"] == 30.0
    assert status["cost_usd"] > 0
    said = "\n".join(status_lines(status))
    assert "of an unknown number runs done" in said
    assert "1 torn" in said
    assert "driver: none" in said


def test_a_driver_at_work_and_then_dead(tmp_path: Path, plan: Plan) -> None:
    ledger = keep(tmp_path, plan, "ok", "ok", "error")
    state = State(ledger, Tracker(None, "").sweep("x", "key"), Totals(6, slots=2, began=time.monotonic() - 60))
    state.totals.done = 2
    spec = plan.runs[3]
    state.under_way[spec.run_id] = UnderWay(spec.run_id, spec.task, spec.pipeline.id, 0, time.time() - 7, fidelity=4)
    with Beacon(tmp_path, _facts(plan, state, foreign=0)) as beacon:
        status = sweep_status(tmp_path)
        beacon.ended = "interrupted"
    assert (status["planned"], status["done"], status["failed"], status["left"]) == (6, 2, 1, 3)
    assert status["running"]
    assert status["runs_per_hour"] == pytest.approx(120, rel=0.05)  # two in a minute
    assert status["time_left_s"] == pytest.approx(90, rel=0.05)  # for three
    (run,) = status["under_way"]
    assert (run["run_id"], run["fidelity"], run["task"]) == (spec.run_id, 4, spec.task)
    assert 7 <= run["for_s"] < 60
    assert status["tasks"] == {"elements": {"planned": 3, "ok": 1, "error": 1}, "world-facts": {"planned": 3, "ok": 1}}
    assert "fidelity 4 · since 7" in "\n".join(status_lines(status))

    after = sweep_status(tmp_path)
    assert (after["running"], after["under_way"], after["runs_per_hour"], after["time_left_s"]) == (
        False,
        [],
        None,
        None,
    )
    assert after["planned"] == 6
    assert [driver["ended"] for driver in after["drivers"]] == ["interrupted"]


def test_rows_of_another_sweep_in_the_folder_are_not_this_ones(tmp_path: Path, plan: Plan) -> None:
    ledger = keep(tmp_path, plan, "ok", "ok")
    state = State(ledger, Tracker(None, "").sweep("x", "key"), Totals(6, slots=2))
    with Beacon(tmp_path, _facts(plan, state, foreign=1)):
        status = sweep_status(tmp_path)
    assert status["left"] == 5
    assert "1 of the rows are no part of this sweep" in "\n".join(status_lines(status))


def test_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no sweep"):
        sweep_status(tmp_path)


def test_the_command(tmp_path: Path, plan: Plan) -> None:
    keep(tmp_path, plan, "ok", "error")
    ran = CliRunner().invoke(app, ["collect", "--status", str(tmp_path), "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["statuses"] == {"ok": 1, "error": 1}
    shown = CliRunner().invoke(app, ["collect", "--status", str(tmp_path)])
    assert "1 of an unknown number runs done, 1 failed" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["collect"], "no sweep file given"),
        (["collect", "x.yaml"], "no --out given"),
        (["collect", "x.yaml", "--status", "there"], "--status takes its folder and nothing else"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], said: str) -> None:
    ran = CliRunner().invoke(app, arguments)
    assert isinstance(ran.exception, UserError)
    assert said in str(ran.exception)
