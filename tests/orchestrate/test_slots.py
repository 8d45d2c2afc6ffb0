"""A slot without Ray around it: fidelity after fidelity, one run after the other, and failures as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import FtmetaError
from ftmeta.files import canonical_json
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.progress import Totals
from ftmeta.orchestrate.state import State
from ftmeta.orchestrate.sweep import spec_to_json
from ftmeta.orchestrate.workers import SimulatedWorker, failed_result
from ftmeta.schema import Budget, Pipeline, RunResult, RunSpec
from ftmeta.tracking import Tracker


def a_spec(seed: int = 0, max_fidelity: int = 2) -> RunSpec:
    pipeline = Pipeline("tiny", {"lora_rank": 4})
    return RunSpec("colours", "t" * 16, "tiny", "b" * 16, pipeline, seed, Budget(max_fidelity=max_fidelity))


def config_of(spec: RunSpec) -> dict[str, Any]:
    return {"spec": canonical_json(spec_to_json(spec))}


def a_state(folder: Path, again: frozenset[str] = frozenset()) -> State:
    return State(Ledger(folder), Tracker(None, "").sweep("x", "key"), Totals(planned=9, slots=1), again=again)


def steps(slot: Any) -> list[dict[str, Any]]:
    reports = [slot.step()]
    while not reports[-1]["done"]:
        reports.append(slot.step())
    return reports


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's imports, not ours
def test_a_slot_runs_one_run_after_the_other() -> None:
    from ftmeta.orchestrate.trainable import SweepSlot

    slot = SweepSlot.__new__(SweepSlot)
    slot.setup(config_of(a_spec(seed=0)), make_worker=lambda tasks: SimulatedWorker())
    for seed in (0, 1):
        spec = a_spec(seed)
        if seed:
            assert slot.reset_config(config_of(spec))
        reports = steps(slot)
        assert [report["fidelity"] for report in reports] == [2]  # a run that takes no time is reported once
        finished: RunResult = reports[-1]["finished"]
        assert finished.run.run_id == spec.run_id
        assert finished.run.status == "ok"
        assert [point.fidelity for point in finished.curve] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fidelities_that_take_a_moment_are_reported_one_by_one() -> None:
    from ftmeta.orchestrate.trainable import SweepSlot

    slot = SweepSlot.__new__(SweepSlot)
    slot.setup(config_of(a_spec()), make_worker=lambda tasks: SimulatedWorker(), report_every_s=0.0)
    assert [(report["fidelity"], report["run_id"]) for report in steps(slot)] == [
        (fidelity, a_spec().run_id) for fidelity in range(3)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_goes_wrong_in_a_run_is_a_row_and_the_slot_goes_on() -> None:
    from ftmeta.orchestrate.trainable import SweepSlot

    impossible = a_spec(max_fidelity=0)
    slot = SweepSlot.__new__(SweepSlot)
    slot.setup(config_of(impossible), make_worker=lambda tasks: SimulatedWorker())
    (report,) = steps(slot)
    assert report["finished"].run.run_id == impossible.run_id
    assert report["finished"].run.status == "error"
    assert report["finished"].run.error.startswith("ZeroDivisionError")
    slot.reset_config(config_of(a_spec()))
    assert steps(slot)[-1]["finished"].run.status == "ok"


def test_simulated_curves_follow_from_the_run_alone() -> None:
    def scores() -> list[float | None]:
        run = SimulatedWorker().begin(a_spec())
        return [next(run).score for _ in range(3)]

    assert scores() == scores()


def test_finished_runs_are_kept_and_counted(tmp_path: Path) -> None:
    state = a_state(tmp_path / "ledger")
    state.take(failed_result(a_spec(0), "oom", "no memory"))
    state.take(failed_result(a_spec(1), "diverged", "loss is not finite"))
    assert (state.totals.done, state.totals.failed) == (2, 1)
    assert len(state.ledger) == 2


def test_only_a_run_that_is_made_again_replaces_a_row(tmp_path: Path) -> None:
    spec = a_spec()
    a_state(tmp_path).take(failed_result(spec, "error", "first"))
    a_state(tmp_path).take(failed_result(spec, "error", "second"))
    assert Ledger(tmp_path).get(spec.run_id).run.error == "first"
    a_state(tmp_path, again=frozenset({spec.run_id})).take(failed_result(spec, "error", "third"))
    assert Ledger(tmp_path).get(spec.run_id).run.error == "third"


class Sent:
    """A tracked sweep that remembers what it was given."""

    def __init__(self) -> None:
        self.results: list[RunResult] = []

    def log(self, result: RunResult) -> None:
        self.results.append(result)

    def close(self, status: Any, metrics: Any) -> int:
        return 0


def test_what_another_driver_has_finished_is_neither_made_nor_sent_again(tmp_path: Path) -> None:
    sent = Sent()
    state = State(Ledger(tmp_path), sent, Totals(planned=3, slots=1))
    mine, theirs, met = a_spec(0), a_spec(1), a_spec(2)
    other = a_state(tmp_path)
    assert state.wanted(mine)
    other.take(failed_result(theirs, "diverged", "theirs"))
    assert not state.wanted(theirs)
    assert state.wanted(met)  # both drivers begin it, and the other one ends it first
    other.take(failed_result(met, "diverged", "theirs"))
    state.take(failed_result(met, "diverged", "mine"))
    state.take(failed_result(mine, "diverged", "mine"))
    assert Ledger(tmp_path).get(met.run_id).run.error == "theirs"
    assert [result.run.run_id for result in sent.results] == [mine.run_id]
    assert state.elsewhere == {theirs.run_id, met.run_id}
    assert state.totals.planned == state.totals.done == 2
    again = a_state(tmp_path, again=frozenset({theirs.run_id}))
    assert again.wanted(theirs)


def test_a_ledger_that_cannot_be_written_ends_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = a_state(tmp_path / "file")
    state.take(failed_result(a_spec(), "error", "x"))
    assert state.stop
    assert isinstance(state.failure, FtmetaError)
    assert "cannot be written" in str(state.failure)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_that_die_one_after_the_other_end_the_sweep(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    for seed in range(2):
        state.died(a_spec(seed), RuntimeError("killed"))
    assert not state.stop
    state.died(a_spec(2), RuntimeError("killed"))
    assert state.stop
    assert "3 workers died" in str(state.failure)
    assert {result.run.status for result in state.ledger.results()} == {"error"}
