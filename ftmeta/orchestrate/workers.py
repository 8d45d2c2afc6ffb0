"""What a slot of a sweep does with a run: finetunes it in its own process, or simulates it (or distributed.py).

A worker lives as long as its actor, so whatever it loads it loads once: the base model, and each task's tokens.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ftmeta.errors import ModelError
from ftmeta.schema import CurvePoint, RunResult, RunRow, RunSpec, Status, Task
from ftmeta.version import code_version

if TYPE_CHECKING:
    from ftmeta.finetune import Finetuning, TokenizedTask
    from ftmeta.models import LoadedModel


class Run(Protocol):
    """A run under way: an iterator of its curve points. `finish` ends it and gives its row, `close` only ends it."""

    def __next__(self) -> CurvePoint: ...
    def finish(self) -> RunResult: ...
    def close(self) -> None: ...


class Worker(Protocol):
    def begin(self, spec: RunSpec) -> Run: ...


class FinetuneWorker:
    """Finetunes. `tasks` by name; `device` is `cpu` or `cuda`; `threads` for torch on the CPU."""

    def __init__(self, tasks: Mapping[str, Task], base_model: str, device: str, threads: int) -> None:
        import torch

        from ftmeta.models import load, resolve

        torch.set_num_threads(threads)
        self._tasks = tasks
        self.base = load(resolve(base_model), device)
        self._tokenized: dict[str, TokenizedTask] = {}

    def begin(self, spec: RunSpec) -> Run:
        from ftmeta.finetune import finetune, tokenize_task

        task = self._tasks[spec.task]
        require_planned(self.base, spec)
        if task.name not in self._tokenized:
            self._tokenized[task.name] = tokenize_task(task, self.base)
        tokenized = self._tokenized[task.name]
        started = finetune(spec.pipeline, task, self.base, spec.seed, budget=spec.budget, tokenized=tokenized)
        return _FinetuneRun(started)


def require_planned(base: LoadedModel, spec: RunSpec) -> None:
    """Raises ModelError unless this node's base model is the one that the run was planned with."""
    if base.info.fingerprint != spec.base_model_fingerprint:
        raise ModelError(
            f"base model '{spec.base_model}' has fingerprint {base.info.fingerprint} on this node, and the run was "
            f"planned with {spec.base_model_fingerprint}; give every node the same files"
        )


class _FinetuneRun:
    def __init__(self, run: Finetuning) -> None:
        self._run = run

    def __next__(self) -> CurvePoint:
        return next(self._run)

    def finish(self) -> RunResult:
        if self._run.status == "ok":
            self._run.evaluate_test()  # the generation metrics; they cost nothing of the run's cost_s
        result = self._run.result()
        self.close()
        return result

    def close(self) -> None:
        self._run.close()
        _give_memory_back()


def _give_memory_back() -> None:
    """glibc keeps what a run has freed, and the next one wants it in other sizes: a quarter of a gigabyte after some
    runs of phi3-micro, and more with each."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class SimulatedWorker:
    """Trains nothing and takes no time: a curve that depends on the run's id alone. It measures what is around it."""

    def begin(self, spec: RunSpec) -> Run:
        return _SimulatedRun(spec)


class _SimulatedRun:
    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._began, self._started_at = time.perf_counter(), now()
        self._curve: list[CurvePoint] = []
        self._points = self._make()

    def __next__(self) -> CurvePoint:
        return next(self._points)

    def _make(self) -> Generator[CurvePoint, None, None]:
        best, last = int(self._spec.run_id[:4], 16) / 0xFFFF, self._spec.budget.max_fidelity
        for t in range(last + 1):
            score = best * t / last
            nll = 3.0 * (1 - score)
            wall_s = time.perf_counter() - self._began
            point = CurvePoint(
                t, t, t, t, score, nll, score, score, nll, nll if t else None, t, t + 1, 2 * t + 1, wall_s
            )
            self._curve.append(point)
            yield point

    def finish(self) -> RunResult:
        wall_s = time.perf_counter() - self._began
        return RunResult(row_of(self._spec, "ok", self._curve, self._started_at, wall_s), tuple(self._curve))

    def close(self) -> None:
        self._points.close()


def failed_result(
    spec: RunSpec, status: Status, error: str, curve: tuple[CurvePoint, ...] = (), started_at: str | None = None
) -> RunResult:
    """The row of a run that no worker could report: its process died, or it could not begin."""
    wall_s = curve[-1].wall_s if curve else 0.0
    return RunResult(row_of(spec, status, list(curve), started_at or now(), wall_s, error), curve)


def row_of(
    spec: RunSpec, status: Status, curve: list[CurvePoint], started_at: str, wall_s: float, error: str | None = None
) -> RunRow:
    return RunRow(
        run_id=spec.run_id,
        task=spec.task,
        base_model=spec.base_model,
        seed=spec.seed,
        status=status,
        error=error,
        max_fidelity=spec.budget.max_fidelity,
        fidelity=curve[-1].fidelity if curve else 0,
        cost_s=curve[-1].cost_s if curve else 0.0,
        wall_s=wall_s,
        peak_memory_gb=0.0,
        device="unknown",
        code_version=code_version(),
        task_fingerprint=spec.task_fingerprint,
        base_model_fingerprint=spec.base_model_fingerprint,
        space=spec.pipeline.space,
        started_at=started_at,
        pipeline=spec.pipeline,
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
