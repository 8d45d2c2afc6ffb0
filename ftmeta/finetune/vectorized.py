"""The vectorised worker: many runs at once over one frozen base model, each exactly as it is alone.

    cohort = Cohort(base, slots=16)
    slot = cohort.open(spec, tokenized)
    while cohort.is_busy:
        for event in cohort.tick(): ...

A slot holds one run: its pipeline, its task, its adapter, its random numbers. At each tick every run takes one
optimizer step of its own batch, or is measured where it has reached a fidelity. The forward and backward passes of
several runs are one: their tokens are packed side by side (decoder.py), the frozen layers multiply them together, and
each run's two thin LoRA products are its own (side_by_side.py). What a run computes depends on nothing but the run: its
curve is that of `finetune`, to the rounding of float32, whatever its neighbours do. A slot whose run has ended takes
the next one.

A run's batch is cut into pieces as if it were alone; pieces of several runs fill a pass of `pass_tokens` together, or
of half as many where memory does not hold it.
Device time of a pass is shared by the tokens that each run had in it.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ftmeta.errors import FtmetaError, ModelError, UserError
from ftmeta.finetune import adapters, decoder, evaluate
from ftmeta.finetune import checkpoint as checkpoints
from ftmeta.finetune.checkpoint import Progress
from ftmeta.finetune.clock import Clock, PeakMemory
from ftmeta.finetune.course import Counts, Course, is_out_of_memory
from ftmeta.finetune.data import Batch, TokenizedTask, Tokens, collate, micro_batches
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.neftune import with_noise
from ftmeta.finetune.optim import lr_factor
from ftmeta.finetune.products import frozen_linear
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import settings_of
from ftmeta.finetune.side_by_side import Adapter, Part, Projection, merged, why_not
from ftmeta.finetune.training import MICRO_BATCH_TOKENS, Plan
from ftmeta.finetune.worker import finetune
from ftmeta.models import LoadedModel
from ftmeta.schema import CurvePoint, RunResult, RunSpec, Split

# Rows x padded length of a pass. On a CPU a pass beyond the caches gains nothing.
_PASS_TOKENS = {"cpu": 1024, "cuda": 262144}

log = logging.getLogger("ftmeta.finetune")


@dataclass(frozen=True)
class Event:
    """What a tick has to say of one slot: a new point, or, once, that the run there has ended (the slot is free)."""

    slot: int
    point: CurvePoint | None = None
    ended: RunResult | None = None


@dataclass
class _Run:
    """One run in a slot."""

    course: Course
    tokenized: TokenizedTask
    plan: Plan
    adapter: Adapter
    generator: torch.Generator
    peak: PeakMemory
    step: int = 0
    examples: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # since the last point
    step_loss: float = math.nan  # of the last step
    cost_train_s: float = 0.0
    cost_eval_s: float = 0.0
    wall_before_s: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    until: int | None = None

    @property
    def next_point_at(self) -> int:
        """The step at which the next point is measured."""
        return round(self.course.fidelity / self.course.spec.budget.max_fidelity * len(self.plan.batches))

    @property
    def wall_s(self) -> float:
        return self.wall_before_s + time.perf_counter() - self.began

    @property
    def is_at_its_end(self) -> bool:
        last = self.course.spec.budget.max_fidelity if self.until is None else self.until
        return self.course.status != "stopped" or self.course.fidelity > last


class _TooMuch(Exception):  # noqa: N818  # a signal
    """A pass of several runs has run out of memory."""


def _is_well(loss: torch.Tensor | Exception) -> bool:
    return isinstance(loss, torch.Tensor)


@dataclass(frozen=True)
class _Piece:
    """A part of a run's batch that is computed in one pass."""

    run: _Run
    rows: list[Tokens]
    labels: int  # of the whole batch

    @property
    def padded_tokens(self) -> int:
        return len(self.rows) * max(len(row) for row in self.rows)


class Cohort:
    """`slots` places for runs on one base model. `pass_tokens`: rows x padded length of all pieces in a pass; None
    takes the device's default. `generate`: a run that comes to its end answers test questions, for the generation
    metrics of its row. Raises ModelError for a base model that has no lean forward pass."""

    def __init__(
        self,
        base: LoadedModel,
        slots: int,
        *,
        execution: Execution = Execution(),  # noqa: B008  # frozen
        pass_tokens: int | None = None,
        score_test: bool = True,
        generate: bool = True,
    ) -> None:
        if slots < 1:
            raise UserError(f"a cohort has at least one slot, not {slots}")
        self._base, self._score_test, self._generate = base, score_test, generate
        self._limit = execution.micro_batch_tokens or MICRO_BATCH_TOKENS[base.device.type]
        self._pass_tokens = pass_tokens or max(self._limit, _PASS_TOKENS[base.device.type])
        if not decoder.is_supported(base.model, 1):
            raise ModelError(
                f"base model '{base.info.name}' cannot train several runs at once: that takes a Phi-3 or Llama in "
                "float32; run its pipelines one at a time"
            )
        self._projection = Projection(base.model)
        self._runs: list[_Run | None] = [None] * slots
        self._clock = Clock(base.device)

    @property
    def free(self) -> list[int]:
        return [slot for slot, run in enumerate(self._runs) if run is None]

    @property
    def is_busy(self) -> bool:
        return any(run is not None for run in self._runs)

    def open(
        self,
        spec: RunSpec,
        tokenized: TokenizedTask,
        *,
        until: int | None = None,
        checkpoint: Path | str | None = None,
    ) -> int:
        """Puts a run into a free slot, to be ended after fidelity `until` (None: the last), going on from `checkpoint`
        as `finetune` does. Returns the slot. Raises UserError for a run that cannot stand beside others."""
        if not self.free:
            raise FtmetaError("no slot of the cohort is free; wait until a run has ended")
        settings, base = settings_of(spec.pipeline), self._base
        reason = why_not(settings)
        if reason is not None:
            raise UserError(f"pipeline {spec.pipeline.id}: {reason}")
        longest = max(len(row) for rows in tokenized.splits.values() for row in rows)
        if not decoder.is_supported(base.model, longest):
            raise UserError(
                f"task '{spec.task}' has rows of {longest} tokens, more than the model's window; run it alone"
            )
        randomness = Randomness(spec.seed, base.device)
        with randomness.active():
            adapted = adapters.attach(base.model, adapters.adapter_config(settings, base.model.config))
        try:
            start = {name: parameter.detach().clone() for name, parameter in adapters.trainable(adapted).items()}
        finally:
            adapters.detach(adapted)
        run = _Run(
            course=Course(spec),
            tokenized=tokenized,
            plan=Plan(tokenized, settings, spec.budget, spec.seed),
            adapter=Adapter(start, settings, settings.lr_multiplier * base.info.reference_lr),
            generator=torch.Generator(base.device),
            peak=PeakMemory(base.device),
            until=until,
        )
        state = randomness.state()
        if checkpoint is not None:
            state = _take_up(run, checkpoint) or state
        run.generator.set_state(state[base.device.type])
        slot = self.free[0]
        self._runs[slot] = run
        return slot

    def tick(self) -> list[Event]:
        """One optimizer step of every run, after measuring those that have reached a fidelity."""
        events: list[Event] = []
        for slot, run in enumerate(self._runs):
            if run is not None:
                events += self._measured(slot, run)
        stepping = [(slot, run) for slot, run in enumerate(self._runs) if run is not None]
        for slot, run in self._step(stepping):
            events.append(self._ended(slot, run))
        return events

    def step_of(self, slot: int) -> tuple[int, float] | None:
        """Optimizer steps that the run in a slot has taken, and the loss of the last one; None for an empty slot."""
        run = self._runs[slot]
        return None if run is None else (run.step, run.step_loss)

    def close(self, slot: int) -> RunResult:
        """Ends the run in a slot as it is, with status `stopped` if it could go on."""
        run = self._runs[slot]
        if run is None:
            raise FtmetaError(f"slot {slot} is empty")
        ended = self._ended(slot, run).ended
        assert ended is not None
        return ended

    def save_checkpoint(self, slot: int, folder: Path | str) -> None:
        """Writes what `finetune(..., checkpoint=folder)` and `open` go on from."""
        run = self._runs[slot]
        if run is None:
            raise FtmetaError(f"slot {slot} is empty")
        _save(run, folder, self._base.device.type)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _measured(self, slot: int, run: _Run) -> Iterator[Event]:
        """The points that are due, and the end of the run if one of them is the last."""
        while not run.is_at_its_end and run.step >= run.next_point_at:
            try:
                yield Event(slot, self._measure(run))
            except UserError:
                raise
            except Exception as error:
                run.course.end(error)
        if run.is_at_its_end:
            yield self._ended(slot, run)

    def _measure(self, run: _Run) -> CurvePoint:
        train_loss = sum(run.losses) / len(run.losses) if run.losses else None
        if run.course.curve and train_loss is None:
            return run.course.repeated(run.wall_s)
        with merged(self._base.model, run.adapter), torch.inference_mode():
            before_s = self._clock.cost_s
            with self._clock.measure():
                validation = self._likelihood(run, "validation")
            run.cost_eval_s += self._clock.cost_s - before_s
            test = self._likelihood(run, "test") if self._score_test else None
        run.losses = []
        counts = Counts(
            *(run.step, run.examples, run.tokens, train_loss, run.cost_train_s, run.cost_eval_s, run.wall_s)
        )
        return run.course.measured(counts, validation, test)

    def _likelihood(self, run: _Run, split: Split) -> evaluate.Likelihood:
        examples = run.course.spec.budget.eval_examples
        batches = evaluate.batches_of(run.tokenized, split, examples, self._base.device, self._limit)
        return evaluate.likelihood(self._base.model, batches)

    # --- training -----------------------------------------------------------------------------------------------------

    def _step(self, stepping: Sequence[tuple[int, _Run]]) -> Iterator[tuple[int, _Run]]:
        """One optimizer step of each run; those that end in it are given back."""
        pieces = [self._pieces(run) for _, run in stepping]
        losses = self._losses([run for _, run in stepping], pieces)
        for (slot, run), loss in zip(stepping, losses, strict=True):
            try:
                if isinstance(loss, Exception):
                    raise loss
                self._update(run, loss)
            except Exception as error:
                run.course.end(error)
                yield slot, run

    def _losses(self, runs: Sequence[_Run], pieces: Sequence[list[_Piece]]) -> list[torch.Tensor | Exception]:
        """The loss of each run's batch, with its gradients added to its adapter's; or why it could not be computed.

        A pass that memory does not hold is done once more in halves, with the same random numbers, and so are all
        passes from then on. A piece that it does not hold by itself ends its run.
        """
        while True:
            before = [run.generator.get_state() for run in runs]
            found: list[torch.Tensor | Exception] = [torch.zeros((), device=self._base.device) for _ in runs]
            try:
                for together in _passes(pieces, self._pass_tokens):
                    well = [(number, pieces[number][at]) for number, at in together if _is_well(found[number])]
                    self._add_losses(well, found)
                return found
            except _TooMuch:
                for run, state in zip(runs, before, strict=True):
                    run.generator.set_state(state)
                    run.adapter.zero_grad()

    def _add_losses(self, pieces: Sequence[tuple[int, _Piece]], found: list[torch.Tensor | Exception]) -> None:
        if not pieces:
            return
        try:
            for number, loss in self._backward(pieces):
                total = found[number]
                assert isinstance(total, torch.Tensor)
                found[number] = total + loss
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(pieces) == 1:
                found[pieces[0][0]] = error
                return
            self._pass_tokens = sum(piece.padded_tokens for _, piece in pieces) // 2
            log.warning("memory does not hold %d runs in a pass; from here on it is halved", len(pieces))
            raise _TooMuch from None

    def _pieces(self, run: _Run) -> list[_Piece]:
        rows = [run.plan.rows[index] for index in run.plan.batches[run.step]]
        full = run.adapter.settings.loss_on == "full"
        labels = sum(len(row) - row.first_label(full=full) for row in rows)
        return [_Piece(run, shares[0], labels) for shares in micro_batches(rows, self._limit, 1)]

    def _backward(self, pieces: Sequence[tuple[int, _Piece]]) -> list[tuple[int, torch.Tensor]]:
        """Adds the gradients of these pieces to their adapters'; returns each piece's part of its run's loss."""
        model, before_s = self._base.model, self._clock.cost_s
        with self._clock.measure():
            batches = [self._batch(piece) for _, piece in pieces]
            layout = decoder.layout_of(batches)
            parts = [
                Part(piece.run.adapter, tokens, selected, piece.run.generator)
                for (_, piece), tokens, selected in zip(pieces, layout.tokens, layout.selected, strict=True)
            ]
            embedded = [self._embedded(piece.run, batch) for (_, piece), batch in zip(pieces, batches, strict=True)]
            with torch.enable_grad():
                hidden_SH = decoder.hidden_of(model, torch.cat(embedded), layout, self._projection.of(parts))
                logits_SV = frozen_linear(hidden_SH, model.get_output_embeddings().weight)
                losses = [
                    functional.cross_entropy(
                        logits_SV[selected][:labels],
                        batch.targets_S,
                        reduction="sum",
                        label_smoothing=piece.run.adapter.settings.label_smoothing,
                    )
                    / piece.labels
                    for (_, piece), batch, selected, labels in zip(
                        pieces, batches, layout.selected, layout.labels, strict=True
                    )
                ]
                torch.stack(losses).sum().backward()
        spent_s, tokens_of_all = self._clock.cost_s - before_s, sum(batch.tokens for batch in batches)
        for (_, piece), batch in zip(pieces, batches, strict=True):
            piece.run.cost_train_s += spent_s * batch.tokens / tokens_of_all
        return [(number, loss.detach()) for (number, _), loss in zip(pieces, losses, strict=True)]

    def _batch(self, piece: _Piece) -> Batch:
        full = piece.run.adapter.settings.loss_on == "full"
        return collate(piece.rows, piece.run.tokenized.pad_token, self._base.device, full=full)

    def _embedded(self, run: _Run, batch: Batch) -> torch.Tensor:
        alpha = run.adapter.settings.neftune_alpha
        with torch.no_grad():
            if not alpha:
                return decoder.embedded(self._base.model, batch)
            noise = partial(with_noise, lengths_B=batch.lengths_B, alpha=alpha, generator=run.generator)
            return decoder.embedded(self._base.model, batch, noise)

    def _update(self, run: _Run, loss: torch.Tensor) -> None:
        settings, steps = run.adapter.settings, len(run.plan.batches)
        before_s = self._clock.cost_s
        with self._clock.measure():
            value, norm = torch.stack([loss, run.adapter.gradient_norm()]).tolist()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise FloatingPointError(f"step {run.step + 1}: training loss {value}, gradient norm {norm}")
            run.adapter.step(norm, lr_factor(settings.lr_schedule, run.step, steps, settings.warmup_ratio))
        run.cost_train_s += self._clock.cost_s - before_s
        rows = [run.plan.rows[index] for index in run.plan.batches[run.step]]
        run.step += 1
        run.examples += len(rows)
        run.tokens += sum(len(row) for row in rows)
        run.losses.append(value)
        run.step_loss = value

    def _ended(self, slot: int, run: _Run) -> Event:
        self._runs[slot] = None
        result = run.course.result(
            cost_s=run.cost_train_s + run.cost_eval_s,
            wall_s=run.wall_s,
            peak_memory_gb=run.peak.gb(),
            device=device_name(self._base.device),
            generation=self._generation(run) if self._generate and run.course.status == "ok" else None,
        )
        return Event(slot, ended=result)

    def _generation(self, run: _Run) -> Mapping[str, float] | None:
        """Of the run as it would be alone: the base model generates with its adapter around it."""
        spec = run.course.spec
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "run"
            _save(run, checkpoint, self._base.device.type)
            with finetune(
                *(spec.pipeline, run.tokenized.task, self._base, spec.seed),
                budget=spec.budget,
                checkpoint=checkpoint,
                tokenized=run.tokenized,
            ) as whole:
                whole.evaluate_test()
                return whole.result().run.generation


def _passes(pieces: Sequence[Sequence[_Piece]], limit: int) -> Iterator[list[tuple[int, int]]]:
    """Which pieces are computed together: (run, piece) each. The pieces of one run stay in their order and come in
    different passes, because each draws its random numbers after the one before; small ones fill a pass together."""
    following = [0] * len(pieces)
    while any(at < len(of_run) for at, of_run in zip(following, pieces, strict=True)):
        together: list[tuple[int, int]] = []
        tokens = 0
        for number, of_run in enumerate(pieces):
            at = following[number]
            if at < len(of_run) and (not together or tokens + of_run[at].padded_tokens <= limit):
                together.append((number, at))
                tokens += of_run[at].padded_tokens
                following[number] += 1
        yield together


def _take_up(run: _Run, folder: Path | str) -> dict[str, Any] | None:
    """Puts a checkpoint's state into the run; returns the state of its random numbers, None where it has none that fit
    this device."""
    progress, tensors = checkpoints.load(folder, run.course.spec.run_id)
    run.adapter.load(tensors)
    run.course.take_up(progress.curve, progress.started_at)
    run.step, run.examples, run.tokens = progress.step, progress.examples, progress.tokens
    run.cost_train_s, run.cost_eval_s = progress.cost_train_s, progress.cost_eval_s
    run.losses, run.wall_before_s = list(progress.losses), progress.wall_s
    kind = run.generator.device.type
    state = tensors.get(f"random/0/{kind}")
    return None if state is None else {kind: state}


def _save(run: _Run, folder: Path | str, kind: str) -> None:
    course = run.course
    state = {f"random/0/{kind}": run.generator.get_state()}
    if kind != "cpu":
        state["random/0/cpu"] = torch.Generator().manual_seed(course.spec.seed).get_state()
    progress = Progress(
        run_id=course.spec.run_id,
        step=run.step,
        examples=run.examples,
        tokens=run.tokens,
        cost_train_s=run.cost_train_s,
        cost_eval_s=run.cost_eval_s,
        wall_s=run.wall_s,
        peak_memory_gb=run.peak.gb(),
        started_at=course.started_at,
        curve=tuple(course.curve),
        losses=tuple(run.losses),
    )
    checkpoints.save(folder, progress, {**run.adapter.state(), **state})
