"""Limits, checkpoints, the journal, the ending and the page, each alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftmeta.benchmark.table import Table
from ftmeta.errors import FtmetaError, UserError
from ftmeta.optimizers import Problem
from ftmeta.schema import CurvePoint, Example, Message, Task
from ftmeta.tuning import checkpoints
from ftmeta.tuning.ending import concluded, finalists, is_worth_validating, validated
from ftmeta.tuning.journal import Journal
from ftmeta.tuning.limit import Limit, Spent
from ftmeta.tuning.work import Advance, Advanced, Lost, Validate, Work
from tests.tuning.simulated import Clock, TableSlots, specs_of


def test_what_a_budget_is_in_seconds_of_work() -> None:
    assert Limit("wall", 60.0).work_s(slots=4) == 240.0
    assert Limit("device", 60.0).work_s(slots=4) == 60.0
    assert Limit("usd", 3.0, usd_per_device_s=0.5).work_s(slots=4) == 6.0
    spent = Spent(wall_s=10.0, device_s=4.0)
    assert Limit("wall", 60.0).left(spent) == 50.0
    assert Limit("usd", 3.0, usd_per_device_s=0.5).left(spent) == 2.0
    assert Limit("usd", 3.0, usd_per_device_s=0.5).usd(spent) == 2.0
    assert Limit("wall", 60.0).usd(spent) is None


@pytest.mark.parametrize(
    ("limit", "message"),
    [(("wall", 0.0, None), "give more than 0"), (("usd", 1.0, None), "price of this hardware is unknown")],
)
def test_a_budget_that_cannot_be_kept_is_refused(limit: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Limit(*limit)


def test_the_last_and_the_best_checkpoint_of_a_run_stay() -> None:
    curve = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.45}
    assert checkpoints.superfluous(curve, {1, 2, 3, 4}) == {1, 3}
    assert checkpoints.superfluous(curve, {4}) == set()
    assert checkpoints.superfluous({}, {1, 2}) == {1}
    assert checkpoints.best_of(curve, {3, 4}) == 4
    assert checkpoints.best_of(curve, set()) is None


def test_the_best_paused_runs_keep_theirs() -> None:
    curves = {"a": {1: 0.1}, "b": {1: 0.3}, "c": {1: 0.2, 2: 0.9}, "d": {}}
    saved = {"a": {1}, "b": {1}, "c": {1}, "d": set()}
    assert checkpoints.dispensable(curves, saved, 2) == ["a"]  # of c, the checkpoint of 0.9 is not there
    assert checkpoints.dispensable(curves, saved, 5) == []


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(UserError, match="is no journal of this version"):
        Journal(tmp_path / "journal.jsonl")


# --- the ending -------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, table: Table, problem: Problem) -> Iterator[Journal]:
    """Four runs that were advanced to fidelity 3, 2, 1 and 3."""
    with Journal(tmp_path / "journal.jsonl") as made:
        fill(made, tmp_path, table, problem)
        yield made


def fill(made: Journal, tmp_path: Path, table: Table, problem: Problem) -> None:
    specs, clock = specs_of(problem), Clock()
    slots = TableSlots(table, specs, 1, clock)
    good = [int(n) for n in np.argsort(-np.nan_to_num(table.validation_NT[:, 0]))[:4]]
    for candidate, fidelity in zip(good, (3, 2, 1, 3), strict=True):
        made.begun(specs[candidate].run_id, candidate, None)
        for start in range(fidelity):
            slots.start(0, Advance(specs[candidate], start, tmp_path / "runs" / specs[candidate].run_id))
            ((_, answer),) = slots.wait(1e9)
            assert isinstance(answer, Advanced)
            made.advanced(specs[candidate].run_id, answer)


def ending_slots(table: Table, problem: Problem, **options: object) -> TableSlots:
    return TableSlots(table, specs_of(problem), 2, Clock(), **options)  # type: ignore[arg-type]


def test_finalists_are_the_best_runs_at_their_best_checkpoint(tmp_path: Path, journal: Journal) -> None:
    found = finalists(journal, tmp_path / "runs", 3)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert len({one.run_id for one in found}) == 3
    assert all(one.score == max(journal.trials[one.run_id].curve.values()) for one in found)


def test_the_whole_validation_split_decides(tmp_path: Path, table: Table, problem: Problem, journal: Journal) -> None:
    """The second of the finalists is the better one there; the third cannot be scored and comes last."""
    specs = {spec.run_id: spec for spec in specs_of(problem)}
    first, second, third = finalists(journal, tmp_path / "runs", 3)
    nll = {first.run_id: 1.5, second.run_id: 1.2, third.run_id: 0.1}

    def lose(work: Work) -> Lost | None:
        return Lost("gone") if isinstance(work, Validate) and work.spec.run_id == third.run_id else None

    slots = ending_slots(table, problem, whole_nll=nll.__getitem__, lose=lose)
    before_s = journal.spent.device_s
    ranked = validated(slots, journal, [first, second, third], specs, tmp_path / "runs")
    assert [one.run_id for one in ranked] == [second.run_id, first.run_id, third.run_id]
    assert [one.whole_nll for one in ranked] == [1.2, 1.5, None]
    assert journal.spent.device_s == before_s + 2.0


def test_an_incumbent_that_cannot_be_scored_says_what_to_do(
    tmp_path: Path, table: Table, problem: Problem, journal: Journal
) -> None:
    specs = {spec.run_id: spec for spec in specs_of(problem)}
    best = finalists(journal, tmp_path / "runs", 1)[0]
    slots = ending_slots(table, problem, lose=lambda work: Lost("the disk is full"))
    with pytest.raises(FtmetaError, match=r"incumbent could not be scored .*disk is full.*--resume"):
        concluded(slots, {"incumbent": best}, specs, tmp_path / "runs", tmp_path)


def test_where_runs_are_watched_by_the_whole_split_it_is_not_scored_again() -> None:
    example = Example((Message("user", "q"),), "a")
    task = Task("t", (example,), (example,) * 200, (example,), fingerprint="f")
    assert not is_worth_validating(task, 200)
    assert is_worth_validating(replace(task, validation=(example,) * 201), 200)


def test_nothing_better_than_the_base_model_leaves_no_finalist(tmp_path: Path) -> None:
    point = CurvePoint(1, 1, 1, 1, 0.0, 3.0, 0.1, None, None, 2.0, 1.0, 1.0, 2.0, 2.0)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.begun("ab", 0, (0.5, 0.1))
        journal.advanced("ab", Advanced((point,), "stopped", None, 2.0, "cpu", 0.5, 2.0, 1.5))
        assert finalists(journal, tmp_path, 3) == []
    with Journal(tmp_path / "journal.jsonl") as again:
        assert (again.trials, again.spent) == (journal.trials, journal.spent)
        assert again.trials["ab"].expected == (0.5, 0.1)
