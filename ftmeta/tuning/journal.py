"""The journal of a tuning: what happened, as JSON lines, from which everything is made again after a kill.

A line is on disk before anything relies on it; a torn last line is what a killed process leaves and is dropped. One
process writes at a time. Times are wall seconds since the tuning began, sessions added up.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftmeta.errors import UserError
from ftmeta.files import append_line, whole_lines
from ftmeta.schema import CurvePoint, Status
from ftmeta.tuning.limit import Spent
from ftmeta.tuning.work import Advanced


@dataclass
class Trial:
    """One run of the tuning, as far as it has come."""

    candidate: int
    points: dict[int, CurvePoint] = field(default_factory=dict)  # by fidelity
    seen_at_s: dict[int, float] = field(default_factory=dict)  # by fidelity: when the point was there
    status: Status = "stopped"
    error: str | None = None
    expected: tuple[float, float] | None = None  # of the last fidelity, when the run was begun: mean and deviation
    device: str | None = None
    device_s: float = 0.0  # also of what was lost and made again
    wall_s: float = 0.0
    peak_memory_gb: float = 0.0
    losses: int = 0  # workers that died at it
    began_at: str = ""  # ISO 8601, UTC

    @property
    def curve(self) -> dict[int, float]:
        """Validation scores by fidelity, from 1; only those that are finite."""
        return {t: point.score for t, point in sorted(self.points.items()) if t and point.score is not None}

    @property
    def reached(self) -> int:
        return max(self.points, default=0)

    def scores(self, start: int, end: int) -> tuple[float, ...]:
        """Of fidelities start + 1, ..., end, up to the first that is missing or not finite."""
        found: list[float] = []
        for fidelity in range(start + 1, end + 1):
            score = self.points[fidelity].score if fidelity in self.points else None
            if score is None:
                break
            found.append(score)
        return tuple(found)


class Journal:
    """`trials` by run id, `spent`, and `said` (the last of each kind of event) are what the file says.

    Raises UserError where another process writes it, or where the file is of something else.
    """

    def __init__(self, path: Path) -> None:
        self.trials: dict[str, Trial] = {}
        self.spent = Spent()
        self.said: dict[str, dict[str, Any]] = {}
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"another process works on {path.parent}; wait for it, or end it, and try again") from None
        try:
            self._file.truncate(self._read())
        except BaseException:
            self._file.close()
            raise

    def begun(self, run_id: str, candidate: int, expected: tuple[float, float] | None) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._write({"event": "begun", "run_id": run_id, "candidate": candidate, "expected": expected, "at": at})

    def advanced(self, run_id: str, answer: Advanced) -> None:
        document = {**asdict(answer), "points": [asdict(point) for point in answer.points]}
        self._write({"event": "advanced", "run_id": run_id, **document})

    def lost(self, run_id: str, why: str, wall_s: float, *, blameless: bool = False) -> None:
        """`wall_s`: how long a slot had worked in vain. `blameless`: it was not the run that ended the worker."""
        self._write({"event": "lost", "run_id": run_id, "why": why, "wall_s": wall_s, "blameless": blameless})

    def failed(self, run_id: str, error: str) -> None:
        """The run is given up."""
        self._write({"event": "failed", "run_id": run_id, "error": error})

    def say(self, event: str, **facts: Any) -> None:
        self._write({"event": event, **facts})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, event: dict[str, Any]) -> None:
        before = {"t_s": round(self.spent.wall_s, 3), "device_s_before": round(self.spent.device_s, 6)}
        whole = {**event, **before}
        append_line(self._file, whole)
        self._take(whole)

    def _read(self) -> int:
        """Takes all events in; returns the length of the whole lines."""
        self._file.seek(0)
        whole = 0
        for line in whole_lines(self._file.read()):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._path} is no journal of this version of ftmeta ({type(error).__name__}: {error}); start "
                    "anew in another folder"
                ) from None
            whole += len(line)
        return whole

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, at_s = event["event"], event["t_s"]
        self.spent.wall_s = max(self.spent.wall_s, at_s)
        self.spent.device_s = max(self.spent.device_s, event["device_s_before"])
        if kind == "begun":
            expected = None if event["expected"] is None else (event["expected"][0], event["expected"][1])
            self.trials.setdefault(event["run_id"], Trial(event["candidate"], expected=expected, began_at=event["at"]))
        elif kind == "advanced":
            self._take_points(self.trials[event["run_id"]], event, at_s)
        elif kind == "lost":
            trial = self.trials[event["run_id"]]
            trial.losses += not event["blameless"]
            self.spent.device_s += event["wall_s"]
        elif kind == "failed":
            trial = self.trials[event["run_id"]]
            trial.status, trial.error = "error", event["error"]
        else:
            self.said[kind] = dict(event)
            self.spent.device_s += event.get("device_s", 0.0)

    def _take_points(self, trial: Trial, event: Mapping[str, Any], at_s: float) -> None:
        for values in event["points"]:
            point = CurvePoint(**values)
            trial.points[point.fidelity] = point
            trial.seen_at_s.setdefault(point.fidelity, at_s)
        trial.status, trial.error, trial.device = event["status"], event["error"], event["device"]
        trial.device_s += event["device_s"]
        trial.wall_s += event["wall_s"]
        trial.peak_memory_gb = max(trial.peak_memory_gb, event["peak_memory_gb"])
        self.spent.busy_s += event["busy_s"]
        self.spent.device_s += event["device_s"]
