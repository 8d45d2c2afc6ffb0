from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset import Ledger
from ftmeta.metadataset.ledger import Brief, Problem
from ftmeta.schema import CurvePoint, Pipeline, RunResult, RunRow

POINT = CurvePoint(1, 10, 160, 3200, 0.4, 1.2, 0.5, 0.39, 1.25, 1.3, 0.8, 0.2, 1.0, 1.1)
RUN = RunRow(
    run_id="00aa11bb22cc33dd",
    task="debian",
    base_model="phi3-micro",
    seed=0,
    status="ok",
    error=None,
    max_fidelity=1,
    fidelity=1,
    cost_s=1.0,
    wall_s=1.1,
    peak_memory_gb=0.4,
    device="cpu",
    code_version="0",
    task_fingerprint="t",
    base_model_fingerprint="b",
    space="lora-v1",
    started_at="2026-01-01T00:00:00+00:00",
    pipeline=Pipeline("lora-v1", {"lr_multiplier": 1.0, "batch_size": 16}),
    libraries={"torch": "2.13"},
    generation={"f1": 0.5},
)
RESULT = RunResult(RUN, (POINT,))


def result(run_id: str) -> RunResult:
    return RunResult(replace(RUN, run_id=run_id), (POINT,))


def test_a_run_comes_back_as_it_went_in(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.has(RUN.run_id)
    assert ledger.put(RESULT)
    assert ledger.has(RUN.run_id)
    assert ledger.get(RUN.run_id) == RESULT
    assert list(ledger.results()) == [RESULT]
    assert (tmp_path / "00" / f"{RUN.run_id}.json").is_file()


def test_a_finished_run_stays_unless_it_is_replaced_on_purpose(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(RESULT)
    again = RunResult(replace(RUN, status="diverged", error="loss rose"), (POINT,))
    assert not ledger.put(again)
    assert ledger.get(RUN.run_id) == RESULT
    assert ledger.put(again, replace=True)
    assert ledger.get(RUN.run_id) == again
    assert len(ledger) == 1


def test_what_is_not_finite_is_unknown(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(RunResult(RUN, (replace(POINT, val_nll=float("nan"), score=None, train_loss=float("inf")),)))
    (point,) = ledger.get(RUN.run_id).curve
    assert (point.val_nll, point.score, point.train_loss) == (None, None, None)


def test_torn_and_foreign_files_are_reported(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(RESULT)
    torn = tmp_path / "11" / "1122.json"
    torn.parent.mkdir()
    torn.write_text('{"format": 1, "run": {')
    (tmp_path / "notes.txt").write_text("mine")
    moved = tmp_path / "33" / "3344.json"
    moved.parent.mkdir()
    moved.write_bytes((tmp_path / "00" / f"{RUN.run_id}.json").read_bytes())
    newer = tmp_path / "44" / "4455.json"
    newer.parent.mkdir()
    newer.write_text('{"format": 99}')
    (tmp_path / "55").mkdir()
    (tmp_path / "55" / ".5566.json.abc").mkdir()  # a write that was killed leaves this, and it is no finished run
    runs, problems = ledger.scan()
    assert runs == [RESULT]
    assert {Path(problem.path).name: problem.why.split()[0] for problem in problems} == {
        "1122.json": "is",
        "notes.txt": "is",
        "3344.json": "holds",
        "4455.json": "has",
    }
    with pytest.raises(MetaDatasetError, match=r"1122\.json is torn .*submit the sweep again"):
        list(ledger.results())
    with pytest.raises(MetaDatasetError, match="is not in the ledger"):
        ledger.get("abcd")
    with pytest.raises(MetaDatasetError, match="is no run id"):
        ledger.has("../../etc/passwd")


def test_runs_in_brief(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert list(ledger.briefs()) == []
    ledger.put(RESULT)
    for name, content in (("1122", '{"format": 1, "run": {'), ("1133", "[]"), ("1144", '{"format": 99}')):
        path = tmp_path / "11" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (tmp_path / "11" / ".1155.json.abc").mkdir()
    (tmp_path / "11" / "3344.json").write_text("in the wrong folder")
    briefs = list(ledger.briefs())
    assert [one for one in briefs if isinstance(one, Brief)] == [
        Brief(RUN.run_id, RUN.task, RUN.status, RUN.cost_s, RUN.device)
    ]
    assert sorted(Path(one.path).stem for one in briefs if isinstance(one, Problem)) == ["1122", "1133", "1144"]
    assert ledger.run_ids() == {RUN.run_id, "1122", "1133", "1144"}


def write_many(directory: str) -> None:
    ledger = Ledger(directory)
    for number in range(60):
        ledger.put(result(f"{number:04x}"), replace=number % 2 == 0)


def test_several_processes_write_the_same_runs(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    runs, problems = Ledger(tmp_path).scan()
    assert problems == []
    assert [run.run.run_id for run in runs] == [f"{number:04x}" for number in range(60)]


def test_an_empty_or_absent_folder_is_an_empty_ledger(tmp_path: Path) -> None:
    assert len(Ledger(tmp_path / "none")) == 0
    assert Ledger(tmp_path / "none").scan() == ([], [])
