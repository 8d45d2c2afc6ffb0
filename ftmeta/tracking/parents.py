"""The parent run of a sweep, a tuning, a meta-training or a benchmark: made or found again, its totals, its tables.

In: what the work is of. Out: a run whose children are the work's runs. Its tables (table.py) are kept here, and read in
rows.py.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftmeta.schema import Status
from ftmeta.tracking.scheme import (
    CHUNK,
    CHUNK_STATE,
    CHUNK_TABLES,
    CLOSED,
    COST,
    COST_USD,
    ENERGY,
    MADE_BY,
    OPEN,
    RUN,
    SWEEP,
    TABLE,
    TABLE_TAG,
    Dataset,
    joules_of,
)
from ftmeta.tracking.store import STATUS_IN_MLFLOW, Store, input_of, params_of, quoted, search
from ftmeta.tracking.table import RunInMlflow, to_json
from ftmeta.version import code_version


def find_parent(store: Store, key: str, kind: str = SWEEP) -> Any | None:
    """The parent run of the sweep (or the tuning: `kind`) whose fingerprint is `key`."""
    return next(search(store, f"tags.kind = {quoted(kind)} and tags.{kind} = {quoted(key)}"), None)


def begin_parent(
    store: Store,
    name: str,
    key: str,
    params: Mapping[str, Any],
    definition: str | None,
    kind: str = SWEEP,
    datasets: Sequence[Dataset] = (),
    **tags: str,
) -> Any:
    tags = {"kind": kind, kind: key, "code_version": code_version(), **tags}
    parent = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
    describe_parent(store, parent, params, definition, kind)
    if datasets:
        store.client.log_inputs(parent.info.run_id, [input_of(dataset) for dataset in datasets])
    return parent


def take_parent(store: Store, parent: Any) -> None:
    """The sweep goes on under a parent run that is there; if none of its drivers has made it, it is theirs from now."""
    store.client.update_run(parent.info.run_id, status="RUNNING")
    if MADE_BY in parent.data.tags:
        store.client.delete_tag(parent.info.run_id, MADE_BY)


def describe_parent(
    store: Store, parent: Any, params: Mapping[str, Any], definition: str | None, kind: str = SWEEP
) -> None:
    """Again is fine, with the same parameters: MLflow takes no other value for one that is there."""
    store.client.log_batch(parent.info.run_id, params=params_of(params))
    if definition is not None:
        store.client.log_text(parent.info.run_id, definition, f"{kind}.yaml")


def end_parent(
    store: Store, status: Status, metrics: Mapping[str, float], *, each: Callable[[], None] = lambda: None
) -> None:
    """Ends it with its totals. What it cost is at least what its runs cost together, whichever driver made them; a
    tuning has paid for more than runs. `each` is called for every run."""
    from mlflow.entities import Metric

    if store.parent_id is None:
        return
    spent = keep_table(store, each=each)
    joules = joules_of(store.client.get_run(store.parent_id).data.metrics)
    if joules is not None:
        spent[ENERGY] = joules
    totals = {**metrics, **{name: max(value, metrics.get(name, 0.0)) for name, value in spent.items()}}
    now_ms = int(time.time() * 1000)
    store.client.log_batch(store.parent_id, [Metric(name, float(value), now_ms, 0) for name, value in totals.items()])
    store.client.set_terminated(store.parent_id, status=STATUS_IN_MLFLOW[status])


def keep_table(store: Store, *, each: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Keeps the table of the parent's runs as its artifact (table.py), and returns what they cost together."""
    assert store.parent_id is not None
    runs = []
    for run in search(store, f"tags.kind = '{RUN}' and tags.mlflow.parentRunId = {quoted(store.parent_id)}"):
        runs.append(RunInMlflow.of(run))
        each()
    if runs:
        store.client.log_text(store.parent_id, to_json(runs), TABLE)
        store.client.set_tag(store.parent_id, TABLE_TAG, str(len(runs)))
    known_s = [run.cost_s for run in runs if run.cost_s is not None]
    known_usd = [run.cost_usd for run in runs if run.cost_usd is not None]
    return {**({COST: sum(known_s)} if known_s else {}), **({COST_USD: sum(known_usd)} if known_usd else {})}


def open_chunk(store: Store) -> None:
    """New runs of the parent belong to a new chunk, which `close_chunk` makes a table of."""
    assert store.parent_id is not None
    chunk = uuid.uuid4().hex[:8]
    store.client.set_tag(store.parent_id, CHUNK_STATE + chunk, OPEN)
    store.chunk = chunk


def close_chunk(store: Store) -> None:
    assert store.parent_id is not None
    assert store.chunk is not None
    where = f"tags.kind = '{RUN}' and tags.{CHUNK} = {quoted(store.chunk)}"
    runs = [RunInMlflow.of(run) for run in search(store, where)]
    store.client.log_text(store.parent_id, to_json(runs), f"{CHUNK_TABLES}/{store.chunk}.json")
    store.client.set_tag(store.parent_id, CHUNK_STATE + store.chunk, CLOSED)
    store.chunk = None
