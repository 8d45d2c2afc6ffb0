"""Tables and the simulated clock, on runs whose curves and costs are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftmeta.benchmark.replay import look_up, problem_of, replay
from ftmeta.benchmark.table import Table, tables_of
from ftmeta.metadataset import read
from ftmeta.optimizers import Step
from ftmeta.optimizers.in_order import InOrder
from ftmeta.schema import RunResult, Status
from ftmeta.space import load_space
from tests.surrogates.synthetic import sweep, write_sweep

T = 10


@pytest.fixture(scope="module")
def runs() -> list[RunResult]:
    """Two tasks, eight pipelines, all to the end, whatever the synthetic truth says."""
    return [one for one in sweep(2, 40) if one.run.status == "ok"][:]


def table_of(folder: Path, results: list[RunResult]) -> Table:
    write_sweep(folder, 2, 40, results=results)
    tables, left_out = tables_of(read(folder))
    assert not left_out
    return tables[0]


def cut(one: RunResult, last: int, status: Status, cost_s: float) -> RunResult:
    run = replace(one.run, status=status, fidelity=last, cost_s=cost_s, generation=None)
    return RunResult(run, tuple(point for point in one.curve if point.fidelity <= last))


def row_of(table: Table, one: RunResult) -> int:
    return [pipeline.id for pipeline in table.candidates].index(one.run.pipeline.id)


def test_a_table_holds_what_was_measured(tmp_path: Path, runs: list[RunResult]) -> None:
    table = table_of(tmp_path, runs)
    for one in runs:
        if one.run.task == table.task:
            n = row_of(table, one)
            np.testing.assert_allclose(table.validation_NT[n], [point.score for point in one.curve[1:]])
            np.testing.assert_allclose(table.test_NT[n], [point.test_score for point in one.curve[1:]])
            np.testing.assert_allclose(table.cost_NT[n], [point.cost_s for point in one.curve])
    assert table.test_range == (table.test_NT.min(), table.test_NT.max())
    assert table.total_cost_s == pytest.approx(sum(one.run.cost_s for one in runs if one.run.task == table.task))


def test_who_asks_for_more_than_a_run_had_learns_that_and_pays(tmp_path: Path, runs: list[RunResult]) -> None:
    first = runs[0]
    last_s = first.curve[3].cost_s
    table = table_of(tmp_path, [cut(first, 3, "diverged", last_s + 0.5), *runs[1:]])
    n = row_of(table, first)
    within, beyond = look_up(table, Step(n, 1, 3)), look_up(table, Step(n, 1, 8))
    assert not within.broke_off
    assert within.cost_s == pytest.approx(last_s - first.curve[1].cost_s)
    assert beyond.broke_off
    assert beyond.scores == within.scores
    assert beyond.cost_s == pytest.approx(last_s + 0.5 - first.curve[1].cost_s)
    assert table.test_range[0] == 0  # some run diverged: the base model is the worst


def test_gaps_seeds_and_unknown_costs(tmp_path: Path, runs: list[RunResult]) -> None:
    """A score that is missing on the way was not finite; of two seeds the smaller counts; unknown costs are shares of
    the mean full run."""
    first, second, third = runs[:3]
    gap = replace(first, curve=tuple(replace(p, score=None) if p.fidelity == 4 else p for p in first.curve))
    other_seed = replace(
        second, run=replace(second.run, seed=7, run_id="ffff"), curve=tuple(replace(p, score=0.5) for p in second.curve)
    )
    write_sweep(tmp_path, 2, 40, results=[gap, other_seed, second, third, *runs[3:]])
    meta = read(tmp_path)
    unpriced = meta.curves["run_id"] == third.run.run_id
    meta.curves.loc[unpriced, "cost_s"] = math.nan  # as in tables of others
    table = tables_of(meta)[0][0]
    assert table.validation_NT[row_of(table, first), 3] == 0
    np.testing.assert_allclose(table.validation_NT[row_of(table, second)], [p.score for p in second.curve[1:]])
    others = [n for n in range(len(table.candidates)) if n != row_of(table, third)]
    shares = np.arange(T + 1) / T * table.cost_NT[others, -1].mean()
    np.testing.assert_allclose(table.cost_NT[row_of(table, third)], shares)


def test_tasks_that_tell_nothing_are_left_out(tmp_path: Path, runs: list[RunResult]) -> None:
    flat = [
        replace(one, curve=tuple(replace(p, score=0.25) for p in one.curve)) if one.run.task == "task1" else one
        for one in runs
    ]
    write_sweep(tmp_path, 2, 40, results=flat)
    tables, left_out = tables_of(read(tmp_path))
    assert [table.task for table in tables] == ["task0"]
    assert left_out == ["task1 with micro: all scores are the same"]


def test_the_clock_charges_what_runs_cost(tmp_path: Path, runs: list[RunResult]) -> None:
    """Three runs; the budget ends in the third. While a run is under way its best checkpoint so far counts."""
    table = table_of(tmp_path, runs)
    order = np.argsort(table.validation_NT[:, -1])[:3]  # ascending: each run ends better than the one before
    cost_s = table.cost_NT[order, -1].sum() - 0.5 * np.diff(table.cost_NT[order[2]])[-1]
    problem = problem_of(table, load_space(), cost_s)
    trace = replay(lambda: InOrder(problem, order), table, cost_s, charge_overhead=False)
    before, score = 0.0, -1.0
    wanted_s, wanted = [], []
    for n in order:
        for t in range(1, T + 1):
            at_s = before + table.cost_NT[n, t]
            if table.validation_NT[n, t - 1] > score and at_s <= cost_s:
                score = table.validation_NT[n, t - 1]
                wanted_s.append(at_s)
                wanted.append((n, t))
        before += table.cost_NT[n, T]
    assert trace.incumbent == wanted
    np.testing.assert_allclose(trace.at_s, wanted_s)
    assert trace.asks == 3


def test_an_optimizers_own_time_is_charged(tmp_path: Path, runs: list[RunResult]) -> None:
    table = table_of(tmp_path, runs)
    problem = problem_of(table, load_space(), 1e9)

    def slow() -> InOrder:
        sum(range(2_000_000))
        return InOrder(problem, [0])

    charged, free = (replay(slow, table, 1e9, charge_overhead=charge) for charge in (True, False))
    assert charged.overhead_s > 0.005
    assert charged.at_s[-1] > free.at_s[-1] + 0.005 or charged.incumbent != free.incumbent
