"""The checkpoints of a run on several workers: the newest whole one counts, and only the last command writes."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, FtmetaError, UserError
from ftmeta.files import write_text
from ftmeta.finetune import Finetuning, finetune
from ftmeta.finetune.engine import Execution
from ftmeta.models import load, resolve
from ftmeta.orchestrate.checkpoints import Checkpoints
from ftmeta.orchestrate.rank import Order
from ftmeta.orchestrate.train import _take_over
from ftmeta.schema import Budget, Pipeline
from ftmeta.tasks import load_task


@pytest.fixture
def run() -> Iterator[Finetuning]:
    """At fidelity 1 of 3."""
    budget = Budget(epochs=1, max_fidelity=3, max_train_examples=24, eval_examples=4)
    pipeline = Pipeline("lora-v1", {"lora_rank": 2, "batch_size": 4})
    with finetune(pipeline, load_task("elements"), load(resolve("phi3-micro")), seed=0, budget=budget) as run:
        next(run)
        next(run)
        yield run


def checkpoints(folder: Path, notes: list[str], owner: str = "me") -> Checkpoints:
    write_text(folder / "owner", "me")
    return Checkpoints(folder, owner, notes.append)


def test_a_torn_one_is_set_aside_for_the_one_before(run: Finetuning, tmp_path: Path) -> None:
    notes: list[str] = []
    store = checkpoints(tmp_path, notes)
    store.claim()
    run_id = run.spec.run_id
    assert store.newest(run_id) is None
    for _ in range(2):
        store.save(run)
        next(run)
    last, older = sorted(tmp_path.glob("step-*"), reverse=True)
    assert store.newest(run_id) == last
    state = last / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    assert store.newest(run_id) == older
    assert len(notes) == 1
    assert "torn" in notes[0]
    assert [path.name for path in tmp_path.glob("step-*")] == [older.name], "it does not count as the newest any more"


def test_the_newest_two_stay(run: Finetuning, tmp_path: Path) -> None:
    store = checkpoints(tmp_path, [])
    store.claim()
    (tmp_path / "step-00000000").mkdir()
    for _ in range(2):
        store.save(run)
        next(run)
    assert len(list(tmp_path.glob("step-*"))) == 2
    assert not (tmp_path / "step-00000000").exists()


def test_one_that_cannot_be_written_is_a_note(run: Finetuning, tmp_path: Path) -> None:
    notes: list[str] = []
    store = checkpoints(tmp_path, notes)
    store.claim()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as on a disk that is full
    try:
        store.save(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(notes) == 1
    assert "could not be written" in notes[0]
    assert not list(tmp_path.glob("*step-*")), "nothing half-written"


def test_only_the_newest_workers_of_the_newest_command_write(run: Finetuning, tmp_path: Path) -> None:
    first, second = checkpoints(tmp_path, []), checkpoints(tmp_path, [])
    first.claim()
    second.claim()
    with pytest.raises(FtmetaError, match="other workers have taken over"):
        first.save(run)
    second.save(run)
    write_text(tmp_path / "owner", "another")
    for act in (lambda: second.save(run), second.claim):
        with pytest.raises(ConfigError, match="another command has taken over"):
            act()


def test_a_folder_of_another_run_is_left_alone(run: Finetuning, tmp_path: Path) -> None:
    def order(seed: int) -> Order:
        spec = run.spec.__class__(**{**vars(run.spec), "seed": seed})
        return Order(spec, load_task("elements"), "phi3-micro", None, tmp_path / "out", 2, Execution(), 1, 300.0, "me")

    _take_over(order(0))
    _take_over(order(0))
    with pytest.raises(UserError, match=r"out\.unfinished holds the checkpoints of another run"):
        _take_over(order(1))
