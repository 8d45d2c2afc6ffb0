"""A guard against negative transfer: ours, until what is seen on the task contradicts what was learned on the others.

Before the first score of each candidate is told, ours says what it expects of it, a mean and a deviation, with all that
it has seen of the task taken into account. If the scores were draws of what it expects, the squared standardised errors
of n candidates would sum to a chi-squared variable of n degrees of freedom. Where the sum is larger than all but
`_DOUBT` of those, experience misleads here, and `Asha`, which knows nothing of other tasks, takes over. An error counts
for `_CAP` deviations at most, so that one run that diverges says little, and no verdict is given before
`_LEAST` candidates.

What ours has run, its successor need not run again: a step that it asks for is told to it at once as far as it is
known, and only what is not is run.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.ours import Ours, Transfer
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.optimizers.successive_halving import Asha

_DOUBT = 1e-3
_CAP = 3.0
_LEAST = 5


class Guarded:
    def __init__(
        self, problem: Problem, experience: Experience | Transfer, seed: int, *, first: tuple[int, ...] = ()
    ) -> None:
        self._book = Book(problem)
        self._ours = Ours(problem, experience, seed, first=first)
        self._problem = problem
        self._successor: Asha | None = None
        self._wanted: dict[int, Step] = {}  # by candidate: what the successor asked for and was not told yet
        self._expected: dict[Step, tuple[float, float]] = {}
        self.errors: list[float] = []  # standardised, of each candidate's first score

    @property
    def has_fallen_back(self) -> bool:
        return self._successor is not None

    @property
    def doubt(self) -> float:
        """How likely errors as large as those seen are where experience holds, in [0, 1]."""
        squares = np.minimum(np.square(self.errors), _CAP**2)
        return float(chi2.sf(squares.sum(), max(len(squares), 1))) if len(squares) else 1.0

    @property
    def expected_gain(self) -> float | None:
        """As `Ours.expected_gain`; None once there is nothing that could be expected."""
        return None if self.has_fallen_back else self._ours.expected_gain

    def expects(self, candidate: int, fidelity: int) -> tuple[float, float]:
        return self._ours.expects(candidate, fidelity)

    def cost_s(self, candidate: int, start: int, fidelity: int) -> float:
        return self._ours.cost_s(candidate, start, fidelity)

    def ask(self) -> Step | None:
        if self._successor is not None:
            return self._ask_successor(self._successor)
        step = self._ours.ask()
        if step is not None:
            self._book.ask(step.candidate, step.fidelity)
            if step.start == 0:
                self._expected[step] = self._ours.expects(step.candidate, step.fidelity)
        return step

    def _ask_successor(self, successor: Asha) -> Step | None:
        """Its next step that is not run already. What ours still has under way is waited for."""
        for candidate in list(self._wanted):
            if (step := self._settle(successor, candidate)) is not None:
                return step
        while (wanted := successor.ask()) is not None:
            self._wanted[wanted.candidate] = wanted
            if (step := self._settle(successor, wanted.candidate)) is not None:
                return step
        return None

    def _settle(self, successor: Asha, candidate: int, cost_s: float = 0.0) -> Step | None:
        """Tells the successor what came of its step if that is known; else the part of it that is to be run."""
        book, wanted = self._book, self._wanted[candidate]
        if candidate in book.under_way:
            return None
        if not book.closed_N[candidate] and book.reached_N[candidate] < wanted.fidelity:
            return book.ask(candidate, wanted.fidelity)
        del self._wanted[candidate]
        score_T = book.score_NT[candidate, wanted.start : wanted.fidelity]
        scores = tuple(float(score) for score in score_T[np.isfinite(score_T)])
        successor.tell(Outcome(wanted, scores, cost_s))
        return None

    def tell(self, outcome: Outcome) -> None:
        step = outcome.step
        self._book.tell(outcome)
        if self._successor is None:
            self._judge(step, outcome)
            self._ours.tell(outcome)
            if len(self.errors) >= _LEAST and self.doubt < _DOUBT:
                self._successor = Asha(self._problem, seed=0)  # as ours, the same for every seed
        elif step.candidate in self._wanted and (
            outcome.broke_off or step.fidelity >= self._wanted[step.candidate].fidelity
        ):
            self._settle(self._successor, step.candidate, outcome.cost_s)

    def _judge(self, step: Step, outcome: Outcome) -> None:
        expected = self._expected.pop(step, None)
        if expected is None:
            return
        mean, deviation = expected
        seen = outcome.scores[-1] if not outcome.broke_off else (outcome.scores or (0.0,))[-1]
        self.errors.append((seen - mean) / deviation)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
