"""Slots that share a process: the same answers as a slot by itself, from many threads at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.errors import FtmetaError, UserError
from ftmeta.finetune import finetune
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunSpec, Task
from ftmeta.tuning.checkpoints import folder_of, there
from ftmeta.tuning.shared import SharedWorker
from ftmeta.tuning.work import Advance, Advanced, Conclude, Concluded, Validate, Validated
from ftmeta.tuning.worker import TuneWorker
from tests.finetune.conftest import base, budget, make_task, model_folder, pipeline

__all__ = ["base", "budget", "model_folder", "pipeline"]


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task("shared", held_out=40)


@pytest.fixture
def worker(task: Task, base: LoadedModel) -> Iterator[SharedWorker]:
    made = SharedWorker(task, base, 4)
    yield made
    made.close()


@pytest.fixture
def specs(task: Task, base: LoadedModel, budget: Budget, pipeline: Callable[..., Pipeline]) -> list[RunSpec]:
    named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
    pipelines = [
        pipeline(),
        pipeline(lr_multiplier=3.0, lora_rank=8),
        pipeline(peft_method="dora"),
        pipeline(lr_multiplier=1e6, max_grad_norm=1e6),
    ]
    return [RunSpec(*named, one, 0, budget) for one in pipelines]


def alone(base: LoadedModel, task: Task, spec: RunSpec) -> list[CurvePoint]:
    with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget) as run:
        return list(run)


def to_the_end(worker: SharedWorker, spec: RunSpec, folder: Path) -> list[Advanced]:
    answers: list[Advanced] = []
    for start in range(spec.budget.max_fidelity):
        answer = worker.do(Advance(spec, start, folder))
        assert isinstance(answer, Advanced)
        answers.append(answer)
        if answer.status not in ("stopped", "ok"):
            break
    return answers


def test_four_threads_at_once_have_the_curves_of_runs_alone(
    worker: SharedWorker, base: LoadedModel, task: Task, specs: list[RunSpec], tmp_path: Path
) -> None:
    """Two side by side, one that has to run by itself between their steps, one that diverges."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda spec: to_the_end(worker, spec, tmp_path / spec.run_id), specs))
    for spec, found in zip(specs[:3], answers[:3], strict=True):
        points = [point for answer in found for point in answer.points]
        wanted = alone(base, task, spec)
        assert [point.fidelity for point in points] == [point.fidelity for point in wanted]
        assert [point.val_nll for point in points] == pytest.approx([point.val_nll for point in wanted], rel=1e-4)
        assert [answer.status for answer in found] == ["stopped"] * (len(found) - 1) + ["ok"]
        assert all(answer.device_s > 0 and answer.unsaved is None for answer in found)
        assert sum(answer.device_s for answer in found) == pytest.approx(points[-1].cost_s)
        assert there(tmp_path / spec.run_id) == {1, 2, 3, 4}
    assert answers[3][-1].status == "diverged"
    assert answers[3][-1].error


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_run_whose_checkpoint_is_of_no_use_is_made_again(
    worker: SharedWorker, base: LoadedModel, task: Task, specs: list[RunSpec], tmp_path: Path, damage: str
) -> None:
    worker.do(Advance(specs[0], 0, tmp_path))
    kept = folder_of(tmp_path, 1)
    if damage == "gone":
        shutil.rmtree(kept)
    else:
        (kept / "state.safetensors").write_bytes(b"torn")
    answer = worker.do(Advance(specs[0], 1, tmp_path))
    assert isinstance(answer, Advanced)
    assert [point.fidelity for point in answer.points] == [0, 1, 2]
    wanted = alone(base, task, specs[0])[:3]
    assert [point.val_nll for point in answer.points] == pytest.approx([point.val_nll for point in wanted], rel=1e-4)


def test_scoring_and_handing_over_are_those_of_a_slot_by_itself(
    worker: SharedWorker, base: LoadedModel, task: Task, specs: list[RunSpec], tmp_path: Path
) -> None:
    to_the_end(worker, specs[0], tmp_path / "run")
    validated = worker.do(Validate(specs[0], 4, tmp_path / "run"))
    by_itself = TuneWorker(task, base)
    try:
        wanted = by_itself.do(Validate(specs[0], 4, tmp_path / "run"))
    finally:
        by_itself.close()
    assert isinstance(validated, Validated)
    assert isinstance(wanted, Validated)
    assert validated.nll == pytest.approx(wanted.nll, rel=1e-4)
    concluded = worker.do(Conclude(specs[0], 4, tmp_path / "run", tmp_path / "out"))
    assert isinstance(concluded, Concluded)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file() or list((tmp_path / "out").rglob("*.safetensors"))


def test_a_mistake_is_answered_and_the_others_go_on(worker: SharedWorker, specs: list[RunSpec], tmp_path: Path) -> None:
    wrong = replace(specs[0], pipeline=Pipeline("lora-v1", {**specs[0].pipeline.values, "lora_rank": 4096}))
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(to_the_end, worker, specs[0], tmp_path / "good")
        bad = pool.submit(worker.do, Advance(wrong, 0, tmp_path / "bad"))
        with pytest.raises(UserError, match="lora_rank is 4096"):
            bad.result()
        assert good.result()[-1].status == "ok"


def test_a_pass_that_breaks_is_told_to_all_under_way_and_the_worker_goes_on(
    worker: SharedWorker, specs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[object]:
        raise FtmetaError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(worker._cohort, "tick", broken)
        with pytest.raises(FtmetaError, match="the device is gone"):
            worker.do(Advance(specs[0], 0, tmp_path))
    assert to_the_end(worker, specs[0], tmp_path)[-1].status == "ok"


def test_a_checkpoint_that_cannot_be_written_is_said(
    worker: SharedWorker, specs: list[RunSpec], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    answer = worker.do(Advance(specs[0], 0, tmp_path / "file"))
    assert isinstance(answer, Advanced)
    assert answer.status == "stopped"
    assert answer.unsaved is not None
    assert "cannot be written" in answer.unsaved
