"""The loop: asks the optimizer, starts work on free slots, waits, tells, until the budget is spent.

In: a problem, an optimizer whose asks and tells are kept (ftmeta/optimizers/state.py), slots, a journal. Out: why it
stopped; what was found is in the journal and in the checkpoints.

A step of an optimizer is done one fidelity at a time, so the budget is looked at between any two fidelities: one is
started only if what it is expected to take is left. What it is expected to take: what fidelities of this run took on
average, before it has any the optimizer's own prediction, or what first fidelities of other runs took. So the budget is
overrun by a wrong prediction at most, and by no more than the fidelities under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from ftmeta.errors import FtmetaError, UserError
from ftmeta.optimizers.guarded import Guarded
from ftmeta.optimizers.protocol import Outcome, Problem, Step
from ftmeta.optimizers.state import Recorded
from ftmeta.schema import RunSpec
from ftmeta.tuning import checkpoints
from ftmeta.tuning.journal import Journal, Trial
from ftmeta.tuning.limit import Limit
from ftmeta.tuning.work import Advance, Advanced, Answer, Lost, Slots

Why = Literal["budget", "no gain expected", "nothing left to run", "interrupted"]

INTERRUPTED: Why = "interrupted"
FELL_BACK = "fell back"  # the event in the journal

_TICK_S = 0.5
_DECLINED = 10  # steps that the budget does not allow, in a row: then none is looked for any more
_LOSSES_OF_A_RUN = 2  # then it is the run that kills its workers
_LOSSES_IN_A_ROW = 4  # of each slot, without anything done: then it is not the runs

log = logging.getLogger("ftmeta.tune")


@runtime_checkable
class Foreseeing(Protocol):
    """An optimizer that says what it expects."""

    @property
    def expected_gain(self) -> float | None: ...
    def expects(self, candidate: int, fidelity: int) -> tuple[float, float]: ...
    def cost_s(self, candidate: int, start: int, fidelity: int) -> float: ...


@dataclass(frozen=True)
class Settings:
    """`least_gain`: in score units; where no candidate promises as much, the rest of the budget is not spent."""

    least_gain: float = 0.0005
    keep_paused: int = 20
    reserve_s: Callable[[Journal], float] = lambda journal: 0.0  # of the budget, for what comes after the loop


@dataclass
class _UnderWay:
    step: Step
    work: Advance
    since: float
    expected_s: float


@dataclass
class Loop:
    """`specs` are the runs of the problem's candidates, in their order; `folder` is where checkpoints lie."""

    problem: Problem
    specs: tuple[RunSpec, ...]
    optimizer: Recorded
    limit: Limit
    slots: Slots
    journal: Journal
    folder: Path
    settings: Settings = Settings()
    show: Callable[[Loop], None] = lambda loop: None
    report: Callable[[str, Trial], None] = lambda run_id, trial: None  # called whenever a run has come further
    clock: Callable[[], float] = time.monotonic
    began: float | None = None  # this session's beginning, by `clock`; None: now

    why: Why | None = field(default=None, init=False)
    is_interrupted: bool = field(default=False, init=False)
    at_work: dict[int, _UnderWay] = field(default_factory=dict, init=False)  # by slot
    _holds: dict[int, str] = field(default_factory=dict, init=False)  # run id that a slot has in memory
    _doubtful: set[int] = field(default_factory=set, init=False)  # slots whose last work was lost
    _waiting: list[Step] = field(default_factory=list, init=False)  # begun, and more fidelities to go
    _spent_on: dict[Step, float] = field(default_factory=dict, init=False)  # seconds of work
    _losses_in_a_row: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        began = self.clock() if self.began is None else self.began
        self._session_began = began - self.journal.spent.wall_s

    def interrupt(self) -> None:
        """Nothing more is started."""
        self.is_interrupted = True
        self.why = self.why or INTERRUPTED

    def run(self) -> Why:
        """Raises UserError if the budget is too small for a single fidelity, FtmetaError if workers die one after the
        other."""
        for step in list(self.optimizer.under_way):  # of a session that was killed
            trial = self.journal.trials.get(self.specs[step.candidate].run_id)
            if trial is not None and self._is_done(step, trial):
                self._tell(step, trial)
            else:
                self._waiting.append(step)
        while True:
            self._look_at_the_clock()
            self._fill()
            if not self.at_work:
                break
            for slot, answer in self.slots.wait(_TICK_S):
                self._look_at_the_clock()
                self._take(slot, answer)
            self.show(self)
        assert self.why is not None
        self.journal.say("stopped", why=self.why)
        return self.why

    # --- starting -----------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while self.why is None and len(self.at_work) < self.slots.size:
            step = self._next_step()
            if step is None:
                return
            self._start(step)

    def _next_step(self) -> Step | None:
        """One that the budget allows; where there is none now, None, and `why` if there will be none."""
        for begun in self._waiting:
            if self._allows(begun):
                self._waiting.remove(begun)
                return begun
        for _ in range(_DECLINED):
            if self._has_no_hope():
                self.why = "no gain expected"
                return None
            began = self.clock()
            step = self.optimizer.ask()
            self.journal.spent.device_s += self.clock() - began
            self._look_at_the_clock()
            if step is None:
                if not self.at_work:
                    self.why = "budget" if self._waiting else "nothing left to run"
                return None
            if self._allows(step):
                return step
            self._waiting.append(step)
            if not self.at_work and not self.journal.trials:
                raise UserError(self._too_small(step))
        self.why = "budget"
        return None

    def _has_no_hope(self) -> bool:
        inside = self.optimizer.inside
        gain = inside.expected_gain if self.journal.trials and isinstance(inside, Foreseeing) else None
        return gain is not None and gain < self.settings.least_gain

    def _allows(self, step: Step) -> bool:
        under_way_s = sum(max(one.expected_s - (self.clock() - one.since), 0.0) for one in self.at_work.values())
        left_s = self.limit.left(self.journal.spent) - self.settings.reserve_s(self.journal)
        if self.limit.kind != "wall":
            left_s -= under_way_s
        return self._expected_s(step) <= left_s

    def _expected_s(self, step: Step) -> float:
        """Seconds of the step's next fidelity."""
        spec = self.specs[step.candidate]
        trial = self.journal.trials.get(spec.run_id)
        if trial is not None and trial.reached:
            return self._taken(trial) / trial.reached
        if isinstance(self.optimizer.inside, Foreseeing):
            return self.optimizer.inside.cost_s(step.candidate, step.start, step.start + 1)
        firsts = [self._taken(one) / one.reached for one in self.journal.trials.values() if one.reached]
        return sum(firsts) / len(firsts) if firsts else 0.0

    def _taken(self, trial: Trial) -> float:
        return trial.wall_s if self.limit.kind == "wall" else trial.device_s

    def _too_small(self, step: Step) -> str:
        least_s = self._expected_s(step) + self.settings.reserve_s(self.journal)
        left_s = self.limit.left(self.journal.spent)
        return (
            f"the budget is too small: {max(left_s, 0):.3g} s are left of it, and one fidelity of the first run is "
            f"expected to take {least_s:.3g} s; give at least {1.2 * least_s:.2g} s, better a hundred times that"
        )

    def _start(self, step: Step) -> None:
        spec = self.specs[step.candidate]
        trial = self.journal.trials.get(spec.run_id)
        if trial is None:
            self.journal.begun(spec.run_id, step.candidate, self._expectation(step))
            trial = self.journal.trials[spec.run_id]
        free = [slot for slot in range(self.slots.size) if slot not in self.at_work]
        holds = self._holds
        slot = min(free, key=lambda s: (holds.get(s) != spec.run_id, s in self._doubtful, s in holds, s))
        work = Advance(spec, trial.reached, self.folder / spec.run_id)
        self.at_work[slot] = _UnderWay(step, work, self.clock(), self._expected_s(step))
        self._holds[slot] = spec.run_id
        self.slots.start(slot, work)

    def _expectation(self, step: Step) -> tuple[float, float] | None:
        if not isinstance(self.optimizer.inside, Foreseeing):
            return None
        return self.optimizer.inside.expects(step.candidate, self.problem.max_fidelity)

    # --- taking -------------------------------------------------------------------------------------------------------

    def _take(self, slot: int, answer: Answer) -> None:
        under_way = self.at_work.pop(slot)
        step, spec = under_way.step, under_way.work.spec
        if isinstance(answer, Lost):
            self._take_loss(slot, under_way, answer)
            return
        assert isinstance(answer, Advanced)
        self._losses_in_a_row = 0
        self._doubtful.discard(slot)
        self.journal.advanced(spec.run_id, answer)
        if answer.unsaved is not None:
            log.warning("%s; runs go on without a checkpoint of it", answer.unsaved)
        taken_s = answer.wall_s if self.limit.kind == "wall" else answer.device_s
        self._spent_on[step] = self._spent_on.get(step, 0.0) + taken_s
        trial = self.journal.trials[spec.run_id]
        self._tidy(spec.run_id, trial)
        self.report(spec.run_id, trial)
        if self._is_done(step, trial):
            self._tell(step, trial)
        else:
            self._waiting.insert(0, step)
        if trial.status not in ("stopped", "ok"):
            log.info("run %s ended as %s: %s", spec.run_id, trial.status, trial.error)

    @staticmethod
    def _is_done(step: Step, trial: Trial) -> bool:
        broke_off = trial.status not in ("stopped", "ok") or len(trial.scores(0, trial.reached)) < trial.reached
        return broke_off or trial.reached >= step.fidelity

    def _take_loss(self, slot: int, under_way: _UnderWay, answer: Lost) -> None:
        spec, step = under_way.work.spec, under_way.step
        self._holds.pop(slot, None)
        taken_s = 0.0 if answer.never_began else self.clock() - under_way.since
        self.journal.lost(spec.run_id, answer.why, taken_s, blameless=answer.never_began)
        self._losses_in_a_row += 1
        self._doubtful.add(slot)
        if answer.fatal or self._losses_in_a_row >= _LOSSES_IN_A_ROW * self.slots.size:
            raise FtmetaError(
                f"the workers end one after the other ({answer.why}); everything done is kept in {self.folder.parent}, "
                "and `ftmeta tune --resume` goes on from there"
            )
        trial = self.journal.trials[spec.run_id]
        if trial.losses < _LOSSES_OF_A_RUN:
            log.warning("%s; run %s goes on from its last checkpoint", answer.why, spec.run_id)
            self._waiting.insert(0, step)
            return
        log.warning("%s; run %s has ended %d workers and is given up", answer.why, spec.run_id, trial.losses)
        self.journal.failed(spec.run_id, f"its worker ended {trial.losses} times; last: {answer.why}"[:500])
        self._tell(step, trial)

    def _tell(self, step: Step, trial: Trial) -> None:
        began = self.clock()
        scores = trial.scores(step.start, step.fidelity)
        if trial.status not in ("stopped", "ok"):  # the point that shows a divergence is none to go on from
            scores = scores[: step.fidelity - step.start - 1]
        self.optimizer.tell(Outcome(step, scores, self._spent_on.pop(step, 0.0)))
        self.journal.spent.device_s += self.clock() - began
        inside = self.optimizer.inside
        if isinstance(inside, Guarded) and inside.has_fallen_back and FELL_BACK not in self.journal.said:
            log.warning("what is seen contradicts what was learned on other tasks; a task-only optimizer takes over")
            self.journal.say(FELL_BACK, doubt=inside.doubt)

    def _tidy(self, run_id: str, trial: Trial) -> None:
        """Removes the checkpoints that are not needed any more."""
        folder = self.folder / run_id
        for fidelity in checkpoints.superfluous(trial.curve, checkpoints.there(folder)):
            checkpoints.remove(checkpoints.folder_of(folder, fidelity))
        busy = {one.work.spec.run_id for one in self.at_work.values()}
        saved = {name: checkpoints.there(self.folder / name) for name in self.journal.trials if name not in busy}
        curves = {name: self.journal.trials[name].curve for name in saved}
        for name in checkpoints.dispensable(curves, saved, self.settings.keep_paused):
            checkpoints.remove(self.folder / name)

    # --- looking ------------------------------------------------------------------------------------------------------

    def _look_at_the_clock(self) -> None:
        self.journal.spent.wall_s = self.clock() - self._session_began

    def best(self) -> Iterator[tuple[str, int, float]]:
        """Run, fidelity and score of each run's best point, the best run first; only what is better than the base
        model."""
        found = []
        for run_id, trial in self.journal.trials.items():
            fidelity = checkpoints.best_of(trial.curve, trial.curve.keys())
            if fidelity is not None and trial.curve[fidelity] > 0:
                found.append((run_id, fidelity, trial.curve[fidelity]))
        yield from sorted(found, key=lambda one: (-one[2], one[0]))
