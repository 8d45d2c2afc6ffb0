"""One optimizer on one table, with a simulated clock in device-seconds.

A step costs what it cost when it was measured: from the fidelity that the candidate has reached to the one asked for,
and a candidate that starts anew pays for everything up to there, the first evaluation included. The time that the
optimizer itself takes (CPU seconds of this process, on this machine) is added. What ends after the budget did not
happen. While a step of several fidelities runs, its best checkpoint so far counts, for every optimizer alike.

Out: a `Trace`, the incumbent after each step that changed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ftmeta.benchmark.table import Table
from ftmeta.optimizers.protocol import Optimizer, Outcome, Problem, Step
from ftmeta.space import Space, named_pipelines


@dataclass
class Trace:
    """Times in device-seconds since the start; candidate and fidelity of the incumbent from then on."""

    at_s: list[float] = field(default_factory=list)
    incumbent: list[tuple[int, int]] = field(default_factory=list)
    asks: int = 0
    overhead_s: float = 0.0  # of all asks and tells, and of making the optimizer

    def note(self, at_s: float, incumbent: tuple[int, int] | None) -> None:
        if incumbent is not None and (not self.incumbent or self.incumbent[-1] != incumbent):
            self.at_s.append(at_s)
            self.incumbent.append(incumbent)


def problem_of(table: Table, space: Space, budget_s: float) -> Problem:
    index = {pipeline.id: n for n, pipeline in enumerate(table.candidates)}
    named = {name: index[one.id] for name, one in named_pipelines(space).items() if one.id in index}
    return Problem(space, table.candidates, table.validation_NT.shape[1], budget_s, table.context, named)


def replay(make: Callable[[], Optimizer], table: Table, budget_s: float, *, charge_overhead: bool = True) -> Trace:
    trace, clock_s = Trace(), 0.0

    def charge(started: float) -> float:
        taken = time.process_time() - started
        trace.overhead_s += taken
        return taken if charge_overhead else 0.0

    started = time.process_time()
    optimizer = make()
    clock_s += charge(started)
    while clock_s < budget_s:
        started = time.process_time()
        step = optimizer.ask()
        trace.asks += 1
        clock_s += charge(started)
        if step is None:
            break
        outcome = look_up(table, step)
        _note_on_the_way(trace, table, outcome, clock_s, budget_s)
        clock_s += outcome.cost_s
        if clock_s > budget_s:
            break
        started = time.process_time()
        optimizer.tell(outcome)
        found = optimizer.incumbent
        clock_s += charge(started)
        trace.note(clock_s, found)
    return trace


def _note_on_the_way(trace: Trace, table: Table, outcome: Outcome, clock_s: float, budget_s: float) -> None:
    """A step of several fidelities leaves checkpoints before it ends: the best so far can be handed over at once."""
    step, cost_T = outcome.step, table.cost_NT[outcome.step.candidate]
    paid = float(cost_T[step.start]) if step.start else 0.0
    best = table.validation_NT[trace.incumbent[-1][0], trace.incumbent[-1][1] - 1] if trace.incumbent else -np.inf
    for fidelity, score in enumerate(outcome.scores, start=step.start + 1):
        at_s = clock_s + float(cost_T[fidelity]) - paid
        if at_s <= budget_s and score > best:
            trace.note(at_s, (step.candidate, fidelity))
            best = score


def look_up(table: Table, step: Step) -> Outcome:
    """What came of `step` when it was measured."""
    row, cost_T = table.validation_NT[step.candidate], table.cost_NT[step.candidate]
    scores = row[step.start : step.fidelity]
    scores = scores[np.isfinite(scores)]
    end = min(step.start + len(scores) + 1, step.fidelity)  # one further than its last score, where it broke off
    paid = 0.0 if step.start == 0 else float(cost_T[step.start])
    return Outcome(step, tuple(float(score) for score in scores), float(cost_T[end]) - paid)
