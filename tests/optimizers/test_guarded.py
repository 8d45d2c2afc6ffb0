"""The guard against negative transfer: it holds its peace where experience fits, and speaks up where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ftmeta.benchmark.replay import look_up
from ftmeta.benchmark.table import Table
from ftmeta.optimizers import Experience, Outcome, Problem, Step
from ftmeta.optimizers.guarded import Guarded


@pytest.fixture(scope="module")
def turned(table: Table) -> Table:
    """A task that experience misleads on: what is good elsewhere is bad here, by much."""
    score_NT = table.validation_NT
    return replace(table, validation_NT=np.nanmax(score_NT) + 0.25 - score_NT)


def run(optimizer: Guarded, table: Table, asks: int) -> list[Step]:
    steps = []
    for _ in range(asks):
        step = optimizer.ask()
        assert step is not None
        steps.append(step)
        optimizer.tell(look_up(table, step))
    return steps


def test_where_experience_holds_it_is_ours(table: Table, problem: Problem, experience: Experience) -> None:
    optimizer = Guarded(problem, experience, 0)
    run(optimizer, table, 150)
    assert len(optimizer.errors) >= 5
    assert not optimizer.has_fallen_back
    assert optimizer.expected_gain is not None


def test_where_it_misleads_a_task_only_optimizer_takes_over(
    turned: Table, problem: Problem, experience: Experience
) -> None:
    optimizer = Guarded(problem, experience, 0)
    run(optimizer, turned, 60)
    assert optimizer.has_fallen_back
    assert optimizer.doubt < 1e-3
    assert optimizer.expected_gain is None


def test_what_was_run_before_the_fall_is_not_run_again(turned: Table, problem: Problem, experience: Experience) -> None:
    """All steps together run each fidelity of each candidate once, with two slots, and all of them in the end."""
    small = replace(problem, candidates=problem.candidates[:20], named={})
    optimizer = Guarded(small, experience, 0, first=(3,))
    done: set[tuple[int, int]] = set()
    under_way: list[Step] = []
    while True:
        while len(under_way) < 2 and (step := optimizer.ask()) is not None:
            under_way.append(step)
        if not under_way:
            break
        step = under_way.pop(0)
        points = {(step.candidate, fidelity) for fidelity in range(step.start + 1, step.fidelity + 1)}
        assert not points & done
        done |= points
        optimizer.tell(look_up(turned, step))
    assert optimizer.has_fallen_back
    assert {candidate for candidate, fidelity in done} == set(range(20))
    assert (3, problem.max_fidelity) in done


def test_runs_that_break_off_say_little(problem: Problem, experience: Experience) -> None:
    """Two of five that diverge are no proof against what was learned."""
    optimizer = Guarded(problem, experience, 0)
    while len(optimizer.errors) < 5:
        step = optimizer.ask()
        assert step is not None
        diverges = step.start == 0 and len(optimizer.errors) in (1, 3)
        mean, _ = optimizer.expects(step.candidate, step.fidelity)
        optimizer.tell(Outcome(step, () if diverges else (mean,), 1.0))
    assert not optimizer.has_fallen_back
