"""Optimizers that propose points of the whole search space, on a pool: a proposal stands for the nearest candidate.

Near is the Euclidean distance of `Space.encode`. A new proposal takes a candidate that never ran, so no candidate
stands for two proposals; the optimizer is told the candidate's score as that of its proposal.
"""

from __future__ import annotations

import numpy as np

from ftmeta.optimizers.protocol import Book, Problem
from ftmeta.schema import Pipeline


class Nearest:
    def __init__(self, problem: Problem) -> None:
        self._space = problem.space
        self._X_NF, _ = problem.space.encode(problem.candidates)

    def unused(self, proposal: Pipeline, book: Book) -> int | None:
        """The nearest candidate that was never asked for; None: there is none left."""
        fresh = np.flatnonzero(book.open_N & (book.reached_N == 0))
        if not len(fresh):
            return None
        x_F = self._space.encode([proposal])[0][0]
        return int(fresh[((self._X_NF[fresh] - x_F) ** 2).sum(axis=1).argmin()])
