"""Candidates one after the other, each to the full budget: what random search, portfolios and single pipelines do."""

from __future__ import annotations

from collections.abc import Iterable

from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step


class InOrder:
    """Runs `order`, indices into the problem's candidates, from the first to the last."""

    def __init__(self, problem: Problem, order: Iterable[int]) -> None:
        self._book, self._left, self._T = Book(problem), iter(order), problem.max_fidelity

    def ask(self) -> Step | None:
        candidate = next(self._left, None)
        return None if candidate is None else self._book.ask(int(candidate), self._T)

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
