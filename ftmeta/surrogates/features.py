"""What the surrogates see of a run before it starts: its pipeline, and what task and base model make of it.

In: pipelines of one search space, a task's meta-features, a base model's shape. Out: standardised columns

  pipeline    as `Space.encode` gives it
  dynamics    what LoRA training depends on through several hyperparameters at once, where the space has their names:
              log of the step size lr * alpha / r (alpha / sqrt(r) for rsLoRA), optimizer steps, the sum of all step
              sizes, the step size against the gradient noise of the batch, tokens, the share of trainable weights
  task        the meta-features, log1p of those that are counts; left out where the source tasks are few

Columns are standardised with the training runs' mean and deviation, kept with the model, and clipped to the range seen
there: a network is not asked about places it has never been. A feature that is unknown becomes the training mean.

Array legend: N pipelines, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ftmeta.costs import TokenStatistics, has_analytic_cost, trainable_share
from ftmeta.schema import Budget, ModelShape, Pipeline
from ftmeta.space import Space

_COUNT_ABOVE = 10.0  # a meta-feature that is never negative and exceeds this is taken for a count
_LEARNING_RATES = ("lr_multiplier", "learning_rate", "lr")


@dataclass(frozen=True)
class Context:
    """A task with a base model, as far as they are known."""

    metafeatures: Mapping[str, float] = field(default_factory=dict)
    shape: ModelShape | None = None


@dataclass(frozen=True)
class FeatureMap:
    """Raw columns to standardised ones. Made by `fit`, kept as JSON."""

    space: Space
    budget: Budget
    task_features: tuple[str, ...]  # meta-features in use
    counts: tuple[str, ...]  # those of them that get log1p
    mean_F: np.ndarray
    deviation_F: np.ndarray
    low_F: np.ndarray  # the range seen in training, standardised
    high_F: np.ndarray

    @property
    def size(self) -> int:
        return len(self.mean_F)

    def transform(self, pipelines: Sequence[Pipeline], context: Context) -> np.ndarray:
        """X_NF, float32, in the training runs' standard deviations."""
        raw_NF = _raw(self.space, self.budget, pipelines, context, self.task_features, self.counts)
        return self._standardise(raw_NF)

    def _standardise(self, raw_NF: np.ndarray) -> np.ndarray:
        standard_NF = np.nan_to_num((raw_NF - self.mean_F) / self.deviation_F, nan=0.0)
        return np.clip(standard_NF, self.low_F, self.high_F).astype(np.float32)

    @classmethod
    def fit(
        cls, space: Space, budget: Budget, groups: Sequence[tuple[Sequence[Pipeline], Context]], *, use_task: bool
    ) -> tuple[FeatureMap, list[np.ndarray]]:
        """The map learned from runs grouped by (task, base model), and the features of each group.

        Columns that never vary are kept, as zeros: the pipelines asked about later may vary there, but nothing is
        known of what that does.
        """
        tasks = [context.metafeatures for _, context in groups]
        names = sorted({name for metafeatures in tasks for name in metafeatures}) if use_task else []
        values = {name: [mf[name] for mf in tasks if name in mf] for name in names}
        names = [name for name in names if len(set(values[name])) > 1]
        counts = [name for name in names if min(values[name]) >= 0 and max(values[name]) > _COUNT_ABOVE]
        raw = [_raw(space, budget, pipelines, context, names, counts) for pipelines, context in groups]
        stacked_NF = np.concatenate(raw)
        known_NF = np.isfinite(stacked_NF)
        n_F = np.maximum(known_NF.sum(axis=0), 1)
        mean_F = np.where(known_NF, stacked_NF, 0.0).sum(axis=0) / n_F
        variance_F = np.where(known_NF, (stacked_NF - mean_F) ** 2, 0.0).sum(axis=0) / n_F
        deviation_F = np.where(variance_F > 1e-12, np.sqrt(variance_F), np.inf)  # / inf: a constant column is 0
        standard_NF = np.where(known_NF, (stacked_NF - mean_F) / deviation_F, 0.0)
        fitted = cls(
            space,
            budget,
            tuple(names),
            tuple(counts),
            mean_F,
            deviation_F,
            standard_NF.min(axis=0),
            standard_NF.max(axis=0),
        )
        return fitted, [fitted._standardise(part) for part in raw]


def _raw(
    space: Space,
    budget: Budget,
    pipelines: Sequence[Pipeline],
    context: Context,
    task_features: Sequence[str],
    counts: Sequence[str],
) -> np.ndarray:
    encoded_NF, _ = space.encode(pipelines)
    dynamics_NF = _dynamics(space, budget, pipelines, context)
    values = [context.metafeatures.get(name, math.nan) for name in task_features]
    task = [
        math.log1p(max(value, 0.0)) if name in counts else float(value)
        for name, value in zip(task_features, values, strict=True)
    ]
    task_NF = np.tile(np.array(task, dtype=np.float64), (len(pipelines), 1))
    return np.concatenate([encoded_NF.astype(np.float64), dynamics_NF, task_NF], axis=1)


def _dynamics(space: Space, budget: Budget, pipelines: Sequence[Pipeline], context: Context) -> np.ndarray:
    """Natural logarithms; NaN where task or base model do not say. The same columns for every pipeline of a space."""
    N = len(pipelines)
    columns: list[np.ndarray] = []
    tokens = TokenStatistics.of(context.metafeatures)
    rate = next((name for name in _LEARNING_RATES if name in space.hyperparameters), None)
    step_size_N = np.full(N, math.nan)
    if rate is not None:
        rate_N = np.array([pipeline[rate] for pipeline in pipelines], dtype=np.float64)
        step_size_N = np.log(np.maximum(rate_N, 1e-12)) + _log_scaling(pipelines)
        columns.append(step_size_N)
    if "batch_size" in space.hyperparameters:
        batch_N = np.array([pipeline["batch_size"] for pipeline in pipelines], dtype=np.float64)
        examples = math.nan
        if tokens is not None:
            examples = min(tokens.train_examples, budget.max_train_examples or math.inf) * budget.epochs
        steps_N = np.log(np.maximum(examples / batch_N, 1.0))  # NaN stays NaN
        columns += [steps_N, step_size_N + steps_N, step_size_N - 0.5 * np.log(batch_N)]
        seen = math.nan if tokens is None else math.log(examples * (tokens.prompt_tokens + tokens.answer_tokens))
        columns.append(np.full(N, seen))
    if has_analytic_cost(space.hyperparameters):
        columns.append(
            np.full(N, math.nan) if context.shape is None else np.log(trainable_share(context.shape, pipelines))
        )
    return np.stack(columns, axis=1) if columns else np.zeros((N, 0))


def _log_scaling(pipelines: Sequence[Pipeline]) -> np.ndarray:
    """log of the factor on the adapter's output: alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023)."""

    def numbers(name: str) -> np.ndarray:
        """NaN where inactive."""
        return np.array([pipeline.get(name) for pipeline in pipelines], dtype=np.float64)

    rslora_N = np.array([pipeline.get("peft_method") == "rslora" for pipeline in pipelines], dtype=bool)
    log_rank_N = np.log(numbers("lora_rank"))
    return np.nan_to_num(np.log(numbers("alpha_per_rank")) + np.where(rslora_N, 0.5 * log_rank_N, 0.0 * log_rank_N))
