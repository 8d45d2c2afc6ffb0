"""How far long work is, on standard error: a Rich display on a terminal, a line now and then in a job's log."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

LINE_EVERY_S = 15.0


@dataclass
class UnderWay:
    """A run in a slot."""

    run_id: str
    task: str
    pipeline: str
    seed: int
    since: float = field(default_factory=time.time)  # seconds since the epoch, for readers elsewhere
    fidelity: int | None = None  # the last one reported


@dataclass
class Totals:
    """What a sweep has done so far, this submission's part of it."""

    planned: int  # runs of this submission
    slots: int
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    failed: int = 0
    busy_s: float = 0.0
    cost_s: float = 0.0
    cost_usd: float | None = None

    def line(self) -> str:
        wall_s = max(time.monotonic() - self.began, 1e-9)
        rate = 3600 * self.done / wall_s
        parts = [f"{rate:,.0f} runs/h", f"{self.failed} failed", f"{self.cost_s:,.0f} device-seconds"]
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd:,.4f}")
        parts.append(f"slots {100 * self.busy_s / (self.slots * wall_s):.0f} % busy")
        return " · ".join(parts)

    def left(self) -> str:
        return time_left(self.done, self.planned, self.began)


def time_left(done: int, planned: int, began: float) -> str:
    """At the rate since `began`, a time of time.monotonic()."""
    if not done:
        return "time left unknown"
    left_s = (planned - done) * (time.monotonic() - began) / done
    return f"{left_s / 60:.0f} min left" if left_s >= 90 else f"{left_s:.0f} s left"


class Display:
    """`with Display(name, total, unit, beginning) as display`, then `display.update(done, detail)`."""

    def __init__(self, name: str, total: int, unit: str, beginning: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._name, self._total, self._unit, self._beginning = name, total, unit, beginning
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not self._live,
        )
        self._bar: Any = None
        self._said_at = time.monotonic()

    def __enter__(self) -> Display:
        self._progress.start()
        self._bar = self._progress.add_task(self._name, total=self._total, detail=self._beginning)
        if not self._live:
            self._say(f"{self._total} {self._unit}; {self._beginning}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int, detail: str) -> None:
        self._progress.update(self._bar, completed=done, detail=detail)
        if not self._live and (done == self._total or time.monotonic() - self._said_at > LINE_EVERY_S):
            self._say(f"{done} of {self._total} {self._unit} · {detail}")

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        sys.stderr.write(f"{self._name}: {text}\n")
        sys.stderr.flush()
