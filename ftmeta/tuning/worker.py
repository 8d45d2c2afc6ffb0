"""What a slot does in its own process: it keeps the base model, the tokens, and the run that it last worked on.

A run that goes on where it stopped on this slot needs no checkpoint. One that comes from another slot, or comes back
later, is read from its folder; a checkpoint that is gone or torn is no failure: the run is made again from the start,
and is the same run.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ftmeta.errors import DataError
from ftmeta.finetune import Finetuning, finetune, tokenize_task
from ftmeta.finetune.checkpoint import try_to_save
from ftmeta.finetune.single import conclude
from ftmeta.models import LoadedModel
from ftmeta.schema import CurvePoint, RunSpec, Task
from ftmeta.tuning.checkpoints import folder_of
from ftmeta.tuning.work import Advance, Advanced, Answer, Conclude, Concluded, Validate, Validated, Work

log = logging.getLogger("ftmeta.tune")


class TuneWorker:
    def __init__(self, task: Task, base: LoadedModel) -> None:
        self._task, self._base = task, base
        self._tokenized = tokenize_task(task, base)
        self._run: Finetuning | None = None

    def do(self, work: Work) -> Answer:
        """Raises what the work raises, but for what a run can end with."""
        if isinstance(work, Advance):
            return self._advance(work)
        if isinstance(work, Validate):
            return self._validate(work)
        return self._conclude(work)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

    def _advance(self, work: Advance) -> Advanced:
        began, before_s = time.perf_counter(), 0.0
        run = self._run
        if run is not None and run.spec == work.spec and len(run.curve) == work.fidelity and run.status == "stopped":
            before_s = run.curve[-1].cost_s
        else:
            run = self._taken_up(work.spec, work.start, work.folder)
            before_s = run.curve[-1].cost_s if run.curve else 0.0
        points: list[CurvePoint] = []
        began_work = time.perf_counter()
        while len(run.curve) <= work.fidelity and (point := next(run, None)) is not None:
            points.append(point)
        busy_s = time.perf_counter() - began_work
        result = run.result()
        unsaved = None
        if run.status in ("stopped", "ok"):
            unsaved = try_to_save(run.save_checkpoint, folder_of(work.folder, work.fidelity))
        else:
            self.close()
        return Advanced(
            points=tuple(points),
            status=result.run.status,
            error=result.run.error,
            device_s=result.run.cost_s - before_s,
            device=result.run.device,
            peak_memory_gb=result.run.peak_memory_gb,
            wall_s=time.perf_counter() - began,
            busy_s=busy_s,
            unsaved=unsaved,
        )

    def _taken_up(self, spec: RunSpec, start: int, folder: Path) -> Finetuning:
        """The run at fidelity `start`, or from the base model where there is no usable checkpoint of that."""
        self.close()
        if start:
            try:
                self._run = self._began(spec, folder_of(folder, start))
                return self._run
            except DataError as error:
                log.warning("%s; the run is made again from the start", error)
        self._run = self._began(spec, None)
        return self._run

    def _began(self, spec: RunSpec, checkpoint: Path | None) -> Finetuning:
        return finetune(
            spec.pipeline,
            self._task,
            self._base,
            spec.seed,
            budget=spec.budget,
            checkpoint=checkpoint,
            tokenized=self._tokenized,
            score_test=False,
        )

    def _at(self, spec: RunSpec, fidelity: int, folder: Path) -> Finetuning:
        """The run exactly at that fidelity, made again if need be."""
        run = self._run
        if run is None or run.spec != spec or len(run.curve) != fidelity + 1:
            run = self._taken_up(spec, fidelity, folder)
        while len(run.curve) <= fidelity:
            next(run)
        return run

    def _validate(self, work: Validate) -> Validated:
        run = self._at(work.spec, work.fidelity, work.folder)
        nll, cost_s = run.validate_whole()
        return Validated(nll, len(self._tokenized.splits["validation"]), cost_s)

    def _conclude(self, work: Conclude) -> Concluded:
        document, write = conclude(self._at(work.spec, work.fidelity, work.folder), work.out)
        write()
        return Concluded(document)
