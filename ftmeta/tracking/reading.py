"""Runs of an MLflow experiment as the rows that an import starts from (ftmeta/metadataset/given.py).

In: an experiment. Out: a row of text for each run and each point of its curve. Runs that ftmeta has sent (tag `kind`)
are read as they were written, with their fidelities. Others are read by the names that the user gives: parameters that
are hyperparameters of the space, a metric as the score by step, a tag, parameter or logged dataset as the task. Where
they have no metric for the cost, it is the seconds that the run's clock shows: of each point since the run began, and
of the last one up to the run's end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ftmeta.metadataset.given import Rejected, Row
from ftmeta.schema import Budget
from ftmeta.space import Space
from ftmeta.tracking.scheme import CURVE_METRICS, GENERATION_METRICS, RUN_TAGS
from ftmeta.tracking.store import Store, search

_AT_ONCE = 8  # requests to a server
_STATUS = {"FINISHED": "ok", "FAILED": "error", "KILLED": "stopped"}

Metrics = Mapping[str, Mapping[int, tuple[float, float]]]  # name -> step -> (value, when in ms); the last one logged


@dataclass(frozen=True)
class Names:
    """What is what in runs that are not ftmeta's own."""

    score: str = "score"  # a metric; a minus in front turns its sign round, for a loss
    test_score: str = "test_score"  # the same
    cost: str = CURVE_METRICS["cost_s"]  # a metric: cumulative device-seconds; runs without it go by the clock
    task: str = "task"  # a tag or a parameter
    steps_per_fidelity: int = 1
    first_step: int = 1  # the step of a run that belongs to fidelity 1; smaller ones are before training

    @property
    def score_metric(self) -> str:
        return _signed(self.score)[0]


@dataclass
class Found:
    """An experiment's runs as rows, and what was noticed on the way."""

    runs: list[Row | Rejected] = field(default_factory=list)
    curves: list[Row | Rejected] = field(default_factory=list)
    budget: Budget | None = None  # of ftmeta's own runs
    cost_by_clock: int = 0  # runs
    metrics: Counter[str] = field(default_factory=Counter)  # what the runs have


def read_runs(store: Store, space: Space, names: Names) -> Found:
    """All runs of the experiment but the parents of sweeps."""
    everything = list(search(store, ""))
    budgets = {run.info.run_id: _budget(run.data.params) for run in everything if run.data.tags.get("kind") == "sweep"}
    parents = {run.data.tags.get("mlflow.parentRunId") for run in everything}
    runs = [run for run in everything if run.info.run_id not in budgets]
    own = [run for run in runs if _is_own(run)]
    counted = Counter(budget for run in own if (budget := budgets.get(_parent(run))) is not None)
    found = Found(budget=counted.most_common(1)[0][0] if counted else None)
    taken = []
    for run in runs:
        found.metrics.update(run.data.metrics.keys())
        is_group = run.info.run_id in parents and names.score_metric not in run.data.metrics
        if is_group and not _is_own(run):
            continue
        why = _unusable(run, names, found.budget, budgets.get(_parent(run)))
        if why is not None:
            found.runs.append(Rejected("runs", run.info.run_id, why))
            continue
        taken.append(run)
    max_fidelity = (found.budget or space.budget()).max_fidelity
    for run, metrics in zip(taken, _histories(store, taken, names), strict=True):
        _add(found, run, metrics, space, names, max_fidelity)
    return found


def _unusable(run: Any, names: Names, budget: Budget | None, own_budget: Budget | None) -> str | None:
    if run.info.status not in _STATUS:
        return f"is {run.info.status.lower()}; import it when it has ended"
    if own_budget not in (None, budget):
        return f"has another budget ({own_budget}) than most runs ({budget}), so they cannot be compared"
    if not _is_own(run) and run.info.status == "FINISHED" and names.score_metric not in run.data.metrics:
        has = ", ".join(sorted(run.data.metrics)[:10]) or "none"
        return f"has no metric '{names.score_metric}'; it has {has}"
    return None


def _add(found: Found, run: Any, metrics: Metrics, space: Space, names: Names, max_fidelity: int) -> None:
    if _is_own(run):
        found.runs.append(Row(run.info.run_id, _own_run(run, space, names)))
        found.curves += _own_curve(run, metrics, names)
        return
    found.runs.append(Row(run.info.run_id, _foreign_run(run, space, names)))
    found.curves += _foreign_curve(run, metrics, names, max_fidelity)
    found.cost_by_clock += names.cost not in metrics and names.score_metric in metrics


# --- runs that ftmeta has sent ----------------------------------------------------------------------------------------


def _is_own(run: Any) -> bool:
    return run.data.tags.get("kind") == "run" and "run_id" in run.data.tags


def _own_run(run: Any, space: Space, names: Names) -> dict[str, str]:
    tags, metrics = run.data.tags, run.data.metrics
    by_clock = {"started_at": _iso(run.info.start_time), "wall_s": _wall_s(run)}
    cells = {
        **(by_clock if "max_fidelity" not in tags else {}),  # older versions have sent fewer tags
        "seed": run.data.params.get("seed", ""),
        "libraries": tags.get("libraries", ""),
        **{name: tags[name] for name in RUN_TAGS if name in tags},
        "task": tags.get(names.task, ""),
        **_hyperparameters(run, space),
    }
    values = {column: metrics.get(metric) for column, metric in GENERATION_METRICS.items()}
    values["peak_memory_gb"] = metrics.get("peak_memory_gb")
    return {**cells, **{name: repr(value) for name, value in values.items() if value is not None}}


def _own_curve(run: Any, metrics: Metrics, names: Names) -> Iterator[Row]:
    columns = _own_columns(names)
    for step in sorted({step for metric, _ in columns.values() for step in metrics.get(metric, {})}):
        values = {
            column: sign * metrics[metric][step][0]
            for column, (metric, sign) in columns.items()
            if step in metrics.get(metric, {})
        }
        cells = {name: repr(value) for name, value in values.items()}
        yield Row(_place(run, step), {"run_id": run.data.tags["run_id"], "fidelity": str(step), **cells})


def _own_columns(names: Names) -> dict[str, tuple[str, float]]:
    """Column of curves.parquet -> metric and sign."""
    as_sent = {column: (metric, 1.0) for column, metric in CURVE_METRICS.items()}
    return {
        **as_sent,
        "score": _signed(names.score),
        "test_score": _signed(names.test_score),
        "cost_s": (names.cost, 1.0),
    }


# --- runs of others ---------------------------------------------------------------------------------------------------


def _foreign_run(run: Any, space: Space, names: Names) -> dict[str, str]:
    said = {**run.data.params, **run.data.tags}
    datasets = [one.dataset.name for one in (run.inputs.dataset_inputs if run.inputs else [])]
    return {
        "run_id": run.info.run_id,
        "task": said.get(names.task) or next(iter(datasets), ""),
        "status": _STATUS[run.info.status],
        **{name: said.get(name, "") for name in ("base_model", "seed", "device")},
        **{name: value for name, value in said.items() if name.startswith("mf_")},
        "started_at": _iso(run.info.start_time),
        "wall_s": _wall_s(run),
        **_hyperparameters(run, space),
    }


def _foreign_curve(run: Any, metrics: Metrics, names: Names, max_fidelity: int) -> Iterator[Row | Rejected]:
    """The last score of each fidelity; a score that was logged once and without a step is that of the whole run."""
    (score, sign), (test_score, test_sign) = _signed(names.score), _signed(names.test_score)
    scores = metrics.get(score, {})
    is_whole = set(scores) == {0} and names.first_step == 1 and run.info.status == "FINISHED"

    def fidelity_of(step: int) -> int:
        return max_fidelity if is_whole else math.ceil((step - names.first_step + 1) / names.steps_per_fidelity)

    def up_to(fidelity: int, metric: str) -> list[tuple[int, float]]:
        """(fidelity, value), in order."""
        logged = sorted(metrics.get(metric, {}).items())
        return [(fidelity_of(step), value) for step, (value, _) in logged if fidelity_of(step) <= fidelity]

    step_of = {fidelity_of(step): step for step in sorted(scores)}
    beyond = [step for fidelity, step in step_of.items() if fidelity > max_fidelity]
    if beyond:
        steps = f"step {beyond[0]}" if len(beyond) == 1 else f"steps {beyond[0]} to {beyond[-1]}"
        why = f"{len(beyond)} scores lie beyond fidelity {max_fidelity}; --steps-per-fidelity says what a step is"
        yield Rejected("curves", f"{run.info.run_id} {steps}", why)
    for fidelity, step in step_of.items():
        if fidelity > max_fidelity:
            continue
        place, (value, when_ms) = _place(run, step), scores[step]
        if not math.isfinite(value):
            yield Rejected("curves", place, f"score is {value}; a score is a finite number")
            continue
        cells = {"run_id": run.info.run_id, "fidelity": str(fidelity), "score": repr(sign * value)}
        paid, tested = up_to(fidelity, names.cost), up_to(fidelity, test_score)
        if names.cost not in metrics:
            is_last = fidelity == max(step_of) and run.info.end_time is not None
            until_ms = run.info.end_time if is_last else when_ms
            cells["cost_s"] = repr(max(0.0, (until_ms - run.info.start_time) / 1000))
        elif paid:
            cells["cost_s"] = repr(paid[-1][1])
        if tested and tested[-1][0] == fidelity:
            cells["test_score"] = repr(test_sign * tested[-1][1])
        yield Row(place, cells)


# --- both -------------------------------------------------------------------------------------------------------------


def _hyperparameters(run: Any, space: Space) -> dict[str, str]:
    params = run.data.params
    return {f"p_{name}": params[name] for name in space.hyperparameters if name in params}


def _signed(name: str) -> tuple[str, float]:
    return (name[1:], -1.0) if name.startswith("-") else (name, 1.0)


def _wall_s(run: Any) -> str:
    return "" if run.info.end_time is None else repr((run.info.end_time - run.info.start_time) / 1000)


def _histories(store: Store, runs: Sequence[Any], names: Names) -> Iterator[Metrics]:
    """What each run has logged of the metrics that are wanted. A server is asked for several at a time."""
    of_own = {metric for metric, _ in _own_columns(names).values()}
    of_others = {names.score_metric, _signed(names.test_score)[0], names.cost}

    def history(run: Any) -> Metrics:
        found: dict[str, dict[int, tuple[float, float]]] = {}
        for name in sorted((of_own if _is_own(run) else of_others) & run.data.metrics.keys()):
            logged = store.client.get_metric_history(run.info.run_id, name)
            ordered = sorted(logged, key=lambda metric: metric.timestamp)
            found[name] = {metric.step: (metric.value, metric.timestamp) for metric in ordered}
        return found

    if not store.is_remote:
        yield from map(history, runs)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(history, runs)


def _budget(params: Mapping[str, str]) -> Budget | None:
    """What the parent run of a sweep says; None where it does not."""
    try:
        most = params["budget.max_train_examples"]
        return Budget(
            epochs=float(params["budget.epochs"]),
            max_fidelity=int(params["budget.max_fidelity"]),
            max_train_examples=None if most == "None" else int(most),
            eval_examples=int(params["budget.eval_examples"]),
        )
    except (KeyError, ValueError):
        return None


def _parent(run: Any) -> str:
    return str(run.data.tags.get("mlflow.parentRunId", ""))


def _place(run: Any, step: int) -> str:
    return f"{run.info.run_id} step {step}"


def _iso(when_ms: int) -> str:
    return datetime.fromtimestamp(when_ms / 1000, UTC).isoformat()
