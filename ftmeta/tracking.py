"""Runs in MLflow: the only file that imports mlflow.

In: finished runs (RunResult). Out: in one experiment, a parent run for the sweep and under it one run for each
finetuning run, with the pipeline as parameters, fingerprints as tags and one value of each metric per fidelity.

The ledger is the truth and MLflow a copy of it, so tracking is never in the way: a thread of its own sends what waits,
one batch a run. A slow server delays only that thread; one that is down gets one warning and is tried again; what it
has not taken when the sweep ends is sent when the same sweep is submitted again. Sending twice changes nothing: a run
is found by its tag `run_id`.

    with tracker("sqlite:///mlflow.db", "collect").sweep(name, key, params) as sweep:
        sweep.log(result)
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ftmeta.schema import CurvePoint, RunResult, Status

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_WAITING = 10_000  # results kept in memory for a server that is down; older ones are left to the next submission
_MLFLOW_STATUS: dict[Status, str] = {
    "ok": "FINISHED",
    "stopped": "KILLED",
    "diverged": "FAILED",
    "oom": "FAILED",
    "error": "FAILED",
}
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the thread tries again itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
}

log = logging.getLogger("ftmeta.tracking")


class Sweep(Protocol):
    """Where finished runs are reported. Every method returns at once, except `close`, and none raises."""

    def log(self, result: RunResult) -> None:
        """Reports a run; again is fine."""

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> int:
        """Ends the parent run with its totals; returns how many runs could not be sent."""


@dataclass(frozen=True)
class Tracker:
    """An experiment of an MLflow server or database; `uri` None: tracking is off."""

    uri: str | None
    experiment: str
    usd: Callable[[float, str], float | None] = lambda cost_s, device: None  # (device-seconds, device) -> US dollars
    drain_s: float = 60.0  # how long `close` waits for a server that takes what it is sent

    def sweep(
        self, name: str, key: str, params: Mapping[str, Any] | None = None, definition: str | None = None
    ) -> Sweep:
        """The parent run of `key` (a fingerprint), made or continued. `definition` is kept as its artifact."""
        if self.uri is None:
            return _Off()
        return _MlflowSweep(self, name, key, dict(params or {}), definition)

    def single(self) -> Sweep:
        """For runs of no sweep: there is no parent run."""
        return _Off() if self.uri is None else _MlflowSweep(self, "", None, {}, None)


def tracker(
    uri: str | None, experiment: str, *, usd: Callable[[float, str], float | None] | None = None, drain_s: float = 60.0
) -> Tracker:
    """`uri` as MLflow takes it (http://..., sqlite:///...); None turns tracking off."""
    return Tracker(uri, experiment, usd or (lambda cost_s, device: None), drain_s)


class _Off:
    def log(self, result: RunResult) -> None:
        pass

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> int:
        return 0


@dataclass
class _Store:
    """The open connection: only the sending thread uses it."""

    client: MlflowClient
    experiment_id: str
    parent_id: str | None
    sent: dict[str, bool] = field(default_factory=dict)  # run id -> complete (False: begun by someone, or in doubt)


class _MlflowSweep:
    def __init__(
        self, owner: Tracker, name: str, key: str | None, params: dict[str, Any], definition: str | None
    ) -> None:
        self._owner = owner
        self._name, self._key, self._params, self._definition = name, key, params, definition
        self._store: _Store | None = None
        self._waiting: deque[RunResult] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._closing: tuple[Status, dict[str, float]] | None = None
        self._progress_at = time.monotonic()
        self._warned = False
        for setting, value in _SETTINGS.items():
            os.environ.setdefault(setting, value)
        self._thread = threading.Thread(target=self._send_all, name="ftmeta-mlflow", daemon=True)
        self._thread.start()

    def log(self, result: RunResult) -> None:
        if self._store is not None and self._store.sent.get(result.run.run_id):
            return
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(result)
            self._changed.notify()

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> int:
        with self._changed:
            self._closing = (status, {name: value for name, value in metrics.items() if value is not None})
            self._progress_at = time.monotonic()
            self._changed.notify()
        while self._thread.is_alive() and time.monotonic() - self._progress_at < self._owner.drain_s:
            self._thread.join(0.1)
        with self._changed:
            unsent = len(self._waiting) + self._dropped
        if unsent or self._thread.is_alive():
            log.warning(
                "%d finished runs are not in MLflow at %s; their rows are safe, and submitting again sends them",
                unsent,
                self._owner.uri,
            )
        return unsent

    def _send_all(self) -> None:
        """The thread: connects, sends what waits in order, waits longer after each failure, ends after `close`."""
        pause_s = 1.0
        while True:
            with self._changed:
                while self._store is not None and not self._waiting and self._closing is None:
                    self._changed.wait()
                result = self._waiting[0] if self._waiting else None
            try:
                if self._store is None:
                    self._store = self._connect()
                elif result is not None:
                    self._send(self._store, result)
                    with self._changed:
                        if self._waiting and self._waiting[0] is result:
                            self._waiting.popleft()
                elif self._closing is not None:
                    self._end_parent(self._store, *self._closing)
                    return
                self._progress_at = time.monotonic()
                pause_s = 1.0
            except Exception as error:
                if result is not None and self._store is not None:
                    self._store.sent[result.run.run_id] = False
                    if _refused_for_good(error):
                        log.warning("MLflow does not take run %s: %s", result.run.run_id, _first_line(error))
                        with self._changed:
                            self._waiting.popleft()
                            self._dropped += 1
                        continue
                if not self._warned:
                    self._warned = True
                    log.warning(
                        "MLflow at %s does not answer (%s); the work goes on and it is tried again",
                        self._owner.uri,
                        _first_line(error),
                    )
                with self._changed:
                    if self._closing is None:
                        self._changed.wait(pause_s)
                    else:
                        return  # the last try after the work ended
                pause_s = min(2 * pause_s, 60.0)

    def _connect(self) -> _Store:
        from mlflow.exceptions import MlflowException

        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._owner.uri)
        experiment = client.get_experiment_by_name(self._owner.experiment)
        if experiment is None:
            with contextlib.suppress(MlflowException):  # another sweep may have made it meanwhile
                client.create_experiment(self._owner.experiment, artifact_location=_artifacts_of(self._owner.uri))
            experiment = client.get_experiment_by_name(self._owner.experiment)
            if experiment is None:
                raise ConnectionError(f"experiment {self._owner.experiment!r} could not be made")
        store = _Store(client, experiment.experiment_id, None)
        if self._key is None:
            return store
        found = _search(client, store.experiment_id, f"tags.kind = 'sweep' and tags.sweep = '{self._key}'")
        parent = next(found, None)
        if parent is None:
            tags = {"kind": "sweep", "sweep": self._key}
            parent = client.create_run(store.experiment_id, tags=tags, run_name=self._name)
            client.log_batch(parent.info.run_id, params=_params(self._params))
            if self._definition is not None:
                client.log_text(parent.info.run_id, self._definition, "sweep.yaml")
        else:
            client.update_run(parent.info.run_id, status="RUNNING")
        store.parent_id = parent.info.run_id
        for run in _search(client, store.experiment_id, f"tags.`mlflow.parentRunId` = '{store.parent_id}'"):
            store.sent[run.data.tags.get("run_id", "")] = run.info.status != "RUNNING"
        return store

    def _send(self, store: _Store, result: RunResult) -> None:
        run = result.run
        if store.sent.get(run.run_id):
            return
        begun = None
        if store.parent_id is None or run.run_id in store.sent:
            begun = next(_search(store.client, store.experiment_id, f"tags.run_id = '{run.run_id}'"), None)
        started_ms = int(datetime.fromisoformat(run.started_at).timestamp() * 1000)
        if begun is None:
            begun = store.client.create_run(
                store.experiment_id,
                start_time=started_ms,
                tags=_tags(result, store.parent_id),
                run_name=f"{run.task} {run.pipeline.id} seed {run.seed}",
            )
        mlflow_id = begun.info.run_id
        params = _params({**run.pipeline.values, "base_model": run.base_model, "seed": run.seed})
        metrics = self._metrics(result, started_ms)
        store.client.log_batch(mlflow_id, metrics=metrics[:1000], params=params)
        for first in range(1000, len(metrics), 1000):  # the most that MLflow takes at once
            store.client.log_batch(mlflow_id, metrics=metrics[first : first + 1000])
        ended_ms = started_ms + int(run.wall_s * 1000)
        store.client.set_terminated(mlflow_id, status=_MLFLOW_STATUS[run.status], end_time=ended_ms)
        store.sent[run.run_id] = True

    def _metrics(self, result: RunResult, started_ms: int) -> list[Any]:
        """One value per metric and fidelity (the step). The same run gives the same rows: sending twice adds none."""
        from mlflow.entities import Metric

        def at(point: CurvePoint, values: Mapping[str, float | None]) -> Iterator[Metric]:
            when_ms = started_ms + int(point.wall_s * 1000)
            for name, value in values.items():
                if value is not None:
                    yield Metric(name, float(value), when_ms, point.fidelity)

        run = result.run
        rows: list[Any] = []
        for point in result.curve:
            values = {
                "score": point.score,
                "val_nll": point.val_nll,
                "val_token_accuracy": point.val_token_accuracy,
                "test_score": point.test_score,
                "test_nll": point.test_nll,
                "train_loss": point.train_loss,
                "cost.device_seconds": point.cost_s,
                "cost.train_device_seconds": point.cost_train_s,
                "cost.eval_device_seconds": point.cost_eval_s,
                "cost.usd": self._owner.usd(point.cost_s, run.device),
                "wall_s": point.wall_s,
            }
            rows += at(point, values)
        if result.curve:
            generation = {f"test_{name}": value for name, value in (run.generation or {}).items()}
            rows += at(result.curve[-1], {"peak_memory_gb": run.peak_memory_gb, **generation})
        return rows

    def _end_parent(self, store: _Store, status: Status, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if store.parent_id is None:
            return
        now_ms = int(time.time() * 1000)
        rows = [Metric(name, float(value), now_ms, 0) for name, value in metrics.items()]
        store.client.log_batch(store.parent_id, metrics=rows)
        store.client.set_terminated(store.parent_id, status=_MLFLOW_STATUS[status])


def _tags(result: RunResult, parent_id: str | None) -> dict[str, str]:
    run = result.run
    tags = {
        **({} if parent_id is None else {"mlflow.parentRunId": parent_id}),
        "kind": "run",
        "run_id": run.run_id,
        "task": run.task,
        "pipeline": run.pipeline.id,
        "base_model": run.base_model,
        "status": run.status,
        "space": run.space,
        "device": run.device,
        "code_version": run.code_version,
        "task_fingerprint": run.task_fingerprint,
        "base_model_fingerprint": run.base_model_fingerprint,
    }
    return tags if run.error is None else {**tags, "error": run.error[:5000]}


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)[:6000]) for name, value in values.items()]


def _search(client: MlflowClient, experiment_id: str, where: str) -> Iterator[Any]:
    """All runs that fit, page by page, as an iterator."""
    page = client.search_runs([experiment_id], where, max_results=1000)
    while True:
        yield from page
        if not page.token:
            return
        page = client.search_runs([experiment_id], where, max_results=1000, page_token=page.token)


def _artifacts_of(uri: str | None) -> str | None:
    """Artifacts of a database file lie beside it (MLflow would put them into the working directory); None: as is."""
    file = (uri or "").removeprefix("sqlite:///")
    return None if file == (uri or "") else str(Path(file).absolute().parent / "artifacts")


def _refused_for_good(error: Exception) -> bool:
    """True where sending the same again would be refused again."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
