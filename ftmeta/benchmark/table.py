"""What a replay looks up: every candidate's curve and costs on one task, as they were measured.

In: a meta-dataset. Out: a `Table` a task and base model. The rules, which docs/benchmark.md states too:

- a pipeline that ran with several seeds is there with the run of the smallest seed (of the smallest run id, for equal
  seeds);
- a run that diverged, stopped, crashed or ran out of memory ends where it broke off; who asks for more learns that and
  pays what the run had cost by then. If any run diverged, the worst score of the table is 0: the base model;
- a missing score below the last one known was not finite, and counts as 0;
- where there are no test scores at all, validation scores stand in, and the table says so;
- costs that are not known take the candidate's share of the full run's mean cost; without any cost in the whole table a
  full run costs 1;
- a task is left out if fewer than `MIN_CANDIDATES` of its pipelines have scores, or if all of them score the same.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.metadataset import MetaDataset
from ftmeta.schema import Pipeline
from ftmeta.surrogates.features import Context

if TYPE_CHECKING:
    import pandas as pd

MIN_CANDIDATES = 3


@dataclass(frozen=True)
class Table:
    task: str
    base_model: str
    context: Context
    candidates: tuple[Pipeline, ...]
    validation_NT: np.ndarray  # scores in [0, 1] at fidelities 1..T; NaN beyond the end of a run
    test_NT: np.ndarray
    cost_NT: np.ndarray  # cumulative device-seconds at fidelities 0..T: T + 1 columns, ascending, never NaN
    has_test: bool
    diverged: bool  # any of the runs

    @property
    def end_N(self) -> np.ndarray:
        """The last fidelity each candidate reaches."""
        return np.isfinite(self.validation_NT).sum(axis=1)

    @property
    def test_range(self) -> tuple[float, float]:
        """The worst and the best test score in the whole table."""
        return 0.0 if self.diverged else float(np.nanmin(self.test_NT)), float(np.nanmax(self.test_NT))

    @property
    def total_cost_s(self) -> float:
        """Of running every candidate to its end."""
        return float(self.cost_NT[:, -1].sum())


def tables_of(meta: MetaDataset, only: tuple[str, str] | None = None) -> tuple[list[Table], list[str]]:
    """The tables, by task and base model, and what was left out, in words. `only`: of one task and base model."""
    pipelines, metafeatures, shapes = meta.pipelines(), meta.metafeatures(), meta.shapes
    T = meta.budget.max_fidelity
    found, left_out = [], []
    for key, runs in meta.runs.groupby(["task", "base_model"], sort=True):
        task, base_model = map(str, key)
        if only not in (None, (task, base_model)):
            continue
        runs = runs.sort_values(["seed", "run_id"], na_position="first")
        first: dict[str, str] = {}
        for run_id in runs["run_id"]:
            first.setdefault(pipelines[run_id].id, run_id)
        ids = sorted(first.values(), key=lambda run_id: pipelines[run_id].id)
        rows = runs.set_index("run_id").loc[ids]
        diverged_N = (rows["status"] == "diverged").to_numpy()
        validation, test, cost = _curves(meta.curves, ids, T)
        has_test = bool(np.isfinite(test).any())
        _fill_gaps(validation)
        test = np.where(np.isfinite(validation), np.nan_to_num(test), np.nan) if has_test else validation.copy()
        kept = np.isfinite(validation).any(axis=1) | diverged_N
        if np.isfinite(validation).any(axis=1).sum() < MIN_CANDIDATES:
            left_out.append(f"{task} with {base_model}: fewer than {MIN_CANDIDATES} pipelines with scores")
            continue
        if min(np.nanmax(scores) - np.nanmin(scores) for scores in (validation, test)) < 1e-9:
            left_out.append(f"{task} with {base_model}: all scores are the same")
            continue
        end_N = np.isfinite(validation).sum(axis=1)
        context = Context(metafeatures.get((task, base_model), {}), shapes.get(base_model))
        candidates = tuple(pipelines[run_id] for run_id, keep in zip(ids, kept, strict=True) if keep)
        costs = _whole_costs(cost, end_N, rows["cost_s"].to_numpy(dtype=float))[kept]
        any_diverged = bool(diverged_N.any())
        parts = validation[kept], test[kept], costs
        found.append(Table(task, base_model, context, candidates, *parts, has_test, any_diverged))
    return found, left_out


def _curves(curves: pd.DataFrame, ids: list[str], T: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validation and test scores at fidelities 1..T and costs at 0..T; NaN where there is none."""
    row = {run_id: n for n, run_id in enumerate(ids)}
    curves = curves[curves["run_id"].isin(row) & curves["fidelity"].between(0, T)]
    at = curves["run_id"].map(row).to_numpy(), curves["fidelity"].to_numpy()
    parts = []
    for column in ("score", "test_score", "cost_s"):
        values = np.full((len(ids), T + 1), np.nan)
        values[at] = curves[column].to_numpy(dtype=float)
        parts.append(values)
    validation, test, cost = parts
    return np.clip(validation[:, 1:], 0.0, 1.0), np.clip(test[:, 1:], 0.0, 1.0), cost


def _fill_gaps(score_NT: np.ndarray) -> None:
    """In place: what is missing before the last score that is known was not finite, and counts as 0."""
    known_NT = np.isfinite(score_NT)
    later_NT = np.maximum.accumulate(known_NT[:, ::-1], axis=1)[:, ::-1]
    score_NT[~known_NT & later_NT] = 0.0


def _whole_costs(cost_NT: np.ndarray, end_N: np.ndarray, total_N: np.ndarray) -> np.ndarray:
    """Ascending and without NaN. A run that broke off costs `total_N` beyond its end."""
    T = cost_NT.shape[1] - 1
    whole = cost_NT[np.isfinite(cost_NT[:, -1]), -1]
    full_s = float(whole.mean()) if len(whole) and whole.mean() > 0 else 1.0
    share_T = np.arange(T + 1) / T * full_s
    costs = cost_NT.copy()
    for row_T, end, total_s in zip(costs, end_N, total_N, strict=True):
        known = np.flatnonzero(np.isfinite(row_T[: end + 1]))
        if len(known) > (known[:1] == 0).sum():  # more than what the evaluation before training cost
            at = known if known[0] == 0 else np.array([0, *known])
            row_T[: end + 1] = np.interp(np.arange(end + 1), at, np.where(at > 0, row_T[at], np.nan_to_num(row_T[at])))
        else:
            row_T[: end + 1] = share_T[: end + 1]
        row_T[end + 1 :] = max(total_s, row_T[end]) if np.isfinite(total_s) else row_T[end]
    return np.maximum.accumulate(costs, axis=1)
