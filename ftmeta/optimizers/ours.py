"""ftmeta's own optimizer: transfer, conditioned on what is seen, with an eye on the end of each curve.

The surrogates are learned on other tasks and never refitted. Scores seen on the new task condition the belief about all
candidates in closed form (ftmeta/surrogates/belief.py). Each step trains one candidate by one fidelity: the one whose
expected improvement *at the end of its run* over the best score seen, divided by what is still to be paid until there,
is largest. A candidate under way is believed to do what is expected of it until it is told (kriging believer).

The strong default, where it is known, is finished before `DEFAULT_BY` of the budget is spent: what is handed over
is never much worse than it.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

import numpy as np

from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.optimizers.quicktune import expected_improvement


class Ours:
    def __init__(self, problem: Problem, experience: Experience, seed: int) -> None:
        learned = experience.learned
        self._book = Book(problem)
        self._belief = learned.performance.belief(problem.candidates, problem.context)
        self._factor_N = learned.performance.calibration(self._belief.z_NT)[:, -1]
        self._cost_NT = learned.cost.predict(problem.candidates, problem.context, experience.hardware)
        self._T = problem.max_fidelity
        self._rng = np.random.default_rng(seed)
        self._budget_s = problem.budget_s

    def ask(self) -> Step | None:
        book = self._book
        open_N = book.open_N
        if not open_N.any():
            return None
        mean_N, deviation_N = self._end()
        best = book.best_score or 0.0
        rows = np.arange(len(mean_N))
        paid_N = np.where(book.reached_N > 0, self._cost_NT[rows, book.reached_N], 0.0)
        left_N = np.where(open_N, self._cost_NT[rows, -1] - paid_N, 1.0)
        value_N = expected_improvement(mean_N, deviation_N, best) / left_N
        candidate = int(np.where(open_N, value_N, -np.inf).argmax())
        return book.ask(candidate, int(book.reached_N[candidate]) + 1)

    def _end(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the score at the last fidelity, given what was seen and what is under way."""
        book, last = self._book, np.array([self._T - 1])
        rows_K, t_K = np.nonzero(np.isfinite(book.score_NT))
        score_K = book.score_NT[rows_K, t_K]
        if book.under_way:
            steps = list(book.under_way.values())
            expected, _ = self._belief.given(rows_K, t_K, score_K)
            more_rows = np.array([step.candidate for step in steps])
            more_t = np.array([step.fidelity - 1 for step in steps])
            rows_K, t_K = np.concatenate([rows_K, more_rows]), np.concatenate([t_K, more_t])
            score_K = np.concatenate([score_K, expected[more_rows, more_t]])
        mean, variance = self._belief.given(rows_K, t_K, score_K, last)
        return mean[:, 0], np.sqrt(variance[:, 0]) * self._factor_N

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
