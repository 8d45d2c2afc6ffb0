"""`ftmeta metadata to-mlflow`: sends the runs of a folder that MLflow lacks. Again changes nothing.

    filled = fill(tracker(uri, "collect"), results, Parent("my-sweep"))

MLflow may have been down while a sweep ran, or never have been told of it. A run is found by its tag `run_id`, under
whatever parent; one that was begun and not finished is completed in place. So what is killed half-way is made whole by
doing it again, and a sweep that still runs may be filled at the same time.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftmeta.errors import FtmetaError
from ftmeta.schema import RunResult
from ftmeta.tracking import parents, store
from ftmeta.tracking.scheme import MADE_BY, Dataset
from ftmeta.tracking.store import Store, first_line, quoted, shown
from ftmeta.tracking.sweeps import Tracker

_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between tries of a server that stops answering half-way
_MADE_HERE = "to-mlflow"
log = logging.getLogger("ftmeta.tracking")


@dataclass(frozen=True)
class Parent:
    """The sweep that the runs are of. `key` is its fingerprint; None: not known, the runs and the name tell."""

    name: str
    key: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # what will be the same next time: no counts of runs
    definition: str | None = None  # its YAML


@dataclass(frozen=True)
class Filled:
    sent: int
    already_there: int
    failed: int  # not sent: refused by MLflow, or it stopped answering


def fill(
    owner: Tracker,
    results: Sequence[RunResult],
    parent: Parent,
    *,
    each: Callable[[], None] = lambda: None,
    pauses_s: Sequence[float] = _PAUSES_S,
) -> Filled:
    """Sends what MLflow lacks of `results`; `each` is called after every run. Raises FtmetaError when MLflow does not
    answer at all; one that stops answering later is waited for by `pauses_s`, and then the rest has failed."""
    uri = owner.uri or ""
    try:
        opened = store.open_store(uri, owner.experiment, owner.usd)
        opened.sent.update(store.runs_there(opened))
        there = {result.run.run_id for result in results if store.is_sent(opened, result)}
        missing = [result for result in results if result.run.run_id not in there]
        found = _find_parent(opened, parent, results)
        if found is None and missing:
            key = parent.key or f"meta-dataset {parent.name}"
            of_runs = {(one.run.task, one.run.task_fingerprint) for one in results if one.run.task_fingerprint}
            datasets = [Dataset(*one) for one in sorted(of_runs)]
            found = parents.begin_parent(opened, parent.name, key, {}, None, datasets=datasets, **{MADE_BY: _MADE_HERE})
        if (
            found is not None and _is_made_here(found) and found.info.status == "RUNNING"
        ):  # now, or by one that was killed before this
            parents.describe_parent(opened, found, parent.params, parent.definition)
    except Exception as error:
        raise FtmetaError(
            f"MLflow at {shown(uri)} does not answer as it should ({first_line(error)}); nothing was sent"
        ) from None
    opened.parent_id = None if found is None else found.info.run_id
    for _ in there:
        each()
    sent, failed = 0, 0
    for at, result in enumerate(missing):
        outcome = _send(opened, result, pauses_s)
        each()
        if outcome is None:
            failed += len(missing) - at
            log.warning("MLflow at %s no longer answers; %d runs are left, do it again for them", shown(uri), failed)
            return Filled(sent, len(there), failed)
        sent, failed = sent + outcome, failed + (not outcome)
    if found is not None:
        if _is_made_here(found) and (sent or found.info.status == "RUNNING"):
            parents.end_parent(opened, "ok", _totals(results))
        elif sent:  # a sweep's own, which its driver has ended, or will
            parents.keep_table(opened)
    return Filled(sent, len(there), failed)


def _send(opened: Store, result: RunResult, pauses_s: Sequence[float]) -> bool | None:
    """Whether MLflow took the run; None: it does not answer."""
    for pause_s in (*pauses_s, None):
        try:
            store.send(opened, result, look=True)
            return True
        except Exception as error:
            if store.refused_for_good(error):
                log.warning("MLflow does not take run %s: %s", result.run.run_id, first_line(error))
                return False
            if pause_s is None:
                log.warning("run %s could not be sent: %s", result.run.run_id, first_line(error))
                return None
            time.sleep(pause_s)
    return None


def _find_parent(opened: Store, parent: Parent, results: Sequence[RunResult]) -> Any | None:
    """The parent run that there is: by the sweep's fingerprint, as the parent of runs that are there, or by name."""
    if parent.key is not None:
        return parents.find_parent(opened, parent.key)
    ours = {result.run.run_id for result in results}
    if ours & opened.sent.keys():
        runs = (run for run in store.search(opened, "tags.kind = 'run'") if run.data.tags.get("run_id") in ours)
        counted = Counter(run.data.tags.get("mlflow.parentRunId") for run in runs)
        for parent_id, _ in counted.most_common():
            if parent_id is not None:
                return opened.client.get_run(parent_id)
    where = f"tags.kind = 'sweep' and attributes.run_name = {quoted(parent.name)}"
    return next(store.search(opened, where), None)


def _is_made_here(parent: Any) -> bool:
    return bool(parent.data.tags.get(MADE_BY) == _MADE_HERE)


def _totals(results: Sequence[RunResult]) -> dict[str, float]:
    """The totals that a sweep ends its parent run with, as far as runs tell them."""
    failed = sum(result.run.status in ("oom", "error") for result in results)
    cost_s = sum(result.run.cost_s for result in results if result.run.cost_s is not None)
    return {"runs.done": float(len(results) - failed), "runs.failed": float(failed), "cost.device_seconds": cost_s}
