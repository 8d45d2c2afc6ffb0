"""ftmeta's own optimizer: transfer, conditioned on what is seen, with an eye on the end of each curve and on the clock.

The surrogates are learned on other tasks and never refitted. Scores seen on the new task condition the belief about all
candidates in closed form (ftmeta/surrogates/belief.py). Each step trains one candidate by one fidelity: the one with
the largest

  expected improvement at the end of its run, over the best score seen, times log(budget / time at which it ends)

which is by how much the area under regret over the logarithm of time is expected to shrink if the candidate is run to
its end and nothing else is: a good anytime optimizer keeps that area small. A run that the budget does not let end
is judged by the fidelity it can still reach. After each step all candidates compete again, so a run that
disappoints is left, and taken up again if others disappoint more.

A candidate under way is believed to do what is expected of it until it is told (the kriging believer of Ginsbourger et
al. 2010). Costs are corrected by what the steps on this task cost against what was expected of them: the machine may be
faster or slower than its profile says.

Array legend: N candidates, T fidelities, K scores seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftmeta.hardware import HardwareProfile
from ftmeta.optimizers.acquisition import expected_improvement
from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.surrogates import Surrogates

_PRIOR_STEPS = 2.0  # the profile's word on costs weighs as much as so many steps


@dataclass(frozen=True)
class Transfer:
    """Surrogates without the runs that they were learned from, as a selector has them (ftmeta/suggest.py)."""

    learned: Surrogates
    hardware: HardwareProfile | None  # that costs are wanted for


class Ours:
    """`first`: candidates that are run to their end before anything else, in their order."""

    def __init__(
        self,
        problem: Problem,
        experience: Experience | Transfer,
        seed: int,
        *,
        first: tuple[int, ...] = (),
        conditioned: bool = True,
        cost_aware: bool = True,
    ) -> None:
        learned = experience.learned
        self.problem = problem
        self._book, self._budget_s, self._T = Book(problem), problem.budget_s, problem.max_fidelity
        self._belief = learned.performance.belief(problem.candidates, problem.context)
        self._factor_NT = learned.performance.calibration(self._belief.z_NT)
        cost_NT = learned.cost.predict(problem.candidates, problem.context, experience.hardware)
        self._predicted_NT = np.maximum(cost_NT, 1e-9)  # before any step told what it cost
        self._log_slower, self._steps = 0.0, 0
        self._first, self._conditioned, self._cost_aware = first, conditioned, cost_aware

    def ask(self) -> Step | None:
        book = self._book
        open_N = book.open_N
        if not open_N.any():
            return None
        candidate = next((n for n in self._first if open_N[n]), None)
        if candidate is None:
            end_N = self._reachable()
            value_N = self._improvement(end_N) * self._time_left(end_N)
            candidate = int(np.where(open_N, value_N, -np.inf).argmax())
        return book.ask(candidate, int(book.reached_N[candidate]) + 1)

    def take_up(self, candidate: int, fidelity: int) -> Step:
        """A step that someone runs without having asked for it; it is told like any other."""
        return self._book.ask(candidate, fidelity)

    @property
    def expected_gain(self) -> float:
        """The largest expected improvement, in score units, that running one candidate to its end (or as far as the
        budget goes) has to offer; 0 where there is none."""
        candidates_N = self._book.open_N | np.isin(np.arange(len(self._book.reached_N)), list(self._book.under_way))
        improvement_N = self._improvement(self._reachable())
        return float(np.where(candidates_N, improvement_N, 0.0).max(initial=0.0))

    def expects(self, candidate: int, fidelity: int) -> tuple[float, float]:
        """Mean and standard deviation of that score, given what was seen so far, whether it is under way or not."""
        end_N = np.full(len(self._book.reached_N), fidelity - 1)
        mean_N, deviation_N = self._expected(end_N, besides=candidate)
        return float(mean_N[candidate]), float(deviation_N[candidate])

    def cost_s(self, candidate: int, start: int, fidelity: int) -> float:
        """What that step is expected to cost."""
        cost_T = self._cost_NT[candidate]
        return float(cost_T[fidelity] - (cost_T[start] if start else 0.0))

    @property
    def _cost_NT(self) -> np.ndarray:
        return self._predicted_NT * np.exp(self._log_slower / (self._steps + _PRIOR_STEPS))

    def _improvement(self, end_N: np.ndarray) -> np.ndarray:
        mean_N, deviation_N = self._expected(end_N)
        return expected_improvement(mean_N, deviation_N, self._book.best_score or 0.0)

    def _reachable(self) -> np.ndarray:
        """end_N: the index of the last fidelity that each candidate can reach within the budget; the next one at least,
        whatever the budget says."""
        left_s = self._budget_s - self._book.spent_s
        affordable_NT = self._cost_NT[:, 1:] - self._paid()[:, None] <= left_s
        last_N = self._T - 1 - affordable_NT[:, ::-1].argmax(axis=1)
        last_N = np.where(affordable_NT.any(axis=1), last_N, 0)
        return np.maximum(last_N, np.minimum(self._book.reached_N, self._T - 1))

    def _paid(self) -> np.ndarray:
        reached_N = self._book.reached_N
        return np.where(reached_N > 0, self._cost_NT[np.arange(len(reached_N)), reached_N], 0.0)

    def _time_left(self, end_N: np.ndarray) -> np.ndarray:
        """log(budget / time at which each candidate is at its end), at least a thousandth."""
        if not self._cost_aware:
            return np.ones(len(end_N))
        left_N = self._cost_NT[np.arange(len(end_N)), end_N + 1] - self._paid()
        at_N = np.maximum(self._book.spent_s + left_N, 1e-3 * self._budget_s)
        return np.maximum(np.log(self._budget_s / at_N), 1e-3)

    def _expected(self, end_N: np.ndarray, besides: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the scores at the ends, given what was seen and what is under way `besides` that."""
        book = self._book
        rows_K, t_K = np.nonzero(np.isfinite(book.score_NT)) if self._conditioned else (np.array([], dtype=int),) * 2
        score_K = book.score_NT[rows_K, t_K]
        steps = [step for step in book.under_way.values() if step.candidate != besides]
        if steps:
            expected, _ = self._belief.given(rows_K, t_K, score_K)
            more_rows = np.array([step.candidate for step in steps])
            more_t = np.array([step.fidelity - 1 for step in steps])
            rows_K, t_K = np.concatenate([rows_K, more_rows]), np.concatenate([t_K, more_t])
            score_K = np.concatenate([score_K, expected[more_rows, more_t]])
        ends = np.unique(end_N)
        mean, variance = self._belief.given(rows_K, t_K, score_K, ends)
        rows, at = np.arange(len(end_N)), np.searchsorted(ends, end_N)
        return mean[rows, at], np.sqrt(variance[rows, at]) * self._factor_NT[rows, end_N]

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)
        step = outcome.step
        if not outcome.broke_off and outcome.cost_s > 0:
            predicted_T = self._predicted_NT[step.candidate]
            expected_s = predicted_T[step.fidelity] - (predicted_T[step.start] if step.start else 0.0)
            self._log_slower += float(np.log(outcome.cost_s / max(expected_s, 1e-9)))
            self._steps += 1

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
