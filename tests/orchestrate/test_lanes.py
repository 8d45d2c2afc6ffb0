"""Lanes: what the queue hands out, and what a lane makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftmeta.finetune import finetune, tokenize_task
from ftmeta.metadataset import Ledger
from ftmeta.models import LoadedModel
from ftmeta.orchestrate import lane_plan as planning
from ftmeta.orchestrate.lane_plan import RunsPerSlot, batches_of, lane_plan
from ftmeta.orchestrate.lanes import Lane, RunQueue
from ftmeta.orchestrate.sweep import Sweep
from ftmeta.orchestrate.workers import FinetuneWorker, failed_result
from ftmeta.planning.assumptions import assumptions
from ftmeta.planning.cohort import CohortPlan
from ftmeta.schema import Budget, Pipeline, RunResult, RunSpec, Task
from tests.finetune.conftest import base, make_task, model_folder

__all__ = ["base", "model_folder"]

PLAIN: dict[str, Any] = {"batch_size": 8, "lora_rank": 4, "warmup_ratio": 0.0, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task("lanes")


@pytest.fixture(scope="module")
def spec_of(base: LoadedModel, task: Task) -> Callable[..., RunSpec]:
    def make(seed: int = 0, epochs: float = 1.0, **values: Any) -> RunSpec:
        named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
        budget = Budget(epochs=epochs, max_fidelity=2, eval_examples=10)
        return RunSpec(*named, Pipeline("lora-v1", {**PLAIN, **values}), seed, budget)

    return make


def ids(specs: list[RunSpec]) -> list[str]:
    return [spec.run_id for spec in specs]


def test_the_queue_hands_out_each_run_once_and_skips_what_others_finished(
    spec_of: Callable[..., RunSpec], tmp_path: Path
) -> None:
    specs = [spec_of(seed) for seed in range(5)]
    dora = spec_of(peft_method="dora")
    ledger = Ledger(tmp_path)
    ledger.put(failed_result(specs[1], "error", "made elsewhere"))
    ledger.put(failed_result(specs[2], "error", "to be made again"))
    queue = RunQueue([*specs[:3], dora, *specs[3:]], tmp_path, frozenset({specs[2].run_id}))
    assert queue.waiting() == 6
    assert ids(queue.take("a", 2, False)) == ids([specs[0], specs[2]])
    assert ids(queue.take("b", 9, False)) == ids(specs[3:])
    assert queue.take("b", 9, False) == []
    assert ids(queue.take("a", 1, True)) == [dora.run_id]
    assert queue.take_skipped() == [specs[1].run_id]
    assert queue.take_skipped() == []
    assert queue.waiting() == 0


def test_what_a_dead_lane_had_is_made_alone_and_given_up_at_its_second_death(
    spec_of: Callable[..., RunSpec], tmp_path: Path
) -> None:
    specs = [spec_of(seed) for seed in range(3)]
    queue = RunQueue(specs, tmp_path)
    queue.take("a", 3, False)
    queue.ended("a", [specs[1].run_id])
    assert queue.died("a") == []
    assert queue.take("b", 3, False) == []
    assert ids(queue.take("b", 1, True)) == [specs[0].run_id]
    assert ids(queue.died("b")) == [specs[0].run_id]
    assert ids(queue.take("c", 5, True)) == [specs[2].run_id]
    queue.ended("c", [specs[2].run_id])
    assert queue.died("c") == []
    assert queue.waiting() == 0


class Alone(FinetuneWorker):
    """A worker on the tests' base model."""

    def __init__(self, base: LoadedModel, task: Task) -> None:
        self.base, self._tasks, self._tokenized = base, {task.name: task}, {}


def lane_of(base: LoadedModel, task: Task, queue: RunQueue, places: int = 3) -> Lane:
    tokenized, plan = {task.name: tokenize_task(task, base)}, CohortPlan(places, 1024, 0.0)
    return Lane(base, tokenized, plan, lambda count, alone: queue.take("lane", count, alone), Alone(base, task))


def worked(lane: Lane) -> dict[str, RunResult]:
    found: dict[str, RunResult] = {}
    while not lane.is_done:
        for result in lane.work(5.0):
            assert result.run.run_id not in found
            found[result.run.run_id] = result
    return found


def test_a_lane_makes_every_run_with_the_row_that_it_has_alone(
    base: LoadedModel, task: Task, spec_of: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """Seven runs on three places, of different lengths; two that run by themselves, one that diverges."""
    specs = [spec_of(seed, epochs=1.0 + seed % 3) for seed in range(5)]
    specs += [spec_of(peft_method="dora"), spec_of(lr_multiplier=1e6, max_grad_norm=1e6), spec_of(peft_method="ia3")]
    found = worked(lane_of(base, task, RunQueue(specs, tmp_path)))
    assert found.keys() == set(ids(specs))
    for spec in specs:
        with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget) as run:
            wanted = list(run)
            status = run.status
        row = found[spec.run_id].run
        assert row.status == status
        assert row.pipeline == spec.pipeline
        if status == "ok":
            curve = found[spec.run_id].curve
            assert [point.val_nll for point in curve] == pytest.approx([point.val_nll for point in wanted], rel=1e-4)
            assert row.generation is not None


def test_a_run_that_cannot_begin_is_a_row_and_the_others_go_on(
    base: LoadedModel, task: Task, spec_of: Callable[..., RunSpec], tmp_path: Path
) -> None:
    too_wide = spec_of(lora_rank=4096)
    other = spec_of(1)
    found = worked(lane_of(base, task, RunQueue([too_wide, other], tmp_path)))
    assert found[too_wide.run_id].run.status == "error"
    assert "lora_rank is 4096" in str(found[too_wide.run_id].run.error)
    assert found[other.run_id].run.status == "ok"


def test_under_way_are_the_runs_in_the_places(
    base: LoadedModel, task: Task, spec_of: Callable[..., RunSpec], tmp_path: Path
) -> None:
    specs = [spec_of(seed) for seed in range(4)]
    lane = lane_of(base, task, RunQueue(specs, tmp_path), places=2)
    assert lane.work(1e-9) == []
    assert set(lane.under_way()) == set(ids(specs[:2]))
    worked(lane)
    assert lane.under_way() == {}


def test_a_sweep_file_says_what_cannot_go_together() -> None:
    named: dict[str, Any] = {"name": "x", "tasks": ["elements"], "runs_per_slot": 4}
    assert Sweep(**named).runs_per_slot == 4
    assert Sweep(**named).fingerprint == Sweep(**{**named, "runs_per_slot": None}).fingerprint
    for more in ({"worker": "simulated"}, {"workers_per_run": 2}):
        with pytest.raises(ValueError, match="exclude each other"):
            Sweep(**named, **more)


# --- how many at once -------------------------------------------------------------------------------------------------


def planned(base: LoadedModel, task: Task, wanted: RunsPerSlot, count: int = 30) -> CohortPlan:
    pipelines = [Pipeline("lora-v1", {**PLAIN, "batch_size": n + 1}) for n in range(count)]
    return lane_plan(base, {task.name: tokenize_task(task, base)}, pipelines, wanted, cpus=1, gpus=0)


def test_auto_takes_as_many_as_there_are_and_memory_holds(
    base: LoadedModel, task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert planned(base, task, "auto").places == 30
    assert planned(base, task, 4).places == 4
    assert planned(base, task, "auto", count=0).places == 1  # all of them run alone
    for_20 = planned(base, task, 20).bytes / (1 - assumptions().headroom["cpu"])
    monkeypatch.setattr(planning, "_free_bytes", lambda *_: for_20)
    assert not caplog.records
    assert planned(base, task, 30).places == 20
    assert "runs at once, not the 30 of runs_per_slot" in caplog.text


def test_where_memory_holds_none_one_is_tried(
    base: LoadedModel, task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planning, "_free_bytes", lambda *_: 1000.0)
    assert planned(base, task, "auto").places == 1
    assert "one run at a time: a run of" in caplog.text


def test_what_batches_are_like(base: LoadedModel, task: Task) -> None:
    tokenized = tokenize_task(task, base)
    rows = tokenized.splits["train"]
    sizes = [Pipeline("lora-v1", {**PLAIN, "batch_size": size}) for size in (2, 6)]
    found = batches_of([tokenized], sizes, limit=10_000)
    assert found.tokens == pytest.approx(4 * sum(map(len, rows)) / len(rows))
    assert found.largest_piece == 6 * max(map(len, rows))
    assert 0 < found.labels_per_token < 0.6
    full = batches_of([tokenized], [Pipeline("lora-v1", {**PLAIN, "loss_on": "full"})], limit=10_000)
    assert full.labels_per_token > 0.9


@pytest.mark.parametrize("wrong", [0, -1, "many", 2.5, True])
def test_a_sweep_file_with_another_number_of_runs_per_slot_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="runs_per_slot"):
        Sweep.model_validate({"name": "x", "tasks": ["elements"], "runs_per_slot": wrong})
