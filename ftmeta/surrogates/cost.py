"""The cost surrogate: device-seconds of a run up to each fidelity.

  cost(t) = analytic seconds(t) * exp(residual)

The analytic seconds come from counting the work (ftmeta/costs.py) on a hardware profile; a `TransferGP` learns from
real runs the logarithm of what counting misses: kernels that are slower than others, padding, the interpreter. Spaces
without the hyperparameters that counting needs get cost(t) = t / T * exp(residual). Costs are cumulative; the cost of
the next fidelity is a difference of two of them.

Array legend: N pipelines, T fidelities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftmeta.costs import TOKEN_METAFEATURES, TokenStatistics, analytic_seconds, has_analytic_cost
from ftmeta.errors import DataError, MetaDatasetError, UserError
from ftmeta.hardware import HardwareProfile
from ftmeta.schema import Budget, Pipeline
from ftmeta.space import Space
from ftmeta.surrogates import gp
from ftmeta.surrogates.features import Context, FeatureMap
from ftmeta.surrogates.history import Group

MAX_RUNS = 800  # that the process keeps: a random part of more, for what is left to learn here is simple


@dataclass(frozen=True)
class CostSurrogate:
    features: FeatureMap
    process: gp.TransferGP  # one output: log(real / analytic)
    analytic: bool  # False: the source tasks' runs do not say enough to count work

    def predict(self, pipelines: Sequence[Pipeline], context: Context, hardware: HardwareProfile | None) -> np.ndarray:
        """Cumulative device-seconds at fidelities 0..T: cost_NT, of T + 1 columns."""
        budget, space = self.features.budget, self.features.space
        if self.analytic and (hardware is None or context.shape is None):
            raise UserError("the cost of a run needs the base model's shape and a hardware profile; give both")
        if self.analytic and TokenStatistics.of(context.metafeatures) is None:
            absent = [name for name in TOKEN_METAFEATURES if name not in context.metafeatures]
            raise DataError(
                f"meta-feature '{absent[0]}' is missing; the cost of a run needs {', '.join(TOKEN_METAFEATURES)}"
            )
        base_NT = _base(space, budget, pipelines, context, hardware if self.analytic else None)
        residual_N1 = self.process.predict(self.features.transform(pipelines, context).astype(np.float64))
        return base_NT * np.exp(residual_N1)


def fit_cost(
    space: Space,
    budget: Budget,
    groups: Sequence[Group],
    hardware: HardwareProfile | None,
    *,
    seed: int,
    start: CostSurrogate | None = None,
) -> CostSurrogate:
    """Learned from the runs whose cost is known. `start`: learned from nearly the same. Raises MetaDatasetError if no
    cost is known."""
    analytic = (
        hardware is not None
        and has_analytic_cost(space.hyperparameters)
        and all(
            group.context.shape is not None and TokenStatistics.of(group.context.metafeatures) is not None
            for group in groups
        )
    )
    features, X = FeatureMap.fit(space, budget, [(group.pipelines, group.context) for group in groups], use_task=False)
    X_NF = np.concatenate(X)
    cost_N = np.concatenate([group.cost_N for group in groups])
    reached_N = np.concatenate([group.reached_N for group in groups])
    group_N = np.repeat(np.arange(len(groups)), [len(group.pipelines) for group in groups])
    base_NT = np.concatenate(
        [_base(space, budget, g.pipelines, g.context, hardware if analytic else None) for g in groups]
    )
    base_N = base_NT[np.arange(len(base_NT)), reached_N]
    known = np.flatnonzero(np.isfinite(cost_N) & (cost_N > 0) & (base_N > 0))
    known = np.sort(np.random.default_rng(seed).permutation(known)[:MAX_RUNS])
    if not len(known):
        raise MetaDatasetError("no run of the meta-dataset has a cost above 0; costs are needed to recommend")
    residual_N1 = np.log(cost_N[known] / base_N[known])[:, None]
    # A run that broke off early has a smaller sum of seconds, in which one slow moment weighs more.
    weight_N = budget.max_fidelity / np.maximum(reached_N[known], 1)
    at = None if start is None else start.process
    process = gp.fit(X_NF[known], residual_N1, group_N[known], weight_N, seed=seed, start=at)
    return CostSurrogate(features, process, analytic)


def _base(
    space: Space, budget: Budget, pipelines: Sequence[Pipeline], context: Context, hardware: HardwareProfile | None
) -> np.ndarray:
    T = budget.max_fidelity
    tokens = TokenStatistics.of(context.metafeatures)
    if hardware is None or context.shape is None or tokens is None:
        return np.tile(np.arange(T + 1) / T, (len(pipelines), 1))
    if not len(pipelines):
        return np.zeros((0, T + 1))
    return analytic_seconds(context.shape, pipelines, tokens, budget, hardware)
