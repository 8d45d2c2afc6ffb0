"""DEHB: differential evolution over Hyperband's brackets (Awad et al. 2021, arXiv 2105.09821), by the authors' package.

It proposes points of the unit cube, one dimension a hyperparameter; each stands for the nearest candidate of the pool
(nearest.py). A configuration that DEHB promotes keeps its number, and so its candidate, and goes on from its
checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

from ftmeta.optimizers.nearest import Nearest
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.optimizers.successive_halving import ETA

_WORST = 1.0  # what it minimises is 1 - score


class Dehb:
    def __init__(self, problem: Problem, seed: int) -> None:
        self._book, self._nearest, self._space = Book(problem), Nearest(problem), problem.space
        folder = tempfile.mkdtemp()  # it wants one for logs, of which it writes none
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        with _quiet():
            from dehb import DEHB

            self._dehb: Any = DEHB(
                f=None,
                cs=None,
                dimensions=len(problem.space.hyperparameters),
                configspace=False,
                min_fidelity=1,
                max_fidelity=max(problem.max_fidelity, 2),
                eta=ETA,
                n_workers=1,
                seed=seed,
                save_freq="end",
                output_path=folder,
                log_level="CRITICAL",
            )
        self._T = problem.max_fidelity
        self._candidate: dict[int, int] = {}  # of DEHB's configuration
        self._jobs: dict[int, dict[str, Any]] = {}  # under way, by candidate

    def ask(self) -> Step | None:
        while self._book.open_N.any():
            job = self._dehb.ask()
            number, fidelity = job["config_id"], min(max(round(job["fidelity"]), 1), self._T)
            if number not in self._candidate:
                candidate = self._nearest.unused(self._space.at(job["config"]), self._book)
                if candidate is None:
                    return None
                self._candidate[number] = candidate
            candidate = self._candidate[number]
            if self._book.open_N[candidate] and self._book.reached_N[candidate] < fidelity:
                self._jobs[candidate] = job
                return self._book.ask(candidate, fidelity)
            self._answer(job, candidate, fidelity)  # known already, or broke off: nothing to run
        return None

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)
        candidate = outcome.step.candidate
        self._answer(self._jobs.pop(candidate), candidate, outcome.step.fidelity, outcome.cost_s)

    def _answer(self, job: dict[str, Any], candidate: int, fidelity: int, cost_s: float = 0.0) -> None:
        score = self._book.score_NT[candidate, fidelity - 1]
        self._dehb.tell(job, {"fitness": _WORST - score if score == score else _WORST, "cost": cost_s})

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DEHB configures the logger it shares with others to write to standard output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
