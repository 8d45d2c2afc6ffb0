"""The surrogates of Quick-Tune (Pineda Arango et al. 2024, arXiv 2306.03828), which Strangmann et al. 2024 (arXiv
2411.01195) use for finetuning: a deep-kernel Gaussian process for scores and a network for costs.

  features    one network for numeric columns (hyperparameters, meta-features, the fidelity asked about as a share of
              the full budget), one for one-hot columns, one for the curve seen so far (zeros where nothing was seen);
              joined by a third and scaled to length 1
  process     constant mean, scaled RBF kernel, Gaussian noise, on these features
  target      the score at the fidelity that follows the curve given
  training    minus the log marginal likelihood of random batches, AdamW; the epoch with the smallest mean absolute
              error on validation runs is kept
  costs       a network from pipeline, meta-features and fidelity to log seconds, Huber loss; the cost of a step is a
              difference of cumulative costs

This is the method as published with the published code's mistakes mended and nothing else changed; each has a test in
tests/surrogates/test_quicktune.py that would catch it: all levels of a categorical column are looked at, not the first
few; costs come back from the scale they are learned on; validation holds out whole runs, not points of curves that are
also in training; columns are scaled the same way in training and in use, skewed ones after log1p. What differs for
speed: batches of 256 (2,048 there), and 1,024 points (4,096 there) that the process is conditioned on in the end.

Array legend: N points or pipelines, T fidelities, K points conditioned on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ftmeta.schema import Budget, Pipeline
from ftmeta.space import Categorical, Space
from ftmeta.surrogates.deep_kernel import DeepKernel, Points, Posterior, mlp, train_step
from ftmeta.surrogates.features import Context
from ftmeta.surrogates.history import Group

CONDITIONED_ON = 1024  # points of the source tasks
_BATCH, _EPOCHS, _PATIENCE, _RATE = 256, 100, 5, 1e-3
_HELD_OUT = 0.1  # share of the runs that tell when to stop
_LEAST_GAIN = 1e-4
_COUNT_ABOVE = 10.0  # a meta-feature that is never negative and exceeds this is taken for a count: log1p


@dataclass(frozen=True)
class Columns:
    """Pipelines and meta-features as numeric and one-hot columns, standardised as in training."""

    space: Space
    names: tuple[str, ...]  # of the meta-features
    logged: tuple[bool, ...]
    mean: np.ndarray  # of the numeric columns
    deviation: np.ndarray

    def transform(self, pipelines: Sequence[Pipeline], context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Numeric and one-hot columns, a row a pipeline; a meta-feature that is not known is the training mean."""
        numeric, one_hot = _split(self.space, pipelines)
        row = _metafeature_row(context, self.names, self.logged)
        raw = np.concatenate([numeric, np.tile(row, (len(pipelines), 1))], axis=1)
        return np.nan_to_num((raw - self.mean) / self.deviation).astype(np.float32), one_hot

    @classmethod
    def fit(cls, space: Space, groups: Sequence[Group]) -> Columns:
        known = [group.context.metafeatures for group in groups]
        names = tuple(sorted({name for metafeatures in known for name in metafeatures}))
        logged = []
        for name in names:
            values = [metafeatures[name] for metafeatures in known if name in metafeatures]
            logged.append(min(values) >= 0 and max(values) > _COUNT_ABOVE)
        raw = np.concatenate(
            [
                np.concatenate(
                    [
                        _split(space, group.pipelines)[0],
                        np.tile(_metafeature_row(group.context, names, logged), (len(group.pipelines), 1)),
                    ],
                    axis=1,
                )
                for group in groups
            ]
        )
        deviation = np.nanstd(raw, axis=0)
        return cls(space, names, tuple(logged), np.nanmean(raw, axis=0), np.where(deviation > 1e-9, deviation, 1.0))


@dataclass(frozen=True)
class QuickTuneSurrogates:
    columns: Columns
    network: DeepKernel
    cost_network: torch.nn.Module
    cost_scale_2: np.ndarray  # mean and deviation of the log seconds it was trained on
    source: Points  # all points of the source tasks
    T: int
    seed: int

    def points(
        self, columns: tuple[np.ndarray, np.ndarray], curve_NT: np.ndarray, reached_N: np.ndarray, target_N: np.ndarray
    ) -> Points:
        """The scores at the fidelities after `reached_N`, given the curves until there. `columns`: as
        `self.columns.transform` gives them, a row a curve; `target_N`: NaN where the score is what is asked."""
        return _points(*columns, curve_NT, reached_N, target_N)

    def predict_cost(self, pipelines: Sequence[Pipeline], context: Context) -> np.ndarray:
        """Cumulative device-seconds at fidelities 0..T: cost_NT, of T + 1 columns, ascending."""
        numeric, one_hot = self.columns.transform(pipelines, context)
        share = np.arange(1, self.T + 1) / self.T
        rows = np.repeat(np.concatenate([numeric, one_hot], axis=1), self.T, axis=0)
        X = np.concatenate([rows, np.tile(share, len(pipelines))[:, None]], axis=1).astype(np.float32)
        with torch.no_grad():
            standard = self.cost_network(torch.from_numpy(X)).numpy().reshape(len(pipelines), self.T)
        mean, deviation = self.cost_scale_2
        cost_NT = np.exp(standard.astype(np.float64) * deviation + mean)
        return np.concatenate([np.zeros((len(pipelines), 1)), np.maximum.accumulate(cost_NT, axis=1)], axis=1)

    def sample_source(self, size: int, seed: int) -> Points:
        generator = torch.Generator().manual_seed(seed)
        return self.source[torch.randperm(len(self.source), generator=generator)[:size]]


def fit_quicktune(space: Space, budget: Budget, groups: Sequence[Group], *, seed: int) -> QuickTuneSurrogates:
    """Learned from `groups`; the same input and seed give the same surrogates."""
    columns = Columns.fit(space, groups)
    T = budget.max_fidelity
    parts: list[Points] = []
    run_of: list[np.ndarray] = []
    for group in groups:
        numeric, one_hot = columns.transform(group.pipelines, group.context)
        rows_N, t_N = np.nonzero(np.isfinite(group.score_NT))
        target_N = group.score_NT[rows_N, t_N]
        parts.append(_points(numeric[rows_N], one_hot[rows_N], group.score_NT[rows_N], t_N, target_N))
        run_of.append(rows_N + (run_of[-1].max() + 1 if run_of else 0))
    source = Points.joined(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeepKernel(source.numeric.shape[1], source.one_hot.shape[1], T)
        cost_network = mlp(source.numeric.shape[1] + source.one_hot.shape[1] + 1, 1, hidden=64)
    _train(network, source, np.concatenate(run_of), seed=seed)
    cost_scale_2 = _train_cost(cost_network, columns, groups, T, seed=seed)
    return QuickTuneSurrogates(columns, network.eval(), cost_network.eval(), cost_scale_2, source, T, seed)


def _train(network: DeepKernel, points: Points, run_N: np.ndarray, *, seed: int) -> None:
    """In place. Whole runs are held out; the process is conditioned on a part of the others to predict them."""
    generator = torch.Generator().manual_seed(seed)
    runs = np.random.default_rng(seed).permutation(np.unique(run_N))
    held_out_N = np.isin(run_N, runs[: max(1, round(_HELD_OUT * len(runs)))])
    training, validation = (torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out_N, held_out_N))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    best_error, best_state, waited = np.inf, copy.deepcopy(network.state_dict()), 0
    for _ in range(_EPOCHS):
        order = training[torch.randperm(len(training), generator=generator)]
        batches = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        for batch in batches if len(batches) == 1 else batches[:-1]:  # the last one may be small
            train_step(network, optimizer, points[batch])
        mean_N, _ = Posterior(network, points[order[:_BATCH]], points[validation]).predict()
        error = float(np.abs(mean_N - points.target[validation].numpy()).mean())
        if error + _LEAST_GAIN < best_error:
            best_error, best_state, waited = error, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
            if waited >= _PATIENCE:
                break
    network.load_state_dict(best_state)


def _train_cost(
    network: torch.nn.Module, columns: Columns, groups: Sequence[Group], T: int, *, seed: int
) -> np.ndarray:
    """In place; returns mean and deviation of the log seconds."""
    X, y = [], []
    for group in groups:
        numeric, one_hot = columns.transform(group.pipelines, group.context)
        n, t = np.nonzero(np.isfinite(group.cost_NT[:, 1:]) & (group.cost_NT[:, 1:] > 0))
        X.append(np.concatenate([numeric[n], one_hot[n], ((t + 1) / T)[:, None]], axis=1))
        y.append(np.log(group.cost_NT[n, t + 1]))
    log_s = np.concatenate(y)
    scale_2 = np.array([log_s.mean(), max(float(log_s.std()), 1e-6)]) if len(log_s) else np.array([0.0, 1.0])
    inputs = torch.from_numpy(np.concatenate(X).astype(np.float32))
    targets = torch.from_numpy(((log_s - scale_2[0]) / scale_2[1]).astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps = 1500 if len(targets) else 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        batch = torch.randint(len(targets), (_BATCH,), generator=generator)
        loss = torch.nn.functional.huber_loss(network(inputs[batch])[:, 0], targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return scale_2


def _points(
    numeric: np.ndarray, one_hot: np.ndarray, curve_NT: np.ndarray, reached_N: np.ndarray, target_N: np.ndarray
) -> Points:
    T = curve_NT.shape[1]
    before_NT = np.arange(T)[None] < reached_N[:, None]
    curve_NT = np.where(before_NT, np.nan_to_num(curve_NT), 0.0)
    share = ((reached_N + 1) / T)[:, None]
    parts = (numeric, one_hot, curve_NT, share, target_N)
    return Points(*(torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in parts))


def _split(space: Space, pipelines: Sequence[Pipeline]) -> tuple[np.ndarray, np.ndarray]:
    """Numeric columns and one-hot columns; what says whether a hyperparameter is active counts as one-hot."""
    X, names = space.encode(pipelines)
    numeric = {name for name, domain in space.domains.items() if not isinstance(domain, Categorical)}
    is_numeric = np.array([name in numeric for name in names])
    return X[:, is_numeric].astype(np.float64), X[:, ~is_numeric]


def _metafeature_row(context: Context, names: Sequence[str], logged: Sequence[bool]) -> np.ndarray:
    values = [context.metafeatures.get(name, np.nan) for name in names]
    return np.array(
        [np.log1p(max(value, 0.0)) if log else value for value, log in zip(values, logged, strict=True)],
        dtype=np.float64,
    )
