"""Slots without processes: what runs score and cost is looked up in a table, and the clock is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ftmeta.benchmark.table import Table
from ftmeta.optimizers import Problem
from ftmeta.schema import Budget, CurvePoint, RunSpec
from ftmeta.tuning.checkpoints import folder_of
from ftmeta.tuning.work import Advance, Advanced, Answer, Lost, Validate, Validated, Work


def specs_of(problem: Problem, seed: int = 0) -> tuple[RunSpec, ...]:
    budget = Budget(max_fidelity=problem.max_fidelity)
    return tuple(RunSpec("task", "f", "base", "g", one, seed, budget) for one in problem.candidates)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class TableSlots:
    """`lose`: what is asked before each answer; a Lost is given in its place. Checkpoints are
    empty folders."""

    table: Table
    specs: tuple[RunSpec, ...]
    size: int
    clock: Clock
    lose: Callable[[Work], Lost | None] = lambda work: None
    slower: float = 1.0
    diverge_at: int | None = None  # the fidelity at which every run does, with a point of score 0
    whole_nll: Callable[[str], float] = lambda run_id: 1.0
    done: list[tuple[str, int]] = field(default_factory=list)  # run id and fidelity of each Advance answered
    taken_up: list[tuple[str, int]] = field(default_factory=list)  # run id and fidelity it was begun from
    _busy: dict[int, tuple[float, Work]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._row = {spec.run_id: n for n, spec in enumerate(self.specs)}

    def start(self, slot: int, work: Work) -> None:
        assert slot not in self._busy
        assert work.spec.run_id not in {other.spec.run_id for _, other in self._busy.values()}
        self._busy[slot] = (self.clock() + self._takes_s(work), work)

    def wait(self, timeout_s: float) -> list[tuple[int, Answer]]:
        if not self._busy:
            return []
        slot = min(self._busy, key=lambda one: self._busy[one][0])
        at_s, work = self._busy[slot]
        if at_s > self.clock.now + timeout_s:
            self.clock.now += timeout_s
            return []
        del self._busy[slot]
        self.clock.now = max(self.clock.now, at_s)
        return [(slot, self.lose(work) or self._answer(work))]

    def _takes_s(self, work: Work) -> float:
        if not isinstance(work, Advance):
            return 1.0
        cost_T = self.table.cost_NT[self._row[work.spec.run_id]]
        before_s = float(cost_T[work.start]) if self._begins_at(work) else 0.0
        return self.slower * (float(cost_T[work.fidelity]) - before_s)

    def _begins_at(self, work: Advance) -> int:
        return work.start if work.start and folder_of(work.folder, work.start).is_dir() else 0

    def _answer(self, work: Work) -> Answer:
        if isinstance(work, Validate):
            return Validated(self.whole_nll(work.spec.run_id), 400, 1.0)
        assert isinstance(work, Advance)
        row = self._row[work.spec.run_id]
        start = self._begins_at(work)
        self.taken_up.append((work.spec.run_id, start))
        scores = self.table.validation_NT[row]
        points = [] if start else [self._point(row, 0, 0.0)]
        points += [self._point(row, t, float(scores[t - 1])) for t in range(start + 1, work.fidelity + 1)]
        if work.fidelity == self.diverge_at:
            points[-1] = replace(points[-1], score=0.0)
        diverged = work.fidelity == self.diverge_at or any(point.score is None for point in points)
        if not diverged:
            folder_of(work.folder, work.fidelity).mkdir(parents=True, exist_ok=True)
        self.done.append((work.spec.run_id, work.fidelity))
        status = "diverged" if diverged else "ok" if work.fidelity == len(scores) else "stopped"
        took_s = self._takes_s(work)
        return Advanced(tuple(points), status, None, took_s, "cpu", 0.5, took_s, took_s)

    def _point(self, row: int, t: int, score: float) -> CurvePoint:
        cost_s = self.slower * float(self.table.cost_NT[row, t])
        known = score if np.isfinite(score) else None
        return CurvePoint(t, t, t, t, known, 1.0, 0.5, None, None, None, cost_s, 0.1 * (t + 1), cost_s, cost_s)


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
