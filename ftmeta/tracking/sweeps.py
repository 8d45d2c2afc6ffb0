"""Sweeps in MLflow while they run: a thread of its own sends what waits, one batch a run.

The ledger is the truth and MLflow a copy of it, so tracking is never in the way. A slow server delays only that thread;
one that is down gets one warning and is tried again; what it has not taken when the sweep ends is sent when the same
sweep is submitted again, or by `ftmeta metadata to-mlflow` (filling.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ftmeta.schema import RunResult, Status
from ftmeta.tracking import parents, store
from ftmeta.tracking.machine import Watch
from ftmeta.tracking.scheme import SWEEP, TUNING, Dataset, Prediction
from ftmeta.tracking.store import Store, first_line, shown

MAX_WAITING = 10_000  # results kept in memory for a server that is down; older ones are left to the next submission

_LONGEST_DRAIN_S = 300.0  # after the work has ended, however steadily a slow server takes what it is sent

log = logging.getLogger("ftmeta.tracking")


class Sweep(Protocol):
    """Where finished runs are reported. Every method returns at once, except `close`, and none raises."""

    def log(
        self,
        result: RunResult,
        *,
        has_ended: bool = True,
        predicted: Prediction | None = None,
        artifacts: Mapping[str, Path] | None = None,
    ) -> None:
        """Reports a run; again is fine. One that has not ended is reported again, with more points. `predicted`: what
        a selector that recommended it had expected; `artifacts`: name -> a file or folder to keep with it."""

    def close(
        self, status: Status, metrics: Mapping[str, float | None], artifacts: Mapping[str, Path] | None = None
    ) -> int:
        """Ends the parent run with its totals and artifacts; returns how many runs could not be sent."""


@dataclass(frozen=True)
class Tracker:
    """An experiment of an MLflow server or database; `uri` None: tracking is off."""

    uri: str | None
    experiment: str
    usd: Callable[[float, str], float | None] = lambda cost_s, device: None  # (device-seconds, device) -> US dollars
    drain_s: float = 60.0  # how long `close` waits for a server that takes what it is sent
    chunk: int = 500  # runs of a sweep that get a table together while it is under way

    def sweep(
        self,
        name: str,
        key: str,
        params: Mapping[str, Any] | None = None,
        definition: str | None = None,
        kind: str = SWEEP,
        datasets: Sequence[Dataset] = (),
    ) -> Sweep:
        """The parent run of `key` (a fingerprint), made or continued. `definition` is kept as its artifact. `kind`:
        what sort of work it is the parent of; `datasets`: what it is done on."""
        if self.uri is None:
            return _Off()
        return _MlflowSweep(self, _Parent(name, key, dict(params or {}), definition, kind, tuple(datasets)))

    def single(self) -> Sweep:
        """For runs of no sweep: there is no parent run."""
        return _Off() if self.uri is None else _MlflowSweep(self, None)


def tracker(
    uri: str | None, experiment: str, *, usd: Callable[[float, str], float | None] | None = None, drain_s: float = 60.0
) -> Tracker:
    """`uri` as MLflow takes it (http://..., sqlite:///...); None turns tracking off."""
    return Tracker(uri, experiment, usd or (lambda cost_s, device: None), drain_s)


class _Off:
    def log(
        self,
        result: RunResult,
        *,
        has_ended: bool = True,
        predicted: Prediction | None = None,
        artifacts: Mapping[str, Path] | None = None,
    ) -> None:
        pass

    def close(
        self, status: Status, metrics: Mapping[str, float | None], artifacts: Mapping[str, Path] | None = None
    ) -> int:
        return 0


@dataclass(frozen=True)
class _Parent:
    name: str
    key: str
    params: Mapping[str, Any]
    definition: str | None
    kind: str
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True)
class _Report:
    """A run that waits to be sent."""

    result: RunResult
    has_ended: bool
    predicted: Prediction | None
    artifacts: Mapping[str, Path]


@dataclass(frozen=True)
class _Ending:
    status: Status
    metrics: Mapping[str, float]
    artifacts: Mapping[str, Path] = field(default_factory=dict)


class _MlflowSweep:
    def __init__(self, owner: Tracker, parent: _Parent | None) -> None:
        self._owner, self._parent = owner, parent
        self._store: Store | None = None
        self._watch: Watch | None = None
        self._waiting: deque[_Report] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._in_chunk = 0  # runs that were sent since it was opened
        self._closing: _Ending | None = None
        self._has_ended = False  # in MLflow
        self._progress_at = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._send_all, name="ftmeta-mlflow", daemon=True)
        self._thread.start()

    def log(
        self,
        result: RunResult,
        *,
        has_ended: bool = True,
        predicted: Prediction | None = None,
        artifacts: Mapping[str, Path] | None = None,
    ) -> None:
        if self._store is not None and store.is_sent(self._store, result):
            return
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(_Report(result, has_ended, predicted, artifacts or {}))
            self._changed.notify()

    def close(
        self, status: Status, metrics: Mapping[str, float | None], artifacts: Mapping[str, Path] | None = None
    ) -> int:
        known = {name: value for name, value in metrics.items() if value is not None}
        with self._changed:
            self._closing = _Ending(status, known, artifacts or {})
            self._progress()
            self._changed.notify()
        last = time.monotonic() + _LONGEST_DRAIN_S
        while self._thread.is_alive() and time.monotonic() < min(last, self._progress_at + self._owner.drain_s):
            self._thread.join(0.1)
        if self._watch is not None:
            self._watch.stop()
        with self._changed:
            unsent = len(self._waiting) + self._dropped
        if unsent or self._thread.is_alive():
            log.warning(
                "%d finished runs are not in MLflow at %s; their rows are safe, and submitting again sends them",
                unsent,
                shown(self._owner.uri or ""),
            )
        elif not self._has_ended:
            log.warning("the end of this work is not in MLflow at %s", shown(self._owner.uri or ""))
        has_runs = self._parent is None or self._parent.kind in (SWEEP, TUNING)
        return unsent if has_runs or self._has_ended else 1

    def _progress(self) -> None:
        self._progress_at = time.monotonic()

    def _send_all(self) -> None:
        """The thread: connects, sends what waits in order, waits longer after each failure, ends after `close`."""
        pause_s = 1.0
        while True:
            with self._changed:
                while self._store is not None and not self._waiting and self._closing is None:
                    self._changed.wait()
                first = self._waiting[0] if self._waiting else None
            try:
                if self._store is None:
                    self._store = self._connect()
                elif first is not None:
                    store.send(
                        self._store,
                        first.result,
                        has_ended=first.has_ended,
                        predicted=first.predicted,
                        artifacts=first.artifacts,
                    )
                    with self._changed:
                        if self._waiting and self._waiting[0] is first:
                            self._waiting.popleft()
                    self._count(self._store)
                elif self._closing is not None:
                    self._end(self._store, self._closing)
                    self._has_ended = True
                    return
                self._progress()
                pause_s = 1.0
            except Exception as error:
                if first is not None and self._store is not None:
                    run_id = first.result.run.run_id
                    self._store.sent[run_id] = None
                    if store.refused_for_good(error):
                        log.warning("MLflow does not take run %s: %s", run_id, first_line(error))
                        with self._changed:
                            if self._waiting and self._waiting[0] is first:  # or `log` has dropped it meanwhile
                                self._waiting.popleft()
                                self._dropped += 1
                        continue
                if not self._warned:
                    self._warned = True
                    log.warning(
                        "MLflow at %s does not answer (%s); the work goes on and it is tried again",
                        shown(self._owner.uri or ""),
                        first_line(error),
                    )
                with self._changed:
                    if self._closing is None:
                        self._changed.wait(pause_s)
                    else:
                        return  # the last try after the work ended
                pause_s = min(2 * pause_s, 60.0)

    def _count(self, opened: Store) -> None:
        """Closes the chunk that is full and opens another. Only sweeps have chunks: their runs are sent when they have
        ended. Chunks make reading faster and no more, so one that fails is tried again after the next run."""
        if opened.chunk is None:
            return
        self._in_chunk += 1
        if self._in_chunk < self._owner.chunk:
            return
        try:
            parents.close_chunk(opened)
            self._in_chunk = 0
            parents.open_chunk(opened)
        except Exception as error:
            log.debug("a chunk of runs: %s", first_line(error))

    def _end(self, opened: Store, ending: _Ending) -> None:
        for name, path in ending.artifacts.items():
            if opened.parent_id is not None:
                store.log_folder(opened, opened.parent_id, path, name)
                self._progress()
        parents.end_parent(opened, ending.status, ending.metrics, each=self._progress)

    def _connect(self) -> Store:
        opened = store.open_store(self._owner.uri or "", self._owner.experiment, self._owner.usd)
        of = self._parent
        if of is not None:
            parent = parents.find_parent(opened, of.key, of.kind)
            if parent is None:
                made = (of.name, of.key, of.params, of.definition, of.kind, of.datasets)
                parent = parents.begin_parent(opened, *made)
            else:
                parents.take_parent(opened, parent)
            opened.parent_id = parent.info.run_id
            opened.sent.update(store.runs_there(opened))
            if of.kind == SWEEP:
                parents.open_chunk(opened)
            self._watch = Watch(self._owner.uri or "", parent.info.run_id, f"{of.kind}-{of.key}")
        return opened
