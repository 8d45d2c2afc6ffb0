"""Successive halving: many candidates for a short while, the better third of them for longer.

`Asha` promotes as soon as a candidate is in the best third of its rung (Li et al. 2020, arXiv 1810.05934, algorithm 2);
it starts new candidates at random. `Hyperband` runs brackets of synchronous halving, each of which starts fewer
candidates for longer, over and over (Li et al. 2018, arXiv 1603.06560, algorithm 1). Both go on from checkpoints, so
a promoted candidate pays for what it had not run yet.

With T fidelities the rungs are T, T / 3, T / 9, ..., rounded, down to 1: 1, 3, 10 for T = 10.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step

ETA = 3


def rungs(max_fidelity: int, eta: int = ETA) -> list[int]:
    """Fidelities of the rungs, ascending; the last is `max_fidelity`."""
    found = [max_fidelity]
    while round(max_fidelity / eta ** len(found)) >= 1:
        found.append(round(max_fidelity / eta ** len(found)))
    return sorted(set(found))


class Asha:
    def __init__(self, problem: Problem, seed: int) -> None:
        self._book = Book(problem)
        self._rungs = rungs(problem.max_fidelity)
        self._promoted: list[set[int]] = [set() for _ in self._rungs]
        self._fresh = iter(np.random.default_rng(seed).permutation(len(problem.candidates)))

    def ask(self) -> Step | None:
        for k in reversed(range(len(self._rungs) - 1)):
            candidate = self._promotable(k)
            if candidate is not None:
                self._promoted[k].add(candidate)
                return self._book.ask(candidate, self._rungs[k + 1])
        candidate = next(self._fresh, None)
        return None if candidate is None else self._book.ask(int(candidate), self._rungs[0])

    def _promotable(self, k: int) -> int | None:
        """The best candidate of rung k that is in its best third and was not promoted yet."""
        score_N = self._book.score_NT[:, self._rungs[k] - 1]
        there = np.flatnonzero(np.isfinite(score_N))
        top = there[np.argsort(-score_N[there], kind="stable")][: len(there) // ETA]
        for candidate in top:
            if int(candidate) not in self._promoted[k] and not self._book.closed_N[candidate]:
                return int(candidate)
        return None

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best


class Hyperband:
    """A bracket waits for all candidates of a rung before the best go on; while it waits, `ask` says None."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._book = Book(problem)
        self._rungs = rungs(problem.max_fidelity)
        self._fresh = iter(np.random.default_rng(seed).permutation(len(problem.candidates)))
        self._brackets = self._sizes()
        self._members: list[int] = []  # of the present rung
        self._level = 0
        self._queue: list[int] = []
        self._is_over = not self._next_bracket()

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """(first rung, candidates) of brackets s_max, s_max - 1, ..., 0, again and again."""
        s_max = len(self._rungs) - 1
        while True:
            for s in range(s_max, -1, -1):
                yield s_max - s, math.ceil((s_max + 1) / (s + 1) * ETA**s)

    def _next_bracket(self) -> bool:
        self._level, size = next(self._brackets)
        self._members = [int(candidate) for candidate in itertools.islice(self._fresh, size)]
        self._queue = list(self._members)
        return bool(self._members)

    def ask(self) -> Step | None:
        if self._is_over:
            return None
        if not self._queue and not self._book.under_way:
            self._advance()
        return self._book.ask(self._queue.pop(0), self._rungs[self._level]) if self._queue else None

    def _advance(self) -> None:
        """The best third of the rung goes on; after the last rung the next bracket starts."""
        while not self._queue and not self._is_over:
            score_N = self._book.score_NT[:, self._rungs[self._level] - 1]
            alive = [c for c in self._members if np.isfinite(score_N[c]) and not self._book.closed_N[c]]
            alive.sort(key=lambda c: (-score_N[c], c))
            kept = alive[: max(1, len(self._members) // ETA)]
            if self._level + 1 < len(self._rungs) and kept:
                self._members, self._level = kept, self._level + 1
                self._queue = list(kept)
            else:
                self._is_over = not self._next_bracket()

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
