"""Quick-Tune (Pineda Arango et al. 2024, arXiv 2306.03828), and its transfer-only version (Strangmann et al. 2024,
arXiv 2411.01195), with the surrogates of ftmeta/surrogates/quicktune.py.

Each step trains one candidate by one more fidelity: the one whose expected improvement over the best score seen at that
fidelity, divided by the predicted cost of the step, is largest. What is seen on the new task enters

  transfer      as the curve that a prediction starts from, and as the best score; nothing else (the paper's method)
  conditioned   also as points that the process is conditioned on
  refit         also as data that the network is trained on further: Quick-Tune as published. It starts with three
                candidates drawn at random, as the published code does

Refitting after every step would take most of a benchmark's time: it is done after each of the first `REFIT_EVERY_STEP`
steps, and then whenever there are a fifth more observations than the last time; in between they are conditioned on.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch

from ftmeta.optimizers.acquisition import expected_improvement
from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.protocol import Book, Outcome, Problem, Step
from ftmeta.surrogates.deep_kernel import Points, Posterior, train_step
from ftmeta.surrogates.quicktune import CONDITIONED_ON

Adaptation = Literal["transfer", "conditioned", "refit"]

REFIT_EVERY_STEP = 5
_GROWTH = 1.2
_RANDOM_STARTS = 3  # of the refitting version
_REFIT_ROUNDS, _REFIT_PATIENCE, _REFIT_RATE, _REFIT_BATCH = 50, 5, 1e-3, 256


class QuickTune:
    def __init__(self, problem: Problem, experience: Experience, seed: int, adaptation: Adaptation) -> None:
        self._book, self._adaptation = Book(problem), adaptation
        self._surrogates = experience.quicktune
        self._network = self._surrogates.network
        N, T = self._book.score_NT.shape
        self._columns = self._surrogates.columns.transform(problem.candidates, problem.context)
        self._cost_NT = self._surrogates.predict_cost(problem.candidates, problem.context)
        self._source = self._surrogates.sample_source(CONDITIONED_ON, seed)
        self._room = 0 if adaptation == "transfer" else N * T
        self._posterior = Posterior(self._network, self._source, self._asked(np.arange(N)), self._room)
        self._generator = torch.Generator().manual_seed(seed)
        order = np.random.default_rng(seed).permutation(N)
        self._starts = [int(n) for n in order[:_RANDOM_STARTS]] if adaptation == "refit" else []
        self._seen: list[Points] = []
        self._fitted = 0  # observations at the last refit

    def ask(self) -> Step | None:
        book = self._book
        if self._starts:
            return book.ask(self._starts.pop(0), 1)
        open_N = book.open_N
        if not open_N.any():
            return None
        mean_N, deviation_N = self._posterior.predict()
        T = book.score_NT.shape[1]
        best_T = np.maximum.accumulate(np.nan_to_num(book.score_NT).max(axis=0))
        next_N = np.minimum(book.reached_N, T - 1)  # index of the next fidelity
        rows = np.arange(len(mean_N))
        cost_N = self._cost_NT[rows, next_N + 1] - self._cost_NT[rows, next_N]
        cost_N = np.maximum(cost_N, 1e-3 * cost_N[open_N].max() + 1e-12)
        value_N = expected_improvement(mean_N, deviation_N, best_T[next_N]) / cost_N
        candidate = int(np.where(open_N, value_N, -np.inf).argmax())
        return book.ask(candidate, int(book.reached_N[candidate]) + 1)

    def tell(self, outcome: Outcome) -> None:
        book, candidate = self._book, outcome.step.candidate
        book.tell(outcome)
        rows = np.array([candidate])
        if book.open_N[candidate]:
            self._posterior.replace(candidate, self._asked(rows))
        if self._adaptation == "transfer":
            return
        for fidelity in range(outcome.step.start, outcome.step.start + len(outcome.scores)):
            point = self._point(rows, np.array([fidelity]), book.score_NT[candidate, fidelity][None])
            self._seen.append(point)
            self._posterior.condition(point)
        if self._adaptation == "refit" and self._seen and self._is_due():
            self._refit()

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self._book.best

    def _asked(self, rows: np.ndarray) -> Points:
        """The next score of each candidate in `rows`."""
        T = self._book.score_NT.shape[1]
        return self._point(rows, np.minimum(self._book.reached_N[rows], T - 1), np.full(len(rows), np.nan))

    def _point(self, rows: np.ndarray, reached: np.ndarray, target: np.ndarray) -> Points:
        numeric, one_hot = self._columns
        return self._surrogates.points((numeric[rows], one_hot[rows]), self._book.score_NT[rows], reached, target)

    def _is_due(self) -> bool:
        return len(self._seen) <= REFIT_EVERY_STEP or len(self._seen) >= _GROWTH * self._fitted

    def _refit(self) -> None:
        """The network is trained further, from where it is, on what was seen and a part of the source tasks' points;
        the round that predicts what was seen best is kept, the present one among them."""
        self._fitted = len(self._seen)
        seen = Points.joined(self._seen)
        network = copy.deepcopy(self._network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_REFIT_RATE)
        best, best_state, waited = self._error(seen), None, 0
        for _ in range(_REFIT_ROUNDS):
            mixed = Points.joined([seen, self._some_source(max(_REFIT_BATCH - len(seen), len(seen)))])
            train_step(network, optimizer, mixed)
            error = self._error(seen, Posterior(network, self._some_source(_REFIT_BATCH), seen))
            if error < best:
                best, best_state, waited = error, copy.deepcopy(network.state_dict()), 0
            else:
                waited += 1
                if waited >= _REFIT_PATIENCE:
                    break
        if best_state is not None:
            network.load_state_dict(best_state)
            self._network = network
        everything = self._asked(np.arange(len(self._book.reached_N)))
        given = Points.joined([self._source, *self._seen])
        self._posterior = Posterior(self._network, given, everything, self._room - len(self._seen))

    def _error(self, seen: Points, posterior: Posterior | None = None) -> float:
        """Mean absolute error on what was seen, by the source tasks alone."""
        posterior = posterior or Posterior(self._network, self._some_source(_REFIT_BATCH), seen)
        mean_N, _ = posterior.predict()
        return float(np.abs(mean_N - seen.target.numpy()).mean())

    def _some_source(self, size: int) -> Points:
        rows = torch.randint(len(self._surrogates.source), (size,), generator=self._generator)
        return self._surrogates.source[rows]
