"""What the driver of a sweep tells others while it runs: a small file, `OUT/drivers/<host>-<pid>.json`.

In: a function that gives the driver's present numbers. Out: the file, written by one atomic rename when the block
begins and ends and every WRITTEN_EVERY_S in between, by a thread of its own; and, for readers, `heard(OUT)`: each
driver and whether it is alive. A driver that was killed leaves its file behind and does not look alive: its process is
gone from this machine, or its word from another machine is SILENT_AFTER_S old.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from ftmeta.files import write_json

WRITTEN_EVERY_S = 5.0
SILENT_AFTER_S = 60.0  # what clocks of different machines may differ by, and a slow shared disk
_FORMAT = 1

DriverState = Literal["running", "silent", "dead", "ended"]
log = logging.getLogger("ftmeta.collect")


@dataclass(frozen=True)
class Driver:
    """A driver as its file and this machine know it.

    `running`: it has spoken lately. `silent`: it has not, and nothing says that it is gone (its machine or its disk
    hangs, or it is stopped). `dead`: its process is gone, or it ran elsewhere and is silent. `ended`: by itself.
    """

    host: str
    pid: int
    started: float  # seconds since the epoch, by its own clock
    state: DriverState
    seen_s_ago: float
    said: dict[str, Any]  # what the function gave
    is_me: bool = False  # this process


class Beacon:
    """`with Beacon(out, facts) as beacon: ...; beacon.ended = "finished"`. Trouble with the file ends no sweep."""

    def __init__(self, out: Path, facts: Callable[[], dict[str, Any]], every_s: float = WRITTEN_EVERY_S) -> None:
        self._facts, self._every_s = facts, every_s
        self._path = out / "drivers" / f"{socket.gethostname()}-{os.getpid()}.json"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="ftmeta-beacon", daemon=True)
        self._complained = False
        self.ended: str | None = None  # how it ended, in words; set inside the block

    def __enter__(self) -> Self:
        for path, driver in _drivers(self._path.parent):
            if driver is None or driver.state in ("dead", "ended"):
                with contextlib.suppress(OSError):
                    path.unlink()  # the ledger has all that it did
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._thread.join()
        if error is not None:
            self.ended = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.ended = self.ended or "finished"
        self._write()

    def _tell(self) -> None:
        while not self._over.wait(self._every_s):
            self._write()

    def _write(self) -> None:
        document = {
            "format": _FORMAT,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_namespace": _pid_namespace(),
            "process_started": _started(os.getpid()),
            "written": time.time(),
            "ended": self.ended,
            "said": self._facts(),
        }
        try:
            write_json(self._path, document)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("%s cannot be written (%s); the sweep goes on without it", self._path, error.strerror)


def heard(out: Path) -> list[Driver]:
    """All drivers that have left their word in the folder, the one that spoke last first."""
    known = [driver for _, driver in _drivers(out / "drivers") if driver is not None]
    return sorted(known, key=lambda driver: driver.seen_s_ago)


def earlier(out: Path) -> list[Driver]:
    """The running drivers that began before this process, so that of any two one knows itself to be the second."""
    mine = (_started(os.getpid()) or 0.0, socket.gethostname(), os.getpid())
    running = [driver for driver in heard(out) if driver.state == "running" and not driver.is_me]
    return [driver for driver in running if (driver.started, driver.host, driver.pid) < mine]


def _drivers(folder: Path) -> Iterator[tuple[Path, Driver | None]]:
    """Each file with its driver; None where the file is none of ours (of another version, or torn)."""
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            yield path, _driver(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue  # another driver tidied up
        except (OSError, ValueError, KeyError, TypeError):
            yield path, None


def _driver(document: dict[str, Any]) -> Driver:
    if document["format"] != _FORMAT:
        raise ValueError(document["format"])
    host, pid = str(document["host"]), int(document["pid"])
    seen_s_ago = max(0.0, time.time() - float(document["written"]))
    recent = seen_s_ago < SILENT_AFTER_S
    here = (host, document["pid_namespace"]) == (socket.gethostname(), _pid_namespace())
    state: DriverState
    if document["ended"] is not None:
        state = "ended"
    elif not here:
        state = "running" if recent else "dead"
    elif not _same(_started(pid), document["process_started"]):
        state = "dead"
    else:
        state = "running" if recent else "silent"
    said = {**document["said"], "ended": document["ended"]}
    return Driver(
        host, pid, float(document["process_started"]), state, seen_s_ago, said, is_me=here and pid == os.getpid()
    )


def _started(pid: int) -> float | None:
    """When the process began, which tells it from a later one of the same number; None: there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _same(started: float | None, said: float | None) -> bool:
    """Within a second: where the clock is set meanwhile, the times of all processes move a little."""
    return started is not None and said is not None and abs(started - said) < 1


def _pid_namespace() -> int | None:
    """Process ids mean something within one of these only: two containers may share a host's name."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
