"""Copula Thompson sampling (Salinas et al. 2020, algorithm 1): a draw from the prior of each candidate's quantile, and
the candidate with the highest draw is run to the full budget. Observations of the new task play no part in it.
"""

from __future__ import annotations

import numpy as np

from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step


class CopulaThompson:
    def __init__(self, problem: Problem, experience: Experience, seed: int) -> None:
        self._book, self._T = Book(problem), problem.max_fidelity
        self._mean_N, self._deviation_N = experience.copula.predict(problem.candidates)
        self._rng = np.random.default_rng(seed)

    def ask(self) -> Step | None:
        fresh = np.flatnonzero(self._book.open_N)
        if not len(fresh):
            return None
        draw = self._rng.normal(self._mean_N[fresh], self._deviation_N[fresh])
        return self._book.ask(int(fresh[draw.argmax()]), self._T)

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
