"""SMAC3's multi-fidelity facade: a random forest over Hyperband's brackets (Lindauer et al. 2022, JMLR 23(54)).

Its proposals stand for the nearest candidates of the pool (nearest.py); a configuration that comes again for longer
keeps its candidate and goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from ftmeta.optimizers.nearest import Nearest
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.optimizers.successive_halving import ETA

_WORST = 1.0  # what it minimises is 1 - score
_MANY = 100_000  # trials: the clock of the benchmark ends the search


class Smac:
    def __init__(self, problem: Problem, seed: int) -> None:
        self._book, self._nearest, self._space = Book(problem), Nearest(problem), problem.space
        self._T = problem.max_fidelity
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        with _quiet():
            from smac import MultiFidelityFacade, Scenario
            from smac.intensifier.hyperband import Hyperband

            logging.getLogger("smac").setLevel(logging.CRITICAL)
            scenario = Scenario(
                problem.space.configspace(),
                deterministic=True,
                n_trials=_MANY,
                min_budget=1,
                max_budget=self._T,
                seed=seed,
                output_directory=folder,  # type: ignore[arg-type]
            )
            self._smac: Any = MultiFidelityFacade(
                scenario,
                lambda config, seed, budget: 0.0,  # never called: it is asked and told
                intensifier=Hyperband(scenario, eta=ETA),
                logging_level=False,  # anything else sets the level and the handlers of the root logger
                overwrite=True,
            )
        self._candidate: dict[Any, int] = {}  # of a configuration
        self._trials: dict[int, Any] = {}  # under way, by candidate

    def ask(self) -> Step | None:
        while self._book.open_N.any():
            with _quiet():
                trial = self._smac.ask()
            if trial.config not in self._candidate:
                candidate = self._nearest.unused(self._space.of(dict(trial.config)), self._book)
                if candidate is None:
                    return None
                self._candidate[trial.config] = candidate
            candidate, fidelity = self._candidate[trial.config], min(max(round(trial.budget), 1), self._T)
            if self._book.open_N[candidate] and self._book.reached_N[candidate] < fidelity:
                self._trials[candidate] = trial
                return self._book.ask(candidate, fidelity)
            self._answer(trial, candidate, fidelity)
        return None

    def tell(self, outcome: Outcome) -> None:
        self._book.tell(outcome)
        candidate = outcome.step.candidate
        self._answer(self._trials.pop(candidate), candidate, outcome.step.fidelity, outcome.cost_s)

    def _answer(self, trial: Any, candidate: int, fidelity: int, cost_s: float = 0.0) -> None:
        from smac.runhistory.dataclasses import TrialValue

        score = self._book.score_NT[candidate, fidelity - 1]
        with _quiet():
            self._smac.tell(trial, TrialValue(cost=_WORST - score if score == score else _WORST, time=cost_s))

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It warns of what is meant here: few trials, a folder that exists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
