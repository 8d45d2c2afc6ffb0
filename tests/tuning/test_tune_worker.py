"""What a slot does with real runs: going on, taking up, making again, and what is handed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.finetune import finetune
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunSpec, Task
from ftmeta.tuning.checkpoints import folder_of, there
from ftmeta.tuning.work import Advance, Advanced, Conclude, Concluded, Validate, Validated
from ftmeta.tuning.worker import TuneWorker
from tests.finetune.conftest import base, budget, make_task, model_folder, pipeline

__all__ = ["base", "budget", "model_folder", "pipeline"]


@pytest.fixture(scope="module")
def long_task() -> Task:
    """With more validation examples than runs are watched by."""
    return make_task("long", held_out=40)


@pytest.fixture
def worker(long_task: Task, base: LoadedModel) -> Iterator[TuneWorker]:
    made = TuneWorker(long_task, base)
    yield made
    made.close()


@pytest.fixture
def specs(long_task: Task, base: LoadedModel, budget: Budget, pipeline: Callable[..., Pipeline]) -> list[RunSpec]:
    named = (long_task.name, long_task.fingerprint, base.info.name, base.info.fingerprint)
    return [RunSpec(*named, pipeline(lr_multiplier=rate), 0, budget) for rate in (1.0, 3.0)]


@pytest.fixture
def alone(long_task: Task, base: LoadedModel, specs: list[RunSpec]) -> list[list[CurvePoint]]:
    """The curves of the same runs, each made in one go."""
    curves = []
    for spec in specs:
        with finetune(spec.pipeline, long_task, base, spec.seed, budget=spec.budget) as run:
            curves.append(list(run))
    return curves


def advanced(worker: TuneWorker, work: Advance) -> Advanced:
    answer = worker.do(work)
    assert isinstance(answer, Advanced)
    return answer


def scores(points: list[CurvePoint]) -> list[float | None]:
    return [point.val_nll for point in points]


def test_runs_in_turns_have_the_curves_that_they_have_alone(
    worker: TuneWorker, specs: list[RunSpec], alone: list[list[CurvePoint]], tmp_path: Path
) -> None:
    seen: list[list[CurvePoint]] = [[], []]
    for start in range(specs[0].budget.max_fidelity):
        for n, spec in enumerate(specs):
            answer = advanced(worker, Advance(spec, start, tmp_path / spec.run_id))
            assert answer.status == ("ok" if start == 3 else "stopped")
            assert answer.unsaved is None
            assert answer.device_s > 0
            assert answer.wall_s >= answer.busy_s > 0
            seen[n] += answer.points
    assert [scores(points) for points in seen] == [scores(points) for points in alone]
    assert [point.fidelity for point in seen[0]] == [0, 1, 2, 3, 4]
    assert all(point.test_nll is None for point in seen[0])


def test_a_run_that_stays_on_its_slot_reads_no_checkpoint(
    worker: TuneWorker, specs: list[RunSpec], alone: list[list[CurvePoint]], tmp_path: Path
) -> None:
    points: list[CurvePoint] = []
    for start in range(3):
        points += advanced(worker, Advance(specs[0], start, tmp_path)).points
        shutil.rmtree(folder_of(tmp_path, start + 1))
    assert scores(points) == scores(alone[0][:4])


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_checkpoint_that_is_unusable_is_made_again(
    worker: TuneWorker, specs: list[RunSpec], alone: list[list[CurvePoint]], tmp_path: Path, damage: str
) -> None:
    one, other = specs
    advanced(worker, Advance(one, 0, tmp_path / "one"))
    advanced(worker, Advance(one, 1, tmp_path / "one"))
    advanced(worker, Advance(other, 0, tmp_path / "other"))
    folder = folder_of(tmp_path / "one", 2)
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "state.safetensors").write_bytes(b"torn")
    answer = advanced(worker, Advance(one, 2, tmp_path / "one"))
    assert scores(list(answer.points)) == scores(alone[0][:4])
    assert answer.device_s == pytest.approx(answer.points[-1].cost_s)  # it paid for all of it
    assert 3 in there(tmp_path / "one")


def test_a_disk_that_cannot_be_written_does_not_end_the_run(
    worker: TuneWorker, specs: list[RunSpec], alone: list[list[CurvePoint]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    points: list[CurvePoint] = []
    for start in range(4):
        answer = advanced(worker, Advance(specs[0], start, tmp_path / "file"))
        assert answer.unsaved is not None
        assert "cannot be written" in answer.unsaved
        points += answer.points
    assert scores(points) == scores(alone[0])


def test_a_run_that_diverges_ends_and_the_slot_goes_on(
    worker: TuneWorker, specs: list[RunSpec], pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    wild = replace(specs[0], pipeline=pipeline(lr_multiplier=1e6, max_grad_norm=1e6))
    answer = advanced(worker, Advance(wild, 0, tmp_path))
    assert answer.status == "diverged"
    assert answer.error
    assert there(tmp_path) == set()
    assert advanced(worker, Advance(specs[0], 0, tmp_path / "next")).status == "stopped"


def test_the_whole_validation_split_is_scored_at_a_checkpoint(
    worker: TuneWorker, specs: list[RunSpec], long_task: Task, base: LoadedModel, tmp_path: Path
) -> None:
    advanced(worker, Advance(specs[0], 0, tmp_path / "0"))
    advanced(worker, Advance(specs[0], 1, tmp_path / "0"))
    answer = worker.do(Validate(specs[0], 1, tmp_path / "0"))
    assert isinstance(answer, Validated)
    assert answer.examples == 40
    worker.close()
    whole = Budget(epochs=2, max_fidelity=4, eval_examples=40)
    with finetune(specs[0].pipeline, long_task, base, 0, budget=whole, until=1) as run:
        *_, last = run
    assert answer.nll == pytest.approx(last.val_nll, rel=1e-5)


def test_what_is_handed_over_is_the_adapter_at_that_fidelity(
    worker: TuneWorker, specs: list[RunSpec], long_task: Task, base: LoadedModel, tmp_path: Path
) -> None:
    for start in range(3):
        advanced(worker, Advance(specs[0], start, tmp_path / "run"))
    answer = worker.do(Conclude(specs[0], 2, tmp_path / "run", tmp_path / "incumbent"))
    assert isinstance(answer, Concluded)
    worker.close()
    with finetune(specs[0].pipeline, long_task, base, 0, budget=specs[0].budget, until=2) as run:
        *_, last = run
        zero = run.zero_shot
    assert answer.document["test"]["nll"] == pytest.approx(last.test_nll, rel=1e-5)
    assert answer.document["test"]["score"] == pytest.approx(last.test_score, abs=1e-5)
    assert answer.document["zero_shot"]["nll"] == pytest.approx(zero.test_nll, rel=1e-5)
    assert answer.document["zero_shot"]["score"] == 0.0
    assert (tmp_path / "incumbent" / "adapter" / "adapter_model.safetensors").is_file()
    kept = json.loads((tmp_path / "incumbent" / "run.json").read_text())
    assert [point["fidelity"] for point in kept["curve"]] == [0, 1, 2]
