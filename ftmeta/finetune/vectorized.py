"""The vectorised worker: many runs at once over one frozen base model, each exactly as it is alone.

    cohort = Cohort(base, slots=16)
    slot = cohort.open(spec, tokenized)
    while cohort.is_busy:
        for event in cohort.tick(): ...

A slot holds one run: its pipeline, its task, its adapter, its random numbers. At each tick every run takes one
optimizer step of its own batch, or is measured where it has reached a fidelity. The forward and backward passes of
several runs are one: their tokens are packed side by side (decoder.py), the frozen layers multiply them together, and
each run's two thin LoRA products are its own, computed one run after the other on a CPU (side_by_side.py) and all at
once on a GPU (stacked.py). What a run computes depends on nothing but the run: in float32 its curve is that of
`finetune`, to rounding, whatever its neighbours do. A slot whose run has ended takes the next one.

A run's batch is cut into pieces as if it were alone; pieces of several runs fill a pass of `pass_tokens` together, or
of half as many where memory does not hold it. On a GPU runs that are due to be measured wait until there are enough of
them to fill a pass, or until no run can go on without; so do runs that are at their end and have questions to answer.
Device time of a pass is shared by the tokens that each run had in it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftmeta.errors import FtmetaError, ModelError, UserError
from ftmeta.finetune import adapters, decoder
from ftmeta.finetune.checkpoint import try_to_save
from ftmeta.finetune.clock import Clock, PeakMemory
from ftmeta.finetune.course import Course
from ftmeta.finetune.data import TokenizedTask
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.passes import Padding, Passes
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import Settings, settings_of
from ftmeta.finetune.side_by_side import Adapter, why_not
from ftmeta.finetune.slot_run import SlotRun
from ftmeta.finetune.stacked import Stack
from ftmeta.finetune.training import MICRO_BATCH_TOKENS, Plan
from ftmeta.models import LoadedModel
from ftmeta.schema import CurvePoint, RunResult, RunSpec

# Rows x padded length of a pass. On a CPU a pass beyond the caches gains nothing.
PASS_TOKENS = {"cpu": 1024, "cuda": 65536}
_STARTS = 16  # initial adapters that are kept: runs of a sweep share their seed
_SPEAK_SHARE = 8  # where runs wait: one of so many slots is at its end before questions are answered
_DTYPES = (torch.float32, torch.bfloat16)

log = logging.getLogger("ftmeta.finetune")


@dataclass(frozen=True)
class Event:
    """What a tick has to say of one slot: a new point, or, once, that the run there has ended (the slot is free).
    `unsaved`: why it has no checkpoint where it was to be kept."""

    slot: int
    point: CurvePoint | None = None
    ended: RunResult | None = None
    unsaved: str | None = None


class Cohort:
    """`slots` places for runs on one base model.

    `pass_tokens`: rows x padded length of all pieces in a pass; None takes the device's default. `generate`: a run that
    comes to its end answers test questions, for the generation metrics of its row. `stacked`: the adapters' products
    are computed all at once, which half precision needs; None: on a GPU, and in half precision. `wait_tokens`: runs
    wait to be measured until they have so many tokens together; None: none on a CPU, half a pass on a GPU. Raises
    ModelError for a base model that has no lean forward pass.
    """

    def __init__(
        self,
        base: LoadedModel,
        slots: int,
        *,
        execution: Execution = Execution(),  # noqa: B008  # frozen
        pass_tokens: int | None = None,
        score_test: bool = True,
        generate: bool = True,
        stacked: bool | None = None,
        wait_tokens: int | None = None,
    ) -> None:
        if slots < 1:
            raise UserError(f"a cohort has at least one slot, not {slots}")
        self._base, self._generate = base, generate
        kind, is_half = base.device.type, base.model.dtype == torch.bfloat16
        if not decoder.is_supported(base.model, 1, _DTYPES):
            raise ModelError(
                f"base model '{base.info.name}' cannot train several runs at once: that takes a Phi-3 or Llama in "
                "float32 or bfloat16; run its pipelines one at a time"
            )
        is_stacked = kind == "cuda" or is_half if stacked is None else stacked
        if is_half and not is_stacked:
            raise ModelError("in bfloat16 the adapters' products are computed all at once; leave `stacked` out")
        self._limit = execution.micro_batch_tokens or MICRO_BATCH_TOKENS[kind]
        pass_tokens = pass_tokens or max(self._limit, PASS_TOKENS[kind])
        self._wait_tokens = (pass_tokens // 2 if kind == "cuda" else 0) if wait_tokens is None else wait_tokens
        self._wait_runs = math.ceil(slots / _SPEAK_SHARE) if self._wait_tokens else 1
        self._stack = Stack(base.model, slots) if is_stacked else None
        self._clock = Clock(base.device)
        self._passes = Passes(
            *(base, self._stack, self._clock),
            piece_tokens=self._limit,
            pass_tokens=pass_tokens,
            score_test=score_test,
        )
        self._runs: list[SlotRun | None] = [None] * slots
        self._starts: dict[tuple[Any, ...], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}

    @property
    def free(self) -> list[int]:
        return [slot for slot, run in enumerate(self._runs) if run is None]

    @property
    def is_busy(self) -> bool:
        return any(run is not None for run in self._runs)

    @property
    def padding(self) -> Padding:
        """Of all training passes so far. Outside of attention there is none."""
        return self._passes.padding

    def open(
        self,
        spec: RunSpec,
        tokenized: TokenizedTask,
        *,
        until: int | None = None,
        checkpoint: Path | str | None = None,
        keep: Path | None = None,
    ) -> int:
        """Puts a run into a free slot, to be ended after fidelity `until` (None: the last), going on from `checkpoint`
        as `finetune` does. Where it ends without a failure, its checkpoint is written to `keep`. Returns the slot.
        Raises UserError for a run that cannot stand beside others."""
        if not self.free:
            raise FtmetaError("no slot of the cohort is free; wait until a run has ended")
        settings, base, slot = settings_of(spec.pipeline), self._base, self.free[0]
        reason = self.why_not(spec, tokenized)
        if reason is not None:
            raise UserError(reason)
        plan = Plan(tokenized, settings, spec.budget, spec.seed)
        start, state = self._start(settings, spec.seed)
        run = SlotRun(
            slot=slot,
            course=Course(spec),
            tokenized=tokenized,
            plan=plan,
            adapter=self._seat(slot, start, settings),
            generator=torch.Generator(base.device),
            peak=self._peak(),
            until=until,
            keep=keep,
        )
        if checkpoint is not None:
            state = run.take_up(checkpoint) or state
        run.generator.set_state(state[base.device.type])
        self._runs[slot] = run
        return slot

    def why_not(self, spec: RunSpec, tokenized: TokenizedTask) -> str | None:
        """Why a run cannot stand beside others here; None if it can."""
        reason = why_not(settings_of(spec.pipeline))
        if reason is not None:
            return f"pipeline {spec.pipeline.id}: {reason}"
        longest = max(len(row) for rows in tokenized.splits.values() for row in rows)
        if not decoder.is_supported(self._base.model, longest, _DTYPES):
            return f"task '{spec.task}' has rows of {longest} tokens, more than the model's window; run it alone"
        return None

    def tick(self) -> list[Event]:
        """One optimizer step of every run, after measuring those that have reached a fidelity."""
        events = list(self._measured())
        stepping = [run for run in self._runs if run is not None and not run.is_due and not run.is_at_its_end]
        events.extend(self._ended(run) for run in self._step(stepping))
        return events

    def step_of(self, slot: int) -> tuple[int, float] | None:
        """Optimizer steps that the run in a slot has taken, and the loss of the last one; None for an empty slot."""
        run = self._runs[slot]
        return None if run is None else (run.step, run.step_loss)

    def close(self, slot: int) -> RunResult:
        """Ends the run in a slot as it is, with status `stopped` if it could go on."""
        run = self._run_in(slot)
        if self._speaks(run):
            self._passes.answer([run])
        ended = self._ended(run).ended
        assert ended is not None
        return ended

    def save_checkpoint(self, slot: int, folder: Path | str) -> None:
        """Writes what `finetune(..., checkpoint=folder)` and `open` go on from."""
        self._run_in(slot).save(folder)

    def _run_in(self, slot: int) -> SlotRun:
        run = self._runs[slot]
        if run is None:
            raise FtmetaError(f"slot {slot} is empty")
        return run

    def _peak(self) -> PeakMemory:
        """A new one sets the device's mark back, so the others note what theirs was."""
        for run in self._runs:
            if run is not None:
                run.peak.gb()
        return PeakMemory(self._base.device)

    # --- seats --------------------------------------------------------------------------------------------------------

    def _start(self, settings: Settings, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """PEFT's initial adapter of a run, and the state of its random numbers after it."""
        shape = settings.peft_method, settings.lora_rank, settings.target_modules, settings.adapted_layers
        key = (seed, *shape)
        if key not in self._starts:
            base, randomness = self._base, Randomness(seed, self._base.device)
            with randomness.active():
                adapted = adapters.attach(base.model, adapters.adapter_config(settings, base.model.config))
            try:
                start = {name: parameter.detach().clone() for name, parameter in adapters.trainable(adapted).items()}
            finally:
                adapters.detach(adapted)
            if len(self._starts) >= _STARTS:
                del self._starts[next(iter(self._starts))]
            self._starts[key] = start, randomness.state()
        return self._starts[key]

    def _seat(self, slot: int, start: Mapping[str, torch.Tensor], settings: Settings) -> Adapter:
        learning_rate = settings.lr_multiplier * self._base.info.reference_lr
        if self._stack is not None:
            return self._stack.seat(slot, start, settings, learning_rate)
        return Adapter(start, settings, learning_rate)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _measured(self) -> Iterator[Event]:
        """The points that are due, and the ends of runs."""
        while True:
            at_their_end = [run for run in self._runs if run is not None and run.is_at_its_end]
            going = [run for run in self._runs if run is not None and not run.is_at_its_end]
            speaking = [run for run in at_their_end if self._speaks(run)]
            if speaking and (not going or len(speaking) >= self._wait_runs):
                self._passes.answer(speaking)
            yield from (self._ended(run) for run in at_their_end if not self._speaks(run))
            due = [run for run in going if run.is_due]
            if not due or (len(due) < len(going) and sum(map(self._passes.tokens_to_measure, due)) < self._wait_tokens):
                return
            yield from self._points(due)

    def _points(self, due: Sequence[SlotRun]) -> Iterator[Event]:
        """The next point of each, where it does not fail."""
        found = self._passes.measure([run for run in due if not run.repeats])
        for run in due:
            try:
                if run.repeats:
                    point = run.course.repeated(run.wall_s)
                else:
                    measured = found[run.slot]
                    if isinstance(measured, Exception):
                        raise measured
                    validation, test = measured
                    point = run.course.measured(run.counts(), validation, test)
                    run.losses = []
                yield Event(run.slot, point)
            except UserError:
                raise
            except Exception as error:
                run.course.end(error)

    # --- training -----------------------------------------------------------------------------------------------------

    def _step(self, runs: Sequence[SlotRun]) -> Iterator[SlotRun]:
        """One optimizer step of each run; those that end in it are given back."""
        losses = self._passes.train(runs, [run.pieces(self._limit) for run in runs])
        stepping = [(run, loss) for run, loss in zip(runs, losses, strict=True) if isinstance(loss, torch.Tensor)]
        for run, loss in zip(runs, losses, strict=True):
            if isinstance(loss, Exception):
                run.course.end(loss)
                yield run
        if not stepping:
            return
        before_s, failed = self._clock.cost_s, []
        with self._clock.measure():
            values = torch.stack([torch.stack([loss, run.adapter.gradient_norm()]) for run, loss in stepping]).tolist()
            for (run, _), (value, norm) in zip(stepping, values, strict=True):
                try:
                    run.update(value, norm)
                except Exception as error:
                    run.course.end(error)
                    failed.append(run)
        spent_s, weights = self._clock.cost_s - before_s, sum(run.adapter.size for run, _ in stepping)
        for run, _ in stepping:
            run.cost_train_s += spent_s * run.adapter.size / weights
        yield from failed

    # --- the end ------------------------------------------------------------------------------------------------------

    def _ended(self, run: SlotRun) -> Event:
        self._runs[run.slot] = None
        unsaved = None
        if run.keep is not None and run.course.status in ("stopped", "ok"):
            unsaved = try_to_save(run.save, run.keep)
        result = run.course.result(
            cost_s=run.cost_train_s + run.cost_eval_s,
            wall_s=run.wall_s,
            peak_memory_gb=run.peak.gb(),
            device=device_name(self._base.device)
            + (f", {len(self._runs)} runs at once" if len(self._runs) > 1 else ""),
            generation=run.generation,
        )
        if self._stack is not None:
            self._stack.leave(run.slot)
        return Event(run.slot, ended=result, unsaved=unsaved)

    def _speaks(self, run: SlotRun) -> bool:
        """It has come to its end and has its questions to answer."""
        return self._generate and run.is_at_its_end and run.course.status == "ok" and run.generation is None
