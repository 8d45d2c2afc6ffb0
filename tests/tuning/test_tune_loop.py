"""The loop on simulated slots: budgets, several slots, resumption, deaths, and when it stops."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftmeta.benchmark.table import Table
from ftmeta.errors import FtmetaError, UserError
from ftmeta.optimizers import METHODS, Experience, Optimizer, Problem
from ftmeta.optimizers.guarded import Guarded
from ftmeta.optimizers.state import Recorded
from ftmeta.tuning.checkpoints import folder_of, there
from ftmeta.tuning.journal import Journal
from ftmeta.tuning.limit import Kind, Limit
from ftmeta.tuning.loop import Loop, Settings, Why
from ftmeta.tuning.work import Advance, Lost, Work
from tests.tuning.simulated import Clock, TableSlots, specs_of


@dataclass
class Tuned:
    """A tuning that has come to its end, with what can be asked of it."""

    why: Why
    journal: Journal
    slots: TableSlots
    loop: Loop

    @property
    def best(self) -> float:
        return next(self.loop.best())[2]


@dataclass
class Place:
    """Where a tuning is, so that it can be taken up again."""

    folder: Path
    table: Table
    problem: Problem
    experience: Experience
    options: dict[str, Any] = field(default_factory=dict)

    def tune(
        self,
        amount: float,
        kind: Kind = "wall",
        *,
        slots: int = 2,
        method: str = "ftmeta",
        make: Callable[[], Optimizer] | None = None,
        settings: Settings = Settings(least_gain=0.0),  # noqa: B008  # frozen
        show: Callable[[Loop], None] = lambda loop: None,
        **of_slots: Any,
    ) -> Tuned:
        limit = Limit(kind, amount, 0.01)
        problem = replace(self.problem, budget_s=limit.work_s(slots))
        specs, clock = specs_of(problem), Clock(1000.0)
        made = TableSlots(self.table, specs, slots, clock, **of_slots)
        make = make or functools.partial(METHODS[method].make, problem, self.experience, 0)
        with (
            Journal(self.folder / "journal.jsonl") as journal,
            Recorded(make, self.folder / "optimizer.jsonl") as optimizer,
        ):
            loop = Loop(
                problem, specs, optimizer, limit, made, journal, self.folder / "runs", settings, show, clock=clock
            )
            return Tuned(loop.run(), journal, made, loop)


@pytest.fixture
def place(tmp_path: Path, table: Table, problem: Problem, experience: Experience) -> Place:
    return Place(tmp_path, table, problem, experience)


def a_run_s(table: Table) -> float:
    return float(np.median(table.cost_NT[:, -1]))


@pytest.mark.parametrize("method", ["ftmeta", "random", "asha", "hyperband", "quicktune-transfer"])
@pytest.mark.parametrize("slots", [1, 3])
def test_any_method_finds_something_within_the_budget(place: Place, method: str, slots: int) -> None:
    budget_s = 8 * a_run_s(place.table)
    tuned = place.tune(budget_s / slots, slots=slots, method=method)
    assert tuned.why == "budget"
    longest_s = float(np.diff(place.table.cost_NT, axis=1).max())
    assert tuned.journal.spent.wall_s <= budget_s / slots + longest_s
    assert tuned.journal.spent.wall_s > 0.5 * budget_s / slots
    assert tuned.best > 0.3
    assert max(Counter(tuned.slots.done).values()) == 1  # nothing was trained twice


@pytest.mark.parametrize("kind", ["wall", "device", "usd"])
def test_budgets_of_each_kind_are_kept(place: Place, kind: Kind) -> None:
    """The device costs a cent a second; three slots."""
    device_s = 6 * a_run_s(place.table)
    amount = {"wall": device_s / 3, "device": device_s, "usd": 0.01 * device_s}[kind]
    spent = place.tune(amount, kind, slots=3).journal.spent
    longest_s = float(np.diff(place.table.cost_NT, axis=1).max())
    assert 0.6 * device_s < spent.device_s < device_s + 3 * longest_s


def test_a_machine_that_is_slower_than_predicted_overruns_by_one_fidelity_at_most(place: Place) -> None:
    budget_s = 20 * a_run_s(place.table)
    tuned = place.tune(budget_s, slots=1, slower=4.0)
    longest_s = 4 * float(np.diff(place.table.cost_NT, axis=1).max())
    assert tuned.journal.spent.wall_s <= budget_s + longest_s


def test_what_comes_after_the_search_is_kept_in_reserve(place: Place) -> None:
    budget_s = 6 * a_run_s(place.table)
    tuned = place.tune(budget_s, slots=1, settings=Settings(0.0, reserve_s=lambda journal: budget_s / 2))
    assert tuned.journal.spent.wall_s < 0.6 * budget_s


def test_a_budget_that_is_too_small_for_one_fidelity_says_what_the_least_is(place: Place) -> None:
    with pytest.raises(UserError, match=r"the budget is too small: .* give at least \d"):
        place.tune(0.01)


def test_it_stops_where_no_gain_is_expected(place: Place) -> None:
    tuned = place.tune(1e9, settings=Settings(least_gain=0.02))
    assert tuned.why == "no gain expected"
    everything = len(place.problem.candidates) * place.problem.max_fidelity
    assert len(tuned.slots.done) < 0.5 * everything


def test_it_stops_where_everything_was_run(place: Place) -> None:
    small = replace(place.problem, candidates=place.problem.candidates[:4], named={})
    tuned = replace(place, problem=small).tune(1e9, method="random")
    assert tuned.why == "nothing left to run"
    assert {run_id for run_id, _ in tuned.slots.done} == {spec.run_id for spec in specs_of(small)}
    assert {trial.status for trial in tuned.journal.trials.values()} <= {"ok", "diverged"}


def test_the_first_candidates_are_run_to_their_end_at_once(place: Place) -> None:
    make = lambda: Guarded(place.problem, place.experience, 0, first=(7,))  # noqa: E731
    tuned = place.tune(5 * a_run_s(place.table), make=make)
    seven = specs_of(place.problem)[7].run_id
    assert tuned.slots.done[0][0] == seven or tuned.slots.done[1][0] == seven
    assert tuned.journal.trials[seven].reached == place.problem.max_fidelity


# --- interruptions and deaths -----------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["ftmeta", "asha"])
@pytest.mark.parametrize("after", [1, 7, 20])
def test_killed_and_taken_up_it_trains_nothing_twice(place: Place, method: str, after: int) -> None:
    """Whatever was answered before the kill counts; what was under way is run again, from its last checkpoint."""
    budget_s = 8 * a_run_s(place.table)
    before: list[tuple[str, int]] = []

    def kill(loop: Loop) -> None:
        before[:] = loop.slots.done  # type: ignore[attr-defined]
        if len(before) >= after:
            raise KilledError

    with pytest.raises(KilledError):
        place.tune(budget_s, show=kill, method=method)
    with (place.folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"event": "advan')  # torn
    tuned = place.tune(budget_s, method=method)
    assert tuned.why == "budget"
    assert not set(before) & set(tuned.slots.done)
    whole = place.folder.parent / "whole"
    assert tuned.journal.spent.wall_s <= budget_s + float(np.diff(place.table.cost_NT, axis=1).max())
    assert not whole.exists()
    trials = tuned.journal.trials.values()
    assert all(set(trial.points) == set(range(trial.reached + 1)) for trial in trials if trial.points)


def test_killed_between_journal_and_optimizer_the_optimizer_is_told(place: Place) -> None:
    budget_s = 4 * a_run_s(place.table)

    def kill(loop: Loop) -> None:
        if len(loop.journal.trials) >= 3:
            raise KilledError

    with pytest.raises(KilledError):
        place.tune(budget_s, show=kill)
    lines = (place.folder / "optimizer.jsonl").read_bytes().splitlines(keepends=True)
    last_tell = max(n for n, line in enumerate(lines) if b'"tell"' in line)
    (place.folder / "optimizer.jsonl").write_bytes(b"".join(lines[:last_tell]))
    before = place.tune(budget_s)
    assert max(Counter(before.slots.done).values()) == 1


def test_two_at_once_on_one_folder_are_refused(place: Place) -> None:
    with Journal(place.folder / "journal.jsonl"), pytest.raises(UserError, match="another process works on"):
        Journal(place.folder / "journal.jsonl")


def test_an_interrupt_ends_it_after_what_is_under_way(place: Place) -> None:
    def interrupt(loop: Loop) -> None:
        if len(loop.journal.trials) >= 3:
            loop.interrupt()

    budget_s = 8 * a_run_s(place.table)
    tuned = place.tune(budget_s, show=interrupt)
    assert tuned.why == "interrupted"
    assert not tuned.loop.at_work
    again = place.tune(budget_s)
    assert again.why == "budget"
    assert again.best >= tuned.best


def test_a_worker_that_dies_costs_the_fidelity_it_was_at(place: Place) -> None:
    deaths = iter([False, False, True, False, True])

    def lose(work: Work) -> Lost | None:
        return Lost("it was killed") if next(deaths, False) else None

    tuned = place.tune(8 * a_run_s(place.table), lose=lose)
    assert tuned.why == "budget"
    assert sum(trial.losses for trial in tuned.journal.trials.values()) == 2
    assert max(Counter(tuned.slots.done).values()) == 1


def test_a_run_that_ends_its_workers_is_given_up(place: Place) -> None:
    victims: set[str] = set()

    def lose(work: Work) -> Lost | None:
        victims.add(work.spec.run_id) if not victims else None
        return Lost("out of memory") if work.spec.run_id in victims else None

    tuned = place.tune(8 * a_run_s(place.table), lose=lose, slots=2)
    (victim,) = (tuned.journal.trials[one] for one in victims)
    assert (victim.status, victim.losses, victim.reached) == ("error", 2, 0)
    assert "out of memory" in str(victim.error)
    assert tuned.best > 0.3


def test_where_all_workers_die_it_ends_with_what_to_do(place: Place) -> None:
    with pytest.raises(FtmetaError, match=r"workers end one after the other .*--resume"):
        place.tune(1e6, lose=lambda work: Lost("the node is gone"))


def test_what_can_never_work_is_not_tried_again(place: Place) -> None:
    with pytest.raises(FtmetaError, match="no such model"):
        place.tune(1e6, lose=lambda work: Lost("no such model", fatal=True))


def test_a_slot_without_room_is_no_fault_of_its_run(place: Place) -> None:
    tuned = place.tune(
        8 * a_run_s(place.table),
        lose=_on_slot_without_room(),
    )
    assert tuned.why == "budget"
    assert all(trial.losses == 0 for trial in tuned.journal.trials.values())


def _on_slot_without_room() -> Callable[[Work], Lost | None]:
    refusals = iter([True, True, True])
    return lambda work: Lost("no room", never_began=True) if next(refusals, False) else None


def test_a_checkpoint_that_is_gone_is_made_again(place: Place) -> None:
    """All checkpoints are removed once: what goes on begins anew, with the same scores."""
    removed: list[str] = []

    def remove(loop: Loop) -> None:
        if len(loop.journal.trials) == 5 and not removed:
            for run_id in loop.journal.trials:
                for fidelity in there(loop.folder / run_id):
                    folder_of(loop.folder / run_id, fidelity).rmdir()
                    removed.append(run_id)

    tuned = place.tune(10 * a_run_s(place.table), show=remove)
    assert removed
    anew = [run_id for run_id, start in tuned.slots.taken_up if start == 0]
    assert len(anew) > len(set(anew))
    for run_id, trial in tuned.journal.trials.items():
        row = next(n for n, spec in enumerate(specs_of(place.problem)) if spec.run_id == run_id)
        scores = place.table.validation_NT[row]
        assert all(score == scores[t - 1] for t, score in trial.curve.items())


def test_paused_runs_beyond_the_best_lose_their_checkpoints(place: Place) -> None:
    tuned = place.tune(12 * a_run_s(place.table), settings=Settings(0.0, keep_paused=3), slots=1)
    assert len(tuned.journal.trials) > 4
    saved = [run_id for run_id in tuned.journal.trials if there(place.folder / "runs" / run_id)]
    assert len(saved) <= 4
    best_run, fidelity, _ = next(tuned.loop.best())
    assert fidelity in there(place.folder / "runs" / best_run)
    assert all(len(there(place.folder / "runs" / run_id)) <= 2 for run_id in saved)


def test_runs_that_diverge_are_kept_and_not_asked_for_again(place: Place) -> None:
    table = replace(place.table, validation_NT=place.table.validation_NT.copy())
    table.validation_NT[:, 1:][::2] = np.nan
    tuned = replace(place, table=table).tune(8 * a_run_s(table))
    trials = [trial for trial in tuned.journal.trials.values() if trial.candidate % 2 == 0 and trial.reached > 1]
    assert trials
    assert all((trial.status, trial.reached, len(trial.curve)) == ("diverged", 2, 1) for trial in trials)


def test_the_point_that_shows_a_divergence_is_none_to_go_on_from(place: Place) -> None:
    """The worker reports it with a score of 0, at the very fidelity that was asked for."""
    tuned = place.tune(8 * a_run_s(place.table), diverge_at=2)
    diverged = [trial for trial in tuned.journal.trials.values() if trial.status == "diverged"]
    assert diverged
    assert max(Counter(tuned.slots.done).values()) == 1
    assert all(fidelity <= 2 for _, fidelity in tuned.slots.done)


def test_an_advance_never_asks_for_what_is_there(place: Place) -> None:
    asked: list[tuple[str, int]] = []

    def note(work: Work) -> None:
        assert isinstance(work, Advance)
        asked.append((work.spec.run_id, work.fidelity))

    place.tune(8 * a_run_s(place.table), lose=note, method="hyperband")
    assert len(asked) == len(set(asked))
