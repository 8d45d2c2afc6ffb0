"""`ftmeta costs`: what was spent, by task, pipeline, base model, month, experiment or device.

In: the experiments of an MLflow. Out: device-seconds, money and, where devices report it, energy, each as it was
written when the run ended: later prices change nothing. What a tuning, a meta-training or a benchmark took
beside its runs is a row of its own (`beside runs`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ftmeta.costs import CURRENCY
from ftmeta.tracking.rows import Experiment, Parent, read_experiments
from ftmeta.tracking.table import RunInMlflow

BESIDE = "beside runs"
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Spent:
    """One thing that was paid for. None: not known."""

    experiment: str
    month: str  # 2026-11, in UTC, of the day that it began
    task: str
    pipeline: str
    base_model: str
    device: str
    cost_s: float | None
    cost_usd: float | None
    energy_j: float | None
    is_run: bool = True


BY: dict[str, Callable[[Spent], str]] = {
    "task": lambda one: one.task,
    "pipeline": lambda one: one.pipeline,
    "base_model": lambda one: one.base_model,
    "month": lambda one: one.month,
    "experiment": lambda one: one.experiment,
    "device": lambda one: one.device,
}


def costs(uri: str, by: str = "task", experiments: list[str] | None = None) -> dict[str, Any]:
    """The document of `ftmeta costs --json`; `by` is one of BY. Raises as `read_experiments`."""
    found = read_experiments(uri, experiments)
    spent = all_spent(found)
    groups: dict[str, list[Spent]] = {}
    for one in spent:
        groups.setdefault(BY[by](one), []).append(one)
    rows = [{by: name, **_sums(group)} for name, group in groups.items()]
    rows.sort(key=lambda row: row[by] if by == "month" else (-(row["cost_s"] or 0.0), row[by]))
    return {
        "by": by,
        "currency": CURRENCY,
        "rows": rows,
        "total": _sums(spent),
        "predicted": predicted(run for one in found for run in one.runs),
        "experiments": [one.name for one in found],
        "foreign_runs": sum(one.foreign for one in found),
    }


def all_spent(experiments: Sequence[Experiment]) -> list[Spent]:
    """Every run once: one that was sent to two experiments was paid for once."""
    seen: set[tuple[str, int]] = set()
    found = []
    for experiment in experiments:
        for run in experiment.runs:
            if (run.run_id, run.started_ms) not in seen:
                seen.add((run.run_id, run.started_ms))
                found.append(_of_run(experiment.name, run))
        found += _beside(experiment)
    return found


def predicted(runs: Iterable[RunInMlflow]) -> dict[str, Any] | None:
    """Predicted against actual device-seconds of runs that a selector recommended and that came to their end; None:
    there are none."""
    pairs = [(run.predicted_cost_s, run.cost_s) for run in runs if run.status == "ok"]
    known = [(expected, cost) for expected, cost in pairs if expected is not None and cost is not None and cost > 0]
    if not known:
        return None
    return {
        "runs": len(known),
        "predicted_s": sum(expected for expected, _ in known),
        "cost_s": sum(cost for _, cost in known),
        "median_relative_error": statistics.median(abs(expected - cost) / cost for expected, cost in known),
    }


def month_of(started_ms: int) -> str:
    return datetime.fromtimestamp(started_ms / 1000, UTC).strftime("%Y-%m")


def _of_run(experiment: str, run: RunInMlflow) -> Spent:
    return Spent(
        experiment=experiment,
        month=month_of(run.started_ms),
        task=run.task,
        pipeline=run.pipeline,
        base_model=run.base_model,
        device=run.device or "unknown",
        cost_s=run.cost_s,
        cost_usd=run.cost_usd,
        energy_j=run.energy_j,
    )


def _beside(experiment: Experiment) -> Iterable[Spent]:
    """What parent runs have cost more than their runs together."""
    of_runs: dict[str | None, tuple[float, float]] = {}
    for run in experiment.runs:
        cost_s, cost_usd = of_runs.get(run.parent_id, (0.0, 0.0))
        of_runs[run.parent_id] = cost_s + (run.cost_s or 0.0), cost_usd + (run.cost_usd or 0.0)
    for parent in experiment.parents:
        paid_s, paid_usd = of_runs.get(parent.mlflow_id, (0.0, 0.0))
        more_s = (parent.cost_s or 0.0) - paid_s
        if more_s > 1e-6 * max(paid_s, 1.0):  # more than rounding
            yield _of_parent(experiment.name, parent, more_s, _less(parent.cost_usd, paid_usd), not paid_s)


def _of_parent(experiment: str, parent: Parent, cost_s: float, cost_usd: float | None, has_all_energy: bool) -> Spent:
    return Spent(
        experiment=experiment,
        month=month_of(parent.started_ms),
        task=parent.task,
        pipeline=BESIDE,
        base_model=parent.base_model,
        device=BESIDE,
        cost_s=cost_s,
        cost_usd=cost_usd,
        energy_j=parent.energy_j if has_all_energy else None,
        is_run=False,
    )


def _less(whole: float | None, part: float) -> float | None:
    return None if whole is None else max(whole - part, 0.0)


def _sums(spent: Sequence[Spent]) -> dict[str, Any]:
    energies = [one.energy_j for one in spent if one.energy_j is not None]
    priced = [one.cost_usd for one in spent if one.cost_usd is not None]
    timed = [one.cost_s for one in spent if one.cost_s is not None]
    return {
        "runs": sum(one.is_run for one in spent),
        "cost_s": sum(timed) if timed else None,
        "cost_usd": sum(priced) if priced else None,
        "unpriced": sum(one.cost_usd is None and one.is_run for one in spent),
        "energy_kwh": sum(energies) / JOULES_PER_KWH if energies else None,
    }
