"""A worker of several slots in one process: their runs train side by side on one base model (finetune/vectorized.py).

`do` is called from as many threads as there are slots and returns when that slot's work is done; one thread of the
worker's own does all of it, a tick at a time. What cannot stand beside other runs (DoRA, (IA)3, scoring and handing
over) is done by itself between two ticks. Every answer is that of `TuneWorker`, but for costs, which runs share.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from ftmeta.errors import DataError, FtmetaError
from ftmeta.finetune import tokenize_task
from ftmeta.finetune.vectorized import Cohort, Event
from ftmeta.models import LoadedModel
from ftmeta.schema import CurvePoint, Task
from ftmeta.tuning.checkpoints import folder_of
from ftmeta.tuning.work import Advance, Advanced, Answer, Work
from ftmeta.tuning.worker import TuneWorker

log = logging.getLogger("ftmeta.tune")


@dataclass
class _UnderWay:
    work: Advance
    answer: Future[Answer]
    began: float
    points: list[CurvePoint] = field(default_factory=list)


class SharedWorker:
    """`places` slots. Raises ModelError for a base model that cannot train several runs at once."""

    def __init__(self, task: Task, base: LoadedModel, places: int) -> None:
        self._base, self._places = base, places
        self._tokenized = tokenize_task(task, base)
        self._alone = TuneWorker(task, base)
        self._cohort = self._fresh()
        self._under_way: dict[int, _UnderWay] = {}  # by slot of the cohort
        self._asked: queue.SimpleQueue[tuple[Work, Future[Answer]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="ftmeta-shared-worker", daemon=True)
        self._thread.start()

    def do(self, work: Work) -> Answer:
        """Raises what the work raises, but for what a run can end with."""
        answer: Future[Answer] = Future()
        self._asked.put((work, answer))
        return answer.result()

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _fresh(self) -> Cohort:
        return Cohort(self._base, self._places, score_test=False, generate=False)

    def _serve(self) -> None:
        while True:
            for asked in self._taken():
                if asked is None:
                    self._give_up(FtmetaError("the worker was closed"))
                    return
                work, answer = asked
                try:
                    self._begin(work, answer)
                except BaseException as error:
                    answer.set_exception(error)
            try:
                for event in self._cohort.tick() if self._under_way else ():
                    self._heard(event)
            except BaseException as error:
                self._give_up(error)
                self._cohort = self._fresh()

    def _taken(self) -> list[tuple[Work, Future[Answer]] | None]:
        """All that was asked for since; where nothing is under way, what comes next is waited for."""
        taken = [] if self._under_way else [self._asked.get()]
        while True:
            try:
                taken.append(self._asked.get_nowait())
            except queue.Empty:
                return taken

    def _begin(self, work: Work, answer: Future[Answer]) -> None:
        if not isinstance(work, Advance) or self._cohort.why_not(work.spec, self._tokenized) is not None:
            try:
                answer.set_result(self._alone.do(work))
            finally:
                self._alone.close()  # its adapter would be in the way of the others
            return
        began = time.perf_counter()
        slot = self._opened(work)
        self._under_way[slot] = _UnderWay(work, answer, began)

    def _opened(self, work: Advance) -> int:
        keep = folder_of(work.folder, work.fidelity)
        if work.start:
            try:
                checkpoint = folder_of(work.folder, work.start)
                return self._cohort.open(
                    work.spec, self._tokenized, until=work.fidelity, checkpoint=checkpoint, keep=keep
                )
            except DataError as error:
                log.warning("%s; the run is made again from the start", error)
        return self._cohort.open(work.spec, self._tokenized, until=work.fidelity, keep=keep)

    def _heard(self, event: Event) -> None:
        under_way = self._under_way[event.slot]
        if event.point is not None:
            under_way.points.append(event.point)
        if event.ended is None:
            return
        del self._under_way[event.slot]
        run, curve, new = event.ended.run, event.ended.curve, len(under_way.points)
        before_s = curve[-new - 1].cost_s if new < len(curve) else 0.0
        wall_s = time.perf_counter() - under_way.began
        under_way.answer.set_result(
            Advanced(
                points=tuple(under_way.points),
                status=run.status,
                error=run.error,
                device_s=run.cost_s - before_s,
                device=run.device,
                peak_memory_gb=run.peak_memory_gb,
                wall_s=wall_s,
                busy_s=wall_s,
                unsaved=event.unsaved,
            )
        )

    def _give_up(self, error: BaseException) -> None:
        for under_way in self._under_way.values():
            under_way.answer.set_exception(error)
        self._under_way.clear()
