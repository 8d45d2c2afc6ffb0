"""All runs of an experiment, ten thousand in a second: what `ftmeta costs` and `ftmeta report` start from.

In: an experiment. Out: its finetuning runs, its parent runs, and how many runs of others it has. Runs of a parent that
has ended, and of a sweep's chunks that are full, come from tables (table.py); all others are asked for page by page.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError, UserError
from ftmeta.tracking.scheme import (
    CHUNK,
    CHUNK_STATE,
    CHUNK_TABLES,
    CLOSED,
    COST,
    COST_USD,
    ENERGY,
    EXPERIMENTS,
    RUN,
    TABLE,
    TABLE_TAG,
)
from ftmeta.tracking.store import Store, first_line, is_remote, new_client, quoted, search, shown
from ftmeta.tracking.table import RunInMlflow, from_json, is_run

_AS_TABLES = 50  # parents whose runs are left out of a search; a longer filter than that is no faster


@dataclass(frozen=True)
class Parent:
    """A sweep, tuning, meta-training or benchmark."""

    mlflow_id: str
    kind: str
    name: str
    status: str
    started_ms: int
    base_model: str
    task: str
    cost_s: float | None
    cost_usd: float | None
    energy_j: float | None
    params: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Experiment:
    name: str
    experiment_id: str
    runs: tuple[RunInMlflow, ...]
    parents: tuple[Parent, ...]
    foreign: int  # runs of others


def open_for_reading(uri: str) -> Any:
    """MLflow's client. Raises UserError for a database file that is not there."""
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).is_file():  # MLflow would make an empty one
        raise UserError(f"{uri} is not there; name the database file with --tracking-uri")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # folders of older versions can still be read
    return new_client(uri)


def read_experiments(uri: str, names: list[str] | None = None) -> list[Experiment]:
    """Those named, or all that ftmeta makes. Raises UserError for one that is not there, and FtmetaError when MLflow
    does not answer as it should."""
    client = open_for_reading(uri)
    try:
        found = {name: client.get_experiment_by_name(name) for name in (names or EXPERIMENTS)}
        missing = [name for name in names or () if found[name] is None]
        if not missing:
            return [
                _read(Store(client, one.experiment_id, lambda cost_s, device: None, is_remote=is_remote(uri)), name)
                for name, one in found.items()
                if one is not None
            ]
        known = ", ".join(one.name for one in client.search_experiments(max_results=20))
    except Exception as error:
        raise FtmetaError(f"MLflow at {shown(uri)} does not answer as it should: {first_line(error)}") from None
    raise UserError(f"MLflow at {shown(uri)} has no experiment '{missing[0]}'; it has {known}")


def _read(store: Store, name: str) -> Experiment:
    parents, runs, foreign = _all(store)
    by_id: dict[str, RunInMlflow] = {run.mlflow_id: run for run in runs}  # a run may be written while this reads
    energy_j = {parent.mlflow_id: parent.energy_j for parent in parents if parent.energy_j is not None}
    shared = _shared_out(list(by_id.values()), energy_j)
    return Experiment(name, store.experiment_id, tuple(shared), tuple(parents), foreign)


def _all(store: Store) -> tuple[list[Parent], list[RunInMlflow], int]:
    from mlflow.exceptions import MlflowException

    try:
        others = list(search(store, "tags.kind IS NULL"))
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        everything = list(search(store, ""))  # servers that do not know IS NULL
        ours = [RunInMlflow.of(run) for run in everything if is_run(run)]
        made = [_parent(run) for run in everything if "kind" in run.data.tags and not is_run(run)]
        return made, ours, len(everything) - len(ours) - len(made)
    runs: list[RunInMlflow] = []
    parents: list[Parent] = []
    read: list[str] = []
    for run in search(store, f"tags.kind != '{RUN}'"):
        parents.append(_parent(run))
        table = (_table(store, run) or _chunks(store, run)) if len(read) < _AS_TABLES else None
        if table is not None:
            runs += table
            read.append(run.info.run_id)
    elsewhere = "".join(f" and tags.mlflow.parentRunId != {quoted(parent_id)}" for parent_id in read)
    runs += map(RunInMlflow.of, search(store, f"tags.kind = '{RUN}' and tags.mlflow.parentRunId IS NULL"))
    if read:
        runs += map(RunInMlflow.of, search(store, f"tags.kind = '{RUN}'{elsewhere}"))
    else:
        runs += map(RunInMlflow.of, search(store, f"tags.kind = '{RUN}' and tags.mlflow.parentRunId IS NOT NULL"))
    return parents, runs, len(others)


def _table(store: Store, parent: Any) -> list[RunInMlflow] | None:
    """None: the parent is under way, or has none that can be read."""
    if parent.info.status in ("RUNNING", "SCHEDULED") or TABLE_TAG not in parent.data.tags:
        return None
    return _downloaded(store, parent, TABLE)


def _chunks(store: Store, parent: Any) -> list[RunInMlflow] | None:
    """The runs of a sweep under way, or whose driver was killed; None: it has no chunks, as those of older versions."""
    states = {name: state for name, state in parent.data.tags.items() if name.startswith(CHUNK_STATE)}
    if not states:
        return None
    of_parent = f"tags.kind = '{RUN}' and tags.mlflow.parentRunId = {quoted(parent.info.run_id)}"
    found = list(map(RunInMlflow.of, search(store, f"{of_parent} and tags.{CHUNK} IS NULL")))
    for name, state in states.items():
        chunk = name.removeprefix(CHUNK_STATE)
        table = _downloaded(store, parent, f"{CHUNK_TABLES}/{chunk}.json") if state == CLOSED else None
        if table is None:
            table = list(map(RunInMlflow.of, search(store, f"{of_parent} and tags.{CHUNK} = {quoted(chunk)}")))
        found += table
    latest: dict[str, RunInMlflow] = {}  # one that failed and was made again is in two chunks
    for run in sorted(found, key=lambda run: run.started_ms):
        latest[run.run_id] = run
    return list(latest.values())


def _downloaded(store: Store, parent: Any, table: str) -> list[RunInMlflow] | None:
    with tempfile.TemporaryDirectory(prefix="ftmeta-runs-") as folder:
        try:
            file = store.client.download_artifacts(parent.info.run_id, table, folder)
            return from_json(Path(file).read_text(encoding="utf-8"))
        except Exception:  # gone, or on a disk that this machine does not see
            return None


def _parent(run: Any) -> Parent:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    return Parent(
        mlflow_id=run.info.run_id,
        kind=tags["kind"],
        name=run.info.run_name,
        status=run.info.status,
        started_ms=run.info.start_time,
        base_model=params.get("base_model", "none"),
        task=params.get("task") or params.get("data") or "none",
        cost_s=metrics.get(COST),
        cost_usd=metrics.get(COST_USD),
        energy_j=metrics.get(ENERGY),
        params=dict(params),
        metrics=dict(metrics),
    )


def _shared_out(runs: list[RunInMlflow], energy_j: dict[str, float]) -> Iterator[RunInMlflow]:
    """Runs with their part of what their parent's machines used, by device-seconds: a meter reads a machine, not a
    run."""
    of_parent: dict[str, float] = {}
    for run in runs:
        if run.parent_id in energy_j:
            of_parent[run.parent_id] = of_parent.get(run.parent_id, 0.0) + (run.cost_s or 0.0)
    for run in runs:
        whole_s = of_parent.get(run.parent_id or "", 0.0)
        if run.energy_j is None and run.parent_id in energy_j and whole_s > 0:
            run = replace(run, energy_j=energy_j[run.parent_id] * (run.cost_s or 0.0) / whole_s)
        yield run


def best_curves(client: Any, runs: list[RunInMlflow]) -> dict[str, list[tuple[int, float]]]:
    """MLflow id -> (fidelity, validation score), in order: one request a run, so for a few runs."""
    found = {}
    for run in runs:
        history = client.get_metric_history(run.mlflow_id, "score")
        found[run.mlflow_id] = sorted({metric.step: metric.value for metric in history}.items())
    return found


def pipeline_of(client: Any, run: RunInMlflow) -> dict[str, str]:
    """The pipeline of a run as MLflow has it."""
    return {name: value for name, value in client.get_run(run.mlflow_id).data.params.items() if name != "seed"}
