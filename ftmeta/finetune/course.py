"""The course of a run: its curve so far, how it ended, and the row that is left of it. What computes it is elsewhere.

course = Course(spec); course.measured(counts, validation, test); ...; course.result(...)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from ftmeta.errors import FtmetaError
from ftmeta.finetune import evaluate
from ftmeta.finetune.provenance import library_versions
from ftmeta.schema import CurvePoint, RunResult, RunRow, RunSpec, Status
from ftmeta.version import code_version

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Counts:
    """What a run has done when a point is measured; costs are device-seconds."""

    step: int
    examples: int
    tokens: int
    train_loss: float | None  # mean over the steps since the last point
    cost_train_s: float
    cost_eval_s: float
    wall_s: float


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine had no memory left."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _OUT_OF_MEMORY)


class Course:
    """`status` is `stopped` until the run ends some way, `error` says why in one line; `curve` begins at fidelity 0."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.status: Status = "stopped"
        self.error: str | None = None
        self.curve: list[CurvePoint] = []
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def zero_shot(self) -> CurvePoint:
        """Fidelity 0. Raises FtmetaError before it is measured."""
        if not self.curve:
            raise FtmetaError("the zero-shot score is not measured yet; iterate over the run first")
        return self.curve[0]

    @property
    def fidelity(self) -> int:
        """The one to be measured next."""
        return len(self.curve)

    def take_up(self, curve: Sequence[CurvePoint], started_at: str) -> None:
        """Goes on from a checkpoint's curve. Put aside after the point that shows its divergence, it stays diverged."""
        self.curve, self.started_at = list(curve), started_at
        if self.fidelity > self.spec.budget.max_fidelity:
            self.status = "ok"
        if self.curve:
            self._check(self.curve[-1])

    def measured(self, counts: Counts, validation: evaluate.Likelihood, test: evaluate.Likelihood | None) -> CurvePoint:
        """Adds a point, and ends the run if it is the last one or shows that the run diverged. Test scores are there
        from the beginning of a run or not at all. Raises FtmetaError if the base model's own NLL is not finite."""
        zero_val = self.curve[0].val_nll if self.curve else validation.nll
        assert zero_val is not None
        if not self.curve and not (math.isfinite(validation.nll) and (test is None or math.isfinite(test.nll))):
            raise FtmetaError(f"the base model's own NLL is not finite ({validation.nll}); its weights are unusable")
        test_score = test_nll = None
        if test is not None:
            zero_test = self.curve[0].test_nll if self.curve else test.nll
            assert zero_test is not None
            test_score = evaluate.score_of(test.nll, zero_test)
            test_nll = test.nll if math.isfinite(test.nll) else None
        finite = math.isfinite(validation.nll)
        return self._add(
            CurvePoint(
                fidelity=self.fidelity,
                step=counts.step,
                examples=counts.examples,
                tokens=counts.tokens,
                score=evaluate.score_of(validation.nll, zero_val),
                val_nll=validation.nll if finite else None,
                val_token_accuracy=validation.token_accuracy if finite else None,
                test_score=test_score,
                test_nll=test_nll,
                train_loss=counts.train_loss,
                cost_train_s=counts.cost_train_s,
                cost_eval_s=counts.cost_eval_s,
                cost_s=counts.cost_train_s + counts.cost_eval_s,
                wall_s=counts.wall_s,
            )
        )

    def repeated(self, wall_s: float) -> CurvePoint:
        """Adds a point like the last one: the task is so small that no step was taken since."""
        return self._add(replace(self.curve[-1], fidelity=self.fidelity, train_loss=None, wall_s=wall_s))

    def end(self, error: Exception) -> None:
        """Ends the run with the status that the error stands for."""
        status: Status = "oom" if is_out_of_memory(error) else "error"
        if isinstance(error, FloatingPointError):
            status = "diverged"
        logging.getLogger(__name__).debug("run %s: %s", self.spec.run_id, status, exc_info=error)
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, FloatingPointError) else f"{type(error).__name__}: "
        self.status, self.error = status, (kind + lines[0])[:500]

    def result(
        self,
        *,
        cost_s: float,
        wall_s: float,
        peak_memory_gb: float,
        device: str,
        generation: Mapping[str, float] | None,
    ) -> RunResult:
        """The run's row and curve as they are now."""
        spec = self.spec
        row = RunRow(
            run_id=spec.run_id,
            task=spec.task,
            base_model=spec.base_model,
            seed=spec.seed,
            status=self.status,
            error=self.error,
            max_fidelity=spec.budget.max_fidelity,
            fidelity=self.curve[-1].fidelity if self.curve else 0,
            cost_s=cost_s,
            wall_s=wall_s,
            peak_memory_gb=peak_memory_gb,
            device=device,
            code_version=code_version(),
            task_fingerprint=spec.task_fingerprint,
            base_model_fingerprint=spec.base_model_fingerprint,
            space=spec.pipeline.space,
            started_at=self.started_at,
            pipeline=spec.pipeline,
            libraries=library_versions(),
            generation=generation,
        )
        return RunResult(row, tuple(self.curve))

    def _add(self, point: CurvePoint) -> CurvePoint:
        self.curve.append(point)
        self._check(point)
        if point.fidelity == self.spec.budget.max_fidelity and self.status == "stopped":
            self.status = "ok"
        return point

    def _check(self, point: CurvePoint) -> None:
        limit = 2 * self.zero_shot.val_nll + 1 if self.zero_shot.val_nll is not None else math.inf
        if point.val_nll is None or point.val_nll > limit:
            self.end(
                FloatingPointError(f"fidelity {point.fidelity}: validation NLL {point.val_nll}, limit {limit:.3f}")
            )
