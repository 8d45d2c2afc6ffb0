"""One slot of a sweep as a Ray Tune Trainable: a Tune trial is a run, a step is a fidelity, the actor outlives both."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Trainable

from ftmeta.orchestrate.sweep import spec_from_json
from ftmeta.orchestrate.workers import Run, Worker, failed_result, now
from ftmeta.schema import CurvePoint, RunResult, RunSpec, Task

REPORT_EVERY_S = 0.5  # at most so often: a driver of many slots with quick runs would do nothing but listen


class SweepSlot(Trainable):
    """Reports `fidelity`, `score` and `cost_s` at each fidelity that takes a moment, and `finished` (a RunResult) with
    the last one."""

    _worker: Worker
    _spec: RunSpec
    _run: Run | None = None

    def setup(
        self,
        config: dict[str, Any],
        tasks: Mapping[str, Task] | None = None,
        make_worker: Callable[[Mapping[str, Task]], Worker] | None = None,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)
        assert make_worker is not None, "Tune passes it"
        self._worker = make_worker(tasks or {})
        self._report_every_s = report_every_s
        self._prepare(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._prepare(new_config)
        return True

    def _prepare(self, config: Mapping[str, Any]) -> None:
        self._spec = spec_from_json(json.loads(config["spec"]))
        self._curve: list[CurvePoint] = []
        self._started_at = now()

    def step(self) -> dict[str, Any]:
        """Runs to the next fidelity that is worth a report. What goes wrong is a row with status `error`, so the worker
        stays in use."""
        began = time.monotonic()
        try:
            if self._run is None:
                self._run = self._worker.begin(self._spec)
            while True:
                point = next(self._run, None)  # type: ignore[call-overload]
                if point is not None:
                    self._curve.append(point)
                if point is None or point.fidelity == self._spec.budget.max_fidelity:
                    return self._report(self._run.finish())
                if time.monotonic() - began >= self._report_every_s:
                    return self._report()
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:500]
            self.cleanup()
            return self._report(failed_result(self._spec, "error", reason, tuple(self._curve), self._started_at))

    def _report(self, finished: RunResult | None = None) -> dict[str, Any]:
        last = self._curve[-1] if self._curve else None
        report = {
            "run_id": self._spec.run_id,
            "fidelity": last.fidelity if last else 0,
            "score": last.score if last else None,
            "cost_s": last.cost_s if last else 0.0,
            "done": finished is not None,
        }
        return report if finished is None else {**report, "finished": finished}

    def cleanup(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
