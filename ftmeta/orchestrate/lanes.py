"""Lanes: slots of a sweep that train many runs at once (`runs_per_slot` in a sweep file).

A lane is a Tune trial that lasts: it takes runs from the driver's queue as places in its cohort become free, and
reports those that have ended. Runs that can stand side by side go first; the others (DoRA, (IA)3) follow one at a time,
when the cohort is empty. What a lane had under way when its process died goes back to the queue, to be made alone; a
run that was under way at two deaths is given up. Where memory does not hold another run, there are fewer places from
then on.

In: the runs of a sweep. Out: their rows, as from any slot.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Trainable

from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.progress import UnderWay
from ftmeta.orchestrate.workers import Run, failed_result, require_planned
from ftmeta.schema import Pipeline, RunResult, RunSpec, Task

if TYPE_CHECKING:
    from ray.tune import Callback

    from ftmeta.finetune import TokenizedTask
    from ftmeta.finetune.vectorized import Cohort
    from ftmeta.models import LoadedModel
    from ftmeta.orchestrate.state import State
    from ftmeta.orchestrate.workers import FinetuneWorker
    from ftmeta.planning.cohort import CohortPlan

REPORT_EVERY_S = 1.0
_DEATHS_OF_A_RUN = 2

log = logging.getLogger("ftmeta.collect")

Take = Callable[[int, bool], Sequence[RunSpec]]  # (how many, alone) -> as many at most


def side_by_side(specs: Sequence[RunSpec]) -> list[Pipeline]:
    """The different pipelines of these runs that can stand beside others."""
    from ftmeta.finetune.settings import settings_of
    from ftmeta.finetune.side_by_side import why_not

    pipelines = {spec.pipeline.id: spec.pipeline for spec in specs}
    return [pipeline for pipeline in pipelines.values() if why_not(settings_of(pipeline)) is None]


class RunQueue:
    """The runs that are to be made, and which lane has which. Those that stand side by side are handed out by rank.
    `ledger`: what somebody finishes meanwhile is skipped, but for the runs in `again`."""

    def __init__(self, specs: Sequence[RunSpec], ledger: Path, again: frozenset[str] = frozenset()) -> None:
        from ftmeta.finetune.settings import settings_of
        from ftmeta.finetune.side_by_side import why_not

        self._ledger, self._again = Ledger(ledger), again
        self._waiting: dict[bool, deque[RunSpec]] = {False: deque(), True: deque()}  # by whether they run alone
        # Adapters that train together are padded to one rank, so like ranks go together, large ones first.
        for spec in sorted(specs, key=lambda spec: -settings_of(spec.pipeline).lora_rank):
            self._waiting[why_not(settings_of(spec.pipeline)) is not None].append(spec)
        self._held: dict[str, dict[str, RunSpec]] = {}
        self._deaths: Counter[str] = Counter()
        self.skipped: list[str] = []

    def take(self, lane: str, count: int, alone: bool) -> list[RunSpec]:
        """Runs for a lane, in their order."""
        found: list[RunSpec] = []
        waiting = self._waiting[alone]
        while waiting and len(found) < count:
            spec = waiting.popleft()
            if spec.run_id not in self._again and self._ledger.has(spec.run_id):
                self.skipped.append(spec.run_id)
            else:
                found.append(spec)
        self._held.setdefault(lane, {}).update({spec.run_id: spec for spec in found})
        return found

    def ended(self, lane: str, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self._held.get(lane, {}).pop(run_id, None)

    def died(self, lane: str) -> list[RunSpec]:
        """The lane is gone: what it had goes back to the front. Returns the runs that are given up."""
        given_up = []
        for run_id, spec in reversed(self._held.pop(lane, {}).items()):
            self._deaths[run_id] += 1
            if self._deaths[run_id] >= _DEATHS_OF_A_RUN:
                given_up.append(spec)
            else:
                self._waiting[True].appendleft(spec)  # by itself, so that it is seen whether it is to blame
        return given_up[::-1]

    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take_skipped(self) -> list[str]:
        """Run ids that somebody else finished, since this was last asked."""
        skipped, self.skipped = self.skipped, []
        return skipped


class Lane:
    """Trains what `take` gives it, as many runs at once as the plan says; `alone` takes what cannot stand beside
    others, on the same base model. Raises ModelError for a base model that cannot."""

    def __init__(
        self,
        base: LoadedModel,
        tasks: Mapping[str, TokenizedTask],
        plan: CohortPlan,
        take: Take,
        alone: FinetuneWorker,
    ) -> None:
        from ftmeta.finetune.vectorized import Cohort

        self._base, self._tasks, self._take, self._alone = base, tasks, take, alone
        self._cohort: Cohort = Cohort(base, plan.places, pass_tokens=plan.pass_tokens)
        self._places = plan.places
        self._specs: dict[int, RunSpec] = {}  # by place
        self._back: list[RunSpec] = []  # taken, and waiting for a place
        self._aside: list[RunSpec] = []  # taken, and found to run by themselves
        self._run: tuple[RunSpec, Run] | None = None
        self._is_exhausted = {False: False, True: False}
        self._fidelities: dict[str, int] = {}  # by run id

    @property
    def is_done(self) -> bool:
        """Nothing under way, and nothing left to take."""
        busy = self._cohort.is_busy or self._run is not None or bool(self._back or self._aside)
        return all(self._is_exhausted.values()) and not busy

    def under_way(self) -> dict[str, tuple[str, str, int, int]]:
        """Run id -> task, pipeline, seed, and the last fidelity."""
        specs = [*self._specs.values(), *(() if self._run is None else (self._run[0],))]
        return {one.run_id: (one.task, one.pipeline.id, one.seed, self._fidelities.get(one.run_id, 0)) for one in specs}

    def reopen(self) -> None:
        """The queue may have something again."""
        self._is_exhausted = {False: False, True: False}

    def work(self, seconds: float) -> list[RunResult]:
        """Works until runs have ended or the time is over; returns those that have."""
        from ftmeta.finetune.course import is_out_of_memory

        deadline = time.monotonic() + seconds
        ended: list[RunResult] = []
        while not self.is_done:
            self._back += self._more()
            while self._back and len(self._specs) < self._places:
                spec = self._back.pop(0)
                try:
                    require_planned(self._base, spec)
                    if self._cohort.why_not(spec, self._tasks[spec.task]) is not None:
                        self._aside.append(spec)
                        continue
                    slot = self._cohort.open(spec, self._tasks[spec.task])
                    self._specs[slot], self._fidelities[spec.run_id] = spec, 0
                except Exception as error:
                    if self._specs and is_out_of_memory(error):
                        self._places = max(1, len(self._specs) // 2)
                        self._back.insert(0, spec)
                        log.warning("memory does not hold %d runs; from here on %d", len(self._specs) + 1, self._places)
                    else:
                        ended.append(_failed(spec, error))
            ended += self._ticked() if self._cohort.is_busy else self._by_itself()
            if ended or time.monotonic() > deadline:
                break
        for result in ended:
            self._fidelities.pop(result.run.run_id, None)
        return ended

    def _more(self) -> Sequence[RunSpec]:
        free = self._places - len(self._specs) - len(self._back)
        if free < 1 or self._is_exhausted[False] or self._run is not None or len(self._aside) >= self._places:
            return []
        found = self._take(free, False)
        self._is_exhausted[False] = not found
        return found

    def _ticked(self) -> list[RunResult]:
        ended = []
        for event in self._cohort.tick():
            spec = self._specs[event.slot]
            if event.point is not None:
                self._fidelities[spec.run_id] = event.point.fidelity
            if event.ended is not None:
                ended.append(event.ended)
                del self._specs[event.slot]
        return ended

    def _by_itself(self) -> list[RunResult]:
        """The next point of a run that cannot stand beside others."""
        if self._run is None:
            taken: Sequence[RunSpec] = [self._aside.pop(0)] if self._aside else self._take(1, True)
            if not taken:
                self._is_exhausted[True] = True
                return []
            try:
                self._run = (taken[0], self._alone.begin(taken[0]))
            except Exception as error:
                return [_failed(taken[0], error)]
        spec, run = self._run
        try:
            point = next(run, None)  # type: ignore[call-overload]
            if point is not None and point.fidelity < spec.budget.max_fidelity:
                self._fidelities[spec.run_id] = point.fidelity
                return []
            result = run.finish()
        except Exception as error:
            run.close()
            result = _failed(spec, error)
        self._run = None
        return [result]


def _failed(spec: RunSpec, error: Exception) -> RunResult:
    from ftmeta.finetune.course import is_out_of_memory

    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:500]
    return failed_result(spec, "oom" if is_out_of_memory(error) else "error", reason)


# --- the driver's side ------------------------------------------------------------------------------------------------


class QueueHandle:
    """The queue as the driver asks it; `actor` is what lanes ask."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def waiting(self) -> int:
        import ray

        return int(ray.get(self.actor.waiting.remote()))

    def lane(self) -> dict[str, Any] | None:
        """What a further lane is configured with; None: nothing is waiting for one."""
        return {} if self.waiting() else None

    def ended(self, lane: str, run_ids: Sequence[str]) -> None:
        self.actor.ended.remote(lane, list(run_ids))

    def died(self, lane: str) -> list[RunSpec]:
        import ray

        found: list[RunSpec] = ray.get(self.actor.died.remote(lane))
        return found

    def take_skipped(self) -> list[str]:
        import ray

        found: list[str] = ray.get(self.actor.take_skipped.remote())
        return found


@contextlib.contextmanager
def queue_of(specs: Sequence[RunSpec], ledger: Path, again: frozenset[str]) -> Iterator[QueueHandle]:
    """A queue in a process of its own, on the driver's node, which sees the ledger."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made: Any = ray.remote(num_cpus=0)(RunQueue)
    actor = made.options(scheduling_strategy=here).remote(list(specs), ledger, again)
    try:
        yield QueueHandle(actor)
    finally:
        ray.kill(actor)


def rows(state: State, queue: QueueHandle) -> Callback:
    """Takes what lanes report."""
    from ray.tune import Callback

    class Rows(Callback):
        def __reduce__(self) -> Any:
            return Callback, ()  # Tune pickles its parts to restore them, and here is nothing to restore

        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            finished, under_way = result.pop("finished", ()), result.pop("under_way", {})
            state.totals.busy_s += result["busy_s"]
            if finished:
                state.deaths = 0
                queue.ended(trial.trial_id, [one.run.run_id for one in finished])
            for one in finished:
                state.take(one, busy_s=0.0)
            for run_id, (task, pipeline, seed, fidelity) in under_way.items():
                run = state.under_way.setdefault(run_id, UnderWay(run_id, task, pipeline, seed))
                run.fidelity = fidelity

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            if state.stop or trial.last_result.get("done"):
                return
            error = trial.get_pickled_error()
            for spec in queue.died(trial.trial_id):
                state.died(spec, error)
            state.count_death(" ".join(str(error).split()))

    return Rows()


# --- the slot ---------------------------------------------------------------------------------------------------------


class LaneSlot(Trainable):
    """A lane as a Tune trial. Reports `finished` (RunResults), `under_way` (as `Lane.under_way`) and `busy_s`."""

    _lane: Lane

    def setup(
        self,
        config: dict[str, Any],
        tasks: Mapping[str, Task] | None = None,
        queue: Any = None,
        make_worker: Callable[[Mapping[str, Task]], FinetuneWorker] | None = None,
        plan: Callable[[LoadedModel, Mapping[str, TokenizedTask]], CohortPlan] | None = None,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        from ftmeta.finetune import tokenize_task

        logging.getLogger("httpx").setLevel(logging.WARNING)
        assert make_worker is not None, "Tune passes it"
        assert plan is not None, "Tune passes it"
        self._queue, self._report_every_s = queue, report_every_s
        worker = make_worker(tasks or {})
        tokenized = {name: tokenize_task(task, worker.base) for name, task in (tasks or {}).items()}
        self._lane = Lane(worker.base, tokenized, plan(worker.base, tokenized), self._take, worker)

    def _take(self, count: int, alone: bool) -> Sequence[RunSpec]:
        import ray

        found: list[RunSpec] = ray.get(self._queue.take.remote(self.trial_id, count, alone))
        return found

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._lane.reopen()
        return True

    def step(self) -> dict[str, Any]:
        began = time.monotonic()
        ended = self._lane.work(self._report_every_s)
        return {
            "finished": ended,
            "under_way": self._lane.under_way(),
            "busy_s": time.monotonic() - began,
            "done": self._lane.is_done,
        }
