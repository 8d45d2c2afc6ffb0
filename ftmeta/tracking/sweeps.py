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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ftmeta.schema import RunResult, Status
from ftmeta.tracking import store
from ftmeta.tracking.store import Store, first_line, shown

MAX_WAITING = 10_000  # results kept in memory for a server that is down; older ones are left to the next submission

log = logging.getLogger("ftmeta.tracking")


class Sweep(Protocol):
    """Where finished runs are reported. Every method returns at once, except `close`, and none raises."""

    def log(self, result: RunResult, *, has_ended: bool = True) -> None:
        """Reports a run; again is fine. One that has not ended is reported again, with more points."""

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
        self,
        name: str,
        key: str,
        params: Mapping[str, Any] | None = None,
        definition: str | None = None,
        kind: str = store.SWEEP,
    ) -> Sweep:
        """The parent run of `key` (a fingerprint), made or continued. `definition` is kept as its artifact. `kind`:
        what sort of work it is the parent of."""
        if self.uri is None:
            return _Off()
        return _MlflowSweep(self, name, key, dict(params or {}), definition, kind)

    def single(self) -> Sweep:
        """For runs of no sweep: there is no parent run."""
        return _Off() if self.uri is None else _MlflowSweep(self, "", None, {}, None, store.SWEEP)


def tracker(
    uri: str | None, experiment: str, *, usd: Callable[[float, str], float | None] | None = None, drain_s: float = 60.0
) -> Tracker:
    """`uri` as MLflow takes it (http://..., sqlite:///...); None turns tracking off."""
    return Tracker(uri, experiment, usd or (lambda cost_s, device: None), drain_s)


class _Off:
    def log(self, result: RunResult, *, has_ended: bool = True) -> None:
        pass

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> int:
        return 0


class _MlflowSweep:
    def __init__(
        self, owner: Tracker, name: str, key: str | None, params: dict[str, Any], definition: str | None, kind: str
    ) -> None:
        self._owner, self._kind = owner, kind
        self._name, self._key, self._params, self._definition = name, key, params, definition
        self._store: Store | None = None
        self._waiting: deque[tuple[RunResult, bool]] = deque()  # with whether it has ended
        self._changed = threading.Condition()
        self._dropped = 0
        self._closing: tuple[Status, dict[str, float]] | None = None
        self._progress_at = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._send_all, name="ftmeta-mlflow", daemon=True)
        self._thread.start()

    def log(self, result: RunResult, *, has_ended: bool = True) -> None:
        if self._store is not None and store.is_sent(self._store, result):
            return
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((result, has_ended))
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
                shown(self._owner.uri or ""),
            )
        return unsent

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
                    store.send(self._store, first[0], has_ended=first[1])
                    with self._changed:
                        if self._waiting and self._waiting[0] is first:
                            self._waiting.popleft()
                elif self._closing is not None:
                    store.end_parent(self._store, *self._closing)
                    return
                self._progress_at = time.monotonic()
                pause_s = 1.0
            except Exception as error:
                if first is not None and self._store is not None:
                    run_id = first[0].run.run_id
                    self._store.sent[run_id] = None
                    if store.refused_for_good(error):
                        log.warning("MLflow does not take run %s: %s", run_id, first_line(error))
                        with self._changed:
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

    def _connect(self) -> Store:
        opened = store.open_store(self._owner.uri or "", self._owner.experiment, self._owner.usd)
        if self._key is not None:
            parent = store.find_parent(opened, self._key, self._kind)
            if parent is None:
                of_it = (self._name, self._key, self._params, self._definition, self._kind)
                parent = store.begin_parent(opened, *of_it)
            else:
                store.take_parent(opened, parent)
            opened.parent_id = parent.info.run_id
            opened.sent.update(store.runs_there(opened))
        return opened
