"""Optuna's tree-structured Parzen estimator with its Hyperband pruner (Bergstra et al. 2011; Akiba et al. 2019).

A trial is a proposal, which stands for the nearest candidate of the pool (nearest.py). It goes on fidelity by fidelity
until Optuna prunes it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ftmeta.optimizers.nearest import Nearest
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.optimizers.successive_halving import ETA
from ftmeta.schema import Value
from ftmeta.space import Categorical, Ordinal

if TYPE_CHECKING:
    import optuna


class TpeHyperband:
    def __init__(self, problem: Problem, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._book, self._nearest, self._space = Book(problem), Nearest(problem), problem.space
        self._T = problem.max_fidelity
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pruner is marked experimental
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self._T, reduction_factor=ETA)
        self._study = optuna.create_study(
            study_name="tpe-hyperband",  # with the trial's number, it decides the trial's bracket
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=pruner,
        )
        self._trials: dict[int, optuna.Trial] = {}  # by candidate
        self._going_on: list[int] = []  # candidates of trials that were not pruned

    def ask(self) -> Step | None:
        if self._going_on:
            candidate = self._going_on.pop(0)
            return self._book.ask(candidate, int(self._book.reached_N[candidate]) + 1)
        trial = self._study.ask()
        found = self._nearest.unused(self._space.of(self._suggested(trial)), self._book)
        if found is None:
            import optuna

            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        self._trials[found] = trial
        return self._book.ask(found, 1)

    def _suggested(self, trial: optuna.Trial) -> dict[str, Value]:
        values: dict[str, Value] = {}
        conditional_last = sorted(self._space.domains.items(), key=lambda item: bool(item[1].when))
        for name, domain in conditional_last:
            if not self._space.is_active(name, values):
                continue
            if isinstance(domain, Categorical):
                values[name] = trial.suggest_categorical(name, domain.choices)
            elif isinstance(domain, Ordinal):
                values[name] = domain.values[trial.suggest_int(name, 0, len(domain.values) - 1)]
            elif domain.type == "int":
                values[name] = trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
            else:
                values[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        return values

    def tell(self, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        self._book.tell(outcome)
        candidate, reached = outcome.step.candidate, outcome.step.fidelity
        trial = self._trials[candidate]
        if outcome.broke_off:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        score = outcome.scores[-1]
        trial.report(score, reached)
        if reached == self._T:
            self._study.tell(trial, score)
        elif trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._going_on.append(candidate)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best
