"""The performance surrogate: what a pipeline will score on a task, at each fidelity, and how sure that is.

  score(pipeline, task, t) = location(task) + scale(task) * z(pipeline, task, t)

z is what transfers: within each source task, scores are put on one scale (0: the 10 % quantile of its final scores,
1: the 90 % quantile), and a `TransferGP` learns the curves. Location and scale belong to the task as a whole and are
learned apart, by ridge regression on meta-features where there are enough tasks to learn that from, and as the mean
over the source tasks otherwise; how far off that is when a task is left out becomes uncertainty.

Scores seen on the new task itself, if any, condition the prediction in closed form and nothing is fitted again.

Array legend: N pipelines, T fidelities, G groups (task and base model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftmeta.schema import Budget, Pipeline
from ftmeta.space import Space
from ftmeta.surrogates import gp
from ftmeta.surrogates.belief import Belief
from ftmeta.surrogates.features import Context, FeatureMap
from ftmeta.surrogates.history import Group

# Below this number of tasks, what meta-features seem to say about pipelines is chance (learning dynamics, which also
# vary within a task, are always used).
MIN_TASKS_FOR_METAFEATURES = 8
MIN_TASKS_FOR_SCALES = 5
_RIDGES = (1.0, 10.0, 100.0, np.inf)  # inf: the mean over the source tasks
_PRIOR_SPREAD, _PRIOR_TASKS = 0.5, 2  # a task's location and scale differ by half of the mean one


@dataclass(frozen=True)
class Observation:
    """A score that was seen on the new task."""

    pipeline: Pipeline
    fidelity: int  # 1..T
    score: float


@dataclass(frozen=True)
class TaskScale:
    """Location and scale of a task's scores, by ridge regression on its meta-features."""

    features: FeatureMap | None  # None: the mean over the source tasks
    mean_2: np.ndarray  # of (location, scale) over the source tasks
    weight_F2: np.ndarray
    variance_2: np.ndarray  # of the error on a task that was left out

    def predict(self, context: Context) -> np.ndarray:
        """(location, scale) of a task."""
        if self.features is None:
            return self.mean_2.copy()
        value_2 = self.mean_2 + _task_columns(self.features, context) @ self.weight_F2
        return np.array([np.clip(value_2[0], 0.0, 1.0), np.clip(value_2[1], 0.02, 1.0)])


@dataclass(frozen=True)
class PerformanceSurrogate:
    features: FeatureMap
    process: gp.TransferGP
    scale: TaskScale
    calibration_edges_2: np.ndarray  # of predicted z: three bands, each with a factor on the deviation
    calibration_factor_3: np.ndarray

    def predict(
        self, pipelines: Sequence[Pipeline], context: Context, observations: Sequence[Observation] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """mean_NT and deviation_NT of the score in [0, 1] at fidelities 1..T. The deviation is that of a single run."""
        if not observations:
            return self._before_anything_is_seen(pipelines, context)
        seen = {one.pipeline.id: one.pipeline for one in observations}
        pool = {pipeline.id: pipeline for pipeline in pipelines} | seen
        row = {key: n for n, key in enumerate(pool)}
        belief = self.belief(list(pool.values()), context)
        mean, variance = belief.given(
            np.array([row[one.pipeline.id] for one in observations], dtype=int),
            np.array([one.fidelity - 1 for one in observations], dtype=int),
            np.array([one.score for one in observations], dtype=float),
        )
        asked = [row[pipeline.id] for pipeline in pipelines]
        factor_NT = self.calibration(belief.z_NT[asked])
        return np.clip(mean[asked], 0.0, 1.0), np.sqrt(variance[asked]) * factor_NT

    def expected(self, pipelines: Sequence[Pipeline], context: Context) -> np.ndarray:
        """mean_NT of `predict` before anything is seen on the task."""
        location, scale = self.scale.predict(context)
        return np.clip(location + scale * self.predicted_z(pipelines, context), 0.0, 1.0)

    def _before_anything_is_seen(
        self, pipelines: Sequence[Pipeline], context: Context
    ) -> tuple[np.ndarray, np.ndarray]:
        X_NF = self.features.transform(pipelines, context).astype(np.float64)
        location, scale = self.scale.predict(context)
        z_NT = self.process.predict(X_NF)
        of_location, of_scale = self.scale.variance_2
        curve_T = np.maximum(np.diag(self.process.covariance_TT), 0.0)
        own_NT = (self.process.variance(X_NF) + self.process.noise)[:, None] * curve_T
        variance_NT = of_location + of_scale * z_NT**2 + scale**2 * own_NT
        return np.clip(location + scale * z_NT, 0.0, 1.0), np.sqrt(variance_NT) * self.calibration(z_NT)

    def belief(self, pipelines: Sequence[Pipeline], context: Context) -> Belief:
        """Of distinct pipelines on a new task, before anything is seen there."""
        X_NF = self.features.transform(pipelines, context).astype(np.float64)
        location, scale = self.scale.predict(context)
        z_NT = self.process.predict(X_NF)
        return Belief(
            mean_NT=location + scale * z_NT,
            z_NT=z_NT,
            scale=float(scale),
            of_location=float(self.scale.variance_2[0]),
            of_scale=float(self.scale.variance_2[1]),
            factor_NN=self.process.covariance(X_NF),
            noise=self.process.noise,
            covariance_TT=self.process.covariance_TT,
        )

    def predicted_z(self, pipelines: Sequence[Pipeline], context: Context) -> np.ndarray:
        """z_NT: the expected scores in units of a task's own scale, about 0 for poor and 1 for good pipelines."""
        return self.process.predict(self.features.transform(pipelines, context).astype(np.float64))

    def calibration(self, z_NT: np.ndarray) -> np.ndarray:
        """The factors on deviations where z_NT is predicted."""
        return self.calibration_factor_3[np.searchsorted(self.calibration_edges_2, z_NT)]


def fit_performance(
    space: Space, budget: Budget, groups: Sequence[Group], *, seed: int, start: PerformanceSurrogate | None = None
) -> PerformanceSurrogate:
    """Learned from `groups`, not calibrated yet (see quality.py). `start`: learned from nearly the same."""
    use_task = len({group.task for group in groups}) >= MIN_TASKS_FOR_METAFEATURES
    features, X = FeatureMap.fit(
        space, budget, [(group.pipelines, group.context) for group in groups], use_task=use_task
    )
    scales_G2 = np.array([location_and_scale(group) for group in groups])
    z, weights = [], []
    for group, (location, scale) in zip(groups, scales_G2, strict=True):
        completed_NT, weight_N = _completed((group.score_NT - location) / scale, -location / scale)
        z.append(completed_NT)
        weights.append(weight_N)
    group_N = np.repeat(np.arange(len(groups)), [len(part) for part in z])
    at = None if start is None else start.process
    process = gp.fit(np.concatenate(X), np.concatenate(z), group_N, np.concatenate(weights), seed=seed, start=at)
    scale_model = _fit_scale(space, budget, groups, scales_G2)
    return PerformanceSurrogate(features, process, scale_model, np.zeros(2), np.ones(3))


def location_and_scale(group: Group) -> tuple[float, float]:
    """The 10 % quantile of the scores at the last fidelity that is known, and the distance from it to the 90 % one."""
    last_N = np.array([row[np.isfinite(row)][-1] for row in group.score_NT])
    low, high = np.quantile(last_N, [0.1, 0.9])
    if high - low < 0.01:
        low, high = last_N.min(), last_N.max()
    return float(low), float(max(high - low, 0.01))


def _completed(z_NT: np.ndarray, zero: float) -> tuple[np.ndarray, np.ndarray]:
    """Curves that break off go on as the task's mean curve does; how much of one is guessed raises its noise.

    Only a curve's rise above the zero score is scaled: z - zero. weight_N = T / fidelities known.
    """
    known_NT = np.isfinite(z_NT)
    weight_N = z_NT.shape[1] / known_NT.sum(axis=1)
    if known_NT.all():
        return z_NT, weight_N
    whole = known_NT.all(axis=1)
    reference_NT = z_NT[whole] if whole.any() else np.where(known_NT, z_NT, np.nanmean(z_NT))
    rise_T = np.maximum(reference_NT.mean(axis=0) - zero, 1e-3)
    completed_NT = z_NT.copy()
    for i in np.flatnonzero(~whole):
        last = int(np.flatnonzero(known_NT[i])[-1])
        completed_NT[i, last + 1 :] = zero + (z_NT[i, last] - zero) * rise_T[last + 1 :] / rise_T[last]
    return completed_NT, weight_N


def _fit_scale(space: Space, budget: Budget, groups: Sequence[Group], scales_G2: np.ndarray) -> TaskScale:
    mean_2 = scales_G2.mean(axis=0)
    G = len(groups)
    # Of few tasks, the variance between them is mostly chance, and calibration by leaving one out would make up for
    # that with huge factors. So it starts from a prior worth two tasks (scaled inverse chi-squared: Gelman et al.,
    # Bayesian Data Analysis, section 2.6).
    squares_2 = ((scales_G2 - mean_2) ** 2).sum(axis=0)
    prior_2 = (_PRIOR_SPREAD * mean_2) ** 2
    variance_2 = (_PRIOR_TASKS * prior_2 + squares_2) / (_PRIOR_TASKS + G - 1) * (1 + 1 / G)
    constant = TaskScale(None, mean_2, np.zeros((0, 2)), variance_2)
    if len({group.task for group in groups}) < MIN_TASKS_FOR_SCALES:
        return constant
    features, _ = FeatureMap.fit(
        space, budget, [(group.pipelines[:1], group.context) for group in groups], use_task=True
    )
    if not features.task_features:
        return constant
    X_GF = np.stack([_task_columns(features, group.context) for group in groups])
    tasks = np.array([group.task for group in groups])
    errors = {ridge: _left_out_errors(X_GF, scales_G2, tasks, ridge) for ridge in _RIDGES}
    best = min(_RIDGES, key=lambda ridge: float((errors[ridge] ** 2 / np.maximum(scales_G2.var(axis=0), 1e-12)).sum()))
    if best == np.inf:
        return constant
    weight_F2 = _ridge(X_GF, scales_G2 - mean_2, best)
    return TaskScale(features, mean_2, weight_F2, (errors[best] ** 2).mean(axis=0))


def _left_out_errors(X_GF: np.ndarray, target_G2: np.ndarray, tasks: np.ndarray, ridge: float) -> np.ndarray:
    errors_G2 = np.empty_like(target_G2)
    for task in set(tasks):
        out, kept = tasks == task, tasks != task
        mean_2 = target_G2[kept].mean(axis=0)
        centre_F = X_GF[kept].mean(axis=0)
        weight_F2 = _ridge(X_GF[kept] - centre_F, target_G2[kept] - mean_2, ridge)
        errors_G2[out] = target_G2[out] - mean_2 - (X_GF[out] - centre_F) @ weight_F2
    return errors_G2


def _ridge(X_GF: np.ndarray, target_G2: np.ndarray, ridge: float) -> np.ndarray:
    if ridge == np.inf:
        return np.zeros((X_GF.shape[1], 2))
    return X_GF.T @ np.linalg.solve(X_GF @ X_GF.T + ridge * np.eye(len(X_GF)), target_G2)


def _task_columns(features: FeatureMap, context: Context) -> np.ndarray:
    """The standardised meta-features alone; they stand last."""
    anything = [features.space.default()]
    row_F: np.ndarray = features.transform(anything, context)[0].astype(np.float64)
    return row_F[len(row_F) - len(features.task_features) :]
