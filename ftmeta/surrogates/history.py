"""A meta-dataset as arrays: one `Group` of runs a task and base model, with the rule for runs that failed.

The rules:
- a diverged run scores 0 from where it broke off to the end: whoever picks it keeps the base model;
- a stopped, crashed or out-of-memory run counts as far as it came, and tells nothing of what would have followed;
- a score that is missing at a fidelity a run has passed was not finite, and counts as 0;
- a run without a score after fidelity 0 and not diverged is left out, and so is a group of fewer than `MIN_RUNS`
  runs or in which all runs score the same: nothing can be learned from it about pipelines;
- costs are those of the hardware that most runs were made on; on other hardware they are not known.

Array legend: N runs of a group, T fidelities.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ftmeta.errors import MetaDatasetError
from ftmeta.hardware import HardwareProfile
from ftmeta.metadataset import MetaDataset
from ftmeta.schema import Pipeline
from ftmeta.surrogates.features import Context

MIN_RUNS = 3


@dataclass(frozen=True)
class Group:
    """The runs of one task with one base model."""

    task: str
    base_model: str
    context: Context
    run_ids: tuple[str, ...]
    pipelines: tuple[Pipeline, ...]
    score_NT: np.ndarray  # NaN where it is not known
    cost_NT: np.ndarray  # cumulative device-seconds at fidelities 0..T (T + 1 columns); NaN where they are not known

    @property
    def reached_N(self) -> np.ndarray:
        """The last fidelity of which the cost is known; 0 where none is."""
        known_NT = np.isfinite(self.cost_NT)
        last_N = self.cost_NT.shape[1] - 1 - known_NT[:, ::-1].argmax(axis=1)
        return np.where(known_NT.any(axis=1), last_N, 0)

    @property
    def cost_N(self) -> np.ndarray:
        """Cumulative device-seconds there; NaN where they are not known."""
        cost_N: np.ndarray = self.cost_NT[np.arange(len(self.cost_NT)), self.reached_N]
        return cost_N


def groups_of(meta: MetaDataset, exclude_tasks: tuple[str, ...] = ()) -> list[Group]:
    """Raises MetaDatasetError when an excluded task is not there, or nothing usable is left."""
    known = set(meta.runs["task"])
    strange = [task for task in exclude_tasks if task not in known]
    if strange:
        raise MetaDatasetError(
            f"task '{strange[0]}' is not in meta-dataset '{meta.name}'; it has {', '.join(sorted(known))}"
        )
    pipelines, metafeatures, shapes = meta.pipelines(), meta.metafeatures(), meta.shapes
    score_of, cost_of = _curves(meta)
    groups = []
    for key, runs in meta.runs.groupby(["task", "base_model"]):
        task, base_model = map(str, key)
        if task in exclude_tasks:
            continue
        kept, scores = [], []
        for run_id, status in zip(runs["run_id"], runs["status"], strict=True):
            score_T = score_of[run_id].copy()
            if status == "diverged":
                score_T[np.isnan(score_T)] = 0.0
            elif np.isfinite(score_T).any():
                last = int(np.flatnonzero(np.isfinite(score_T))[-1])
                score_T[:last] = np.nan_to_num(score_T[:last], nan=0.0)
            else:
                continue
            kept.append(run_id)
            scores.append(score_T)
        if len(kept) < MIN_RUNS or float(np.nanstd(np.array(scores))) < 1e-9:
            continue
        context = Context(metafeatures.get((task, base_model), {}), shapes.get(base_model))
        groups.append(
            Group(
                task,
                base_model,
                context,
                tuple(kept),
                tuple(pipelines[run_id] for run_id in kept),
                np.array(scores),
                np.array([cost_of[run_id] for run_id in kept]),
            )
        )
    if not groups:
        raise MetaDatasetError(
            f"meta-dataset '{meta.name}' has no task with at least {MIN_RUNS} scored runs whose scores differ; "
            "collect more runs"
        )
    return groups


def main_hardware(meta: MetaDataset) -> HardwareProfile | None:
    """The hardware that most runs were made on; None if it has no profile."""
    counted = Counter(meta.hardware.get(device) for device in meta.runs["device"])
    return counted.most_common(1)[0][0]


def _curves(meta: MetaDataset) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """run_id -> scores at fidelities 1..T, and run_id -> cumulative costs at fidelities 0..T; NaN where unknown."""
    T = meta.budget.max_fidelity
    ids = meta.runs["run_id"].tolist()
    row = {run_id: i for i, run_id in enumerate(ids)}
    score, cost = np.full((len(ids), T + 1), np.nan), np.full((len(ids), T + 1), np.nan)
    curves = meta.curves[meta.curves["fidelity"].between(0, T)]
    where = curves["run_id"].map(row)
    known = where.notna().to_numpy()
    at = where[known].astype(int).to_numpy(), curves["fidelity"][known].to_numpy()
    score[at] = np.clip(curves["score"][known].to_numpy(dtype=float), 0.0, 1.0)
    cost[at] = curves["cost_s"][known].to_numpy(dtype=float)
    hardware, profiles = main_hardware(meta), meta.hardware
    cost[[profiles.get(device) != hardware for device in meta.runs["device"]]] = np.nan
    return dict(zip(ids, score[:, 1:], strict=True)), dict(zip(ids, cost, strict=True))
