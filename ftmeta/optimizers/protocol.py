"""Ask and tell: what an optimizer is asked, what it is told, and the book it keeps of both.

An optimizer works on one new task, of which it is given a `Problem`: a pool of candidate pipelines, how many fidelities
a run has, and the budget. `ask` names the next `Step`: one candidate, trained further by one or more fidelities; `tell`
says what came of a step. Several steps may be under way at once. `incumbent` is what would be handed over now.

The same problem, seed and outcomes give the same steps, so an optimizer's state is what it was asked and told:
`state.py` keeps that as JSON and makes it again by asking and telling the same once more.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ftmeta.schema import Pipeline
from ftmeta.space import Space
from ftmeta.surrogates.features import Context


@dataclass(frozen=True)
class Step:
    """Train `candidate` until `fidelity`, going on from its checkpoint at fidelity `start` (0: from the base model)."""

    candidate: int  # index into the problem's candidates
    start: int
    fidelity: int


@dataclass(frozen=True)
class Outcome:
    """What came of a step. Validation scores at the fidelities start + 1, ... in [0, 1], NaN where one was not taken;
    fewer than the step asked for where the run broke off, by itself (diverged, out of memory) or because its curve has
    no more points."""

    step: Step
    scores: tuple[float, ...]
    cost_s: float  # device-seconds of this step alone

    @property
    def broke_off(self) -> bool:
        return len(self.scores) < self.step.fidelity - self.step.start


@dataclass(frozen=True)
class Problem:
    """A new task, as an optimizer sees it before anything ran on it."""

    space: Space
    candidates: tuple[Pipeline, ...]
    max_fidelity: int
    budget_s: float  # device-seconds for everything that is asked
    context: Context = field(default_factory=Context)
    named: Mapping[str, int] = field(default_factory=dict)  # `default`, `strong-default` -> the candidate


class Optimizer(Protocol):
    def ask(self) -> Step | None:
        """The next step, which is then under way; None where there is nothing to run (before some step under way is
        told, or for good if none is)."""

    def tell(self, outcome: Outcome) -> None:
        """Each step that was asked for is told once. Raises ValueError for a step that is not under way."""

    @property
    def incumbent(self) -> tuple[int, int] | None:
        """(candidate, fidelity): the checkpoint that would be handed over now; None: the base model as it is."""


class Book:
    """What was asked and told. Optimizers keep one each."""

    def __init__(self, problem: Problem) -> None:
        N, T = len(problem.candidates), problem.max_fidelity
        self.score_NT = np.full((N, T), np.nan)
        self.reached_N = np.zeros(N, dtype=int)
        self.closed_N = np.zeros(N, dtype=bool)  # broke off: never to be asked for again
        self.spent_s = 0.0
        self.under_way: dict[int, Step] = {}  # by candidate
        self._best: tuple[float, int, int] | None = None
        self._T = T

    def ask(self, candidate: int, fidelity: int) -> Step:
        """Notes that `candidate` is to be trained until `fidelity`."""
        step = Step(candidate, int(self.reached_N[candidate]), fidelity)
        if candidate in self.under_way or self.closed_N[candidate] or not step.start < fidelity <= self._T:
            raise ValueError(f"{step} cannot be asked for")
        self.under_way[candidate] = step
        return step

    def tell(self, outcome: Outcome) -> None:
        step = outcome.step
        if self.under_way.get(step.candidate) != step:
            raise ValueError(f"{step} is not under way, so nothing can have come of it")
        del self.under_way[step.candidate]
        reached = step.start + len(outcome.scores)
        self.score_NT[step.candidate, step.start : reached] = outcome.scores
        self.reached_N[step.candidate] = reached
        self.closed_N[step.candidate] = outcome.broke_off
        self.spent_s += outcome.cost_s
        for fidelity, score in enumerate(outcome.scores, start=step.start + 1):
            if np.isfinite(score) and (self._best is None or score > self._best[0]):
                self._best = (score, step.candidate, fidelity)

    @property
    def best(self) -> tuple[int, int] | None:
        """The checkpoint with the highest score seen; the first of equals."""
        return None if self._best is None else self._best[1:]

    @property
    def best_score(self) -> float | None:
        return None if self._best is None else self._best[0]

    @property
    def open_N(self) -> np.ndarray:
        """Which candidates can be asked for: not broken off, not at the end, not under way."""
        open_N = ~self.closed_N & (self.reached_N < self._T)
        open_N[list(self.under_way)] = False
        return open_N
