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
them to fill a pass, or until no run can go on without.
Device time of a pass is shared by the tokens that each run had in it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ftmeta.errors import FtmetaError, ModelError, UserError
from ftmeta.finetune import adapters, decoder, evaluate
from ftmeta.finetune.clock import Clock, PeakMemory
from ftmeta.finetune.course import Course, is_out_of_memory
from ftmeta.finetune.data import Batch, TokenizedTask, collate
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.evaluate import Likelihood
from ftmeta.finetune.neftune import with_noise
from ftmeta.finetune.products import frozen_linear
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import Settings, settings_of
from ftmeta.finetune.side_by_side import Adapter, Part, Projection, SideBySide, merged, why_not
from ftmeta.finetune.slot_run import Piece, SlotRun, passes
from ftmeta.finetune.stacked import TILE, Stack
from ftmeta.finetune.training import MICRO_BATCH_TOKENS, Plan
from ftmeta.finetune.worker import finetune
from ftmeta.models import LoadedModel
from ftmeta.schema import CurvePoint, RunResult, RunSpec, Split

# Rows x padded length of a pass. On a CPU a pass beyond the caches gains nothing.
PASS_TOKENS = {"cpu": 1024, "cuda": 65536}
_STARTS = 16  # initial adapters that are kept: runs of a sweep share their seed
_NO_LABEL = -100  # what cross_entropy passes over

log = logging.getLogger("ftmeta.finetune")


@dataclass(frozen=True)
class Event:
    """What a tick has to say of one slot: a new point, or, once, that the run there has ended (the slot is free)."""

    slot: int
    point: CurvePoint | None = None
    ended: RunResult | None = None


@dataclass(frozen=True)
class Padding:
    """Tokens that attention was computed for, and those of them that are text."""

    computed: int
    text: int

    @property
    def share(self) -> float:
        """Of what was computed, what was padding."""
        return 1 - self.text / self.computed if self.computed else 0.0


class _TooMuch(Exception):  # noqa: N818  # a signal
    """A pass of several runs has run out of memory."""


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
        self._base, self._score_test, self._generate = base, score_test, generate
        kind, is_half = base.device.type, base.model.dtype == torch.bfloat16
        self._dtypes = (torch.float32, torch.bfloat16)
        if not decoder.is_supported(base.model, 1, self._dtypes):
            raise ModelError(
                f"base model '{base.info.name}' cannot train several runs at once: that takes a Phi-3 or Llama in "
                "float32 or bfloat16; run its pipelines one at a time"
            )
        self._limit = execution.micro_batch_tokens or MICRO_BATCH_TOKENS[kind]
        self._pass_tokens = pass_tokens or max(self._limit, PASS_TOKENS[kind])
        self._eval_tokens = self._pass_tokens
        self._is_stacked = kind == "cuda" or is_half if stacked is None else stacked
        if is_half and not self._is_stacked:
            raise ModelError("in bfloat16 the adapters' products are computed all at once; leave `stacked` out")
        self._wait_tokens = (self._pass_tokens // 2 if kind == "cuda" else 0) if wait_tokens is None else wait_tokens
        self._stack = Stack(base.model, slots) if self._is_stacked else None
        self._projection: Projection = self._stack or SideBySide(base.model)
        self._made_up_to = TILE if self._is_stacked else decoder.ROUND
        self._runs: list[SlotRun | None] = [None] * slots
        self._clock = Clock(base.device)
        self._starts: dict[tuple[Any, ...], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
        self._batches: dict[tuple[str, Split, int | None], list[Batch]] = {}
        self._computed = self._text = 0

    @property
    def free(self) -> list[int]:
        return [slot for slot, run in enumerate(self._runs) if run is None]

    @property
    def is_busy(self) -> bool:
        return any(run is not None for run in self._runs)

    @property
    def padding(self) -> Padding:
        """Of all training passes so far. Outside of attention there is none."""
        return Padding(self._computed, self._text)

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
        settings, base, slot = settings_of(spec.pipeline), self._base, self.free[0]
        reason = why_not(settings)
        if reason is not None:
            raise UserError(f"pipeline {spec.pipeline.id}: {reason}")
        longest = max(len(row) for rows in tokenized.splits.values() for row in rows)
        if not decoder.is_supported(base.model, longest, self._dtypes):
            raise UserError(
                f"task '{spec.task}' has rows of {longest} tokens, more than the model's window; run it alone"
            )
        plan = Plan(tokenized, settings, spec.budget, spec.seed)
        start, state = self._start(settings, spec.seed)
        run = SlotRun(
            slot=slot,
            course=Course(spec),
            tokenized=tokenized,
            plan=plan,
            adapter=self._seat(slot, start, settings),
            generator=torch.Generator(base.device),
            peak=PeakMemory(base.device),
            until=until,
        )
        if checkpoint is not None:
            state = run.take_up(checkpoint) or state
        run.generator.set_state(state[base.device.type])
        self._runs[slot] = run
        return slot

    def tick(self) -> list[Event]:
        """One optimizer step of every run, after measuring those that have reached a fidelity."""
        events = list(self._measured())
        stepping = [run for run in self._runs if run is not None and not run.is_due]
        events.extend(self._ended(run) for run in self._step(stepping))
        return events

    def step_of(self, slot: int) -> tuple[int, float] | None:
        """Optimizer steps that the run in a slot has taken, and the loss of the last one; None for an empty slot."""
        run = self._runs[slot]
        return None if run is None else (run.step, run.step_loss)

    def close(self, slot: int) -> RunResult:
        """Ends the run in a slot as it is, with status `stopped` if it could go on."""
        ended = self._ended(self._run_in(slot)).ended
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
            for run in list(self._runs):
                if run is not None and run.is_at_its_end:
                    yield self._ended(run)
            there = [run for run in self._runs if run is not None]
            due = [run for run in there if run.is_due]
            if not due or (len(due) < len(there) and sum(map(self._tokens_to_measure, due)) < self._wait_tokens):
                return
            yield from self._points(due)

    def _tokens_to_measure(self, run: SlotRun) -> int:
        return 0 if run.repeats else sum(batch.tokens for split in self._splits for batch in self._of(run, split))

    @property
    def _splits(self) -> tuple[Split, ...]:
        return ("validation", "test") if self._score_test else ("validation",)

    def _points(self, due: Sequence[SlotRun]) -> Iterator[Event]:
        """The next point of each, where it does not fail."""
        fresh = [run for run in due if not run.repeats]
        measure = self._side_by_side if self._is_stacked else self._one_by_one
        found = measure(fresh)
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

    def _of(self, run: SlotRun, split: Split) -> list[Batch]:
        spec = run.course.spec
        key = (spec.task_fingerprint, split, spec.budget.eval_examples)
        if key not in self._batches:
            examples = spec.budget.eval_examples
            self._batches[key] = evaluate.batches_of(run.tokenized, split, examples, self._base.device, self._limit)
        return self._batches[key]

    def _one_by_one(self, runs: Sequence[SlotRun]) -> dict[int, _Measured]:
        """Each with its adapter added into the weights, as it is when it is alone."""
        found: dict[int, _Measured] = {}
        for run in runs:
            validation, test = (self._of(run, split) for split in ("validation", "test"))
            try:
                with merged(self._base.model, run.adapter), torch.inference_mode():
                    before_s = self._clock.cost_s
                    with self._clock.measure():
                        of_validation = evaluate.likelihood(self._base.model, validation)
                    run.cost_eval_s += self._clock.cost_s - before_s
                    of_test = evaluate.likelihood(self._base.model, test) if self._score_test else None
                found[run.slot] = of_validation, of_test
            except Exception as error:
                found[run.slot] = error
        return found

    def _side_by_side(self, runs: Sequence[SlotRun]) -> dict[int, _Measured]:
        """All with their adapters beside the weights, in passes that they share."""
        well = [run for run in runs if run.adapter.is_finite()]
        found: dict[int, _Measured] = {run.slot: FloatingPointError("the adapter is not finite") for run in runs}
        by_split = [self._likelihoods(well, split) for split in self._splits]
        for run in well:
            validation, test = by_split[0][run.slot], by_split[-1][run.slot] if self._score_test else None
            errors = [one for one in (validation, test) if isinstance(one, Exception)]
            found[run.slot] = errors[0] if errors else (validation, test)  # type: ignore[assignment]
        return found

    def _likelihoods(self, runs: Sequence[SlotRun], split: Split) -> dict[int, Likelihood | Exception]:
        waiting = [(run, batch) for run in runs for batch in self._of(run, split)]
        waiting.sort(key=lambda one: one[1].ids_BL.shape[1])
        sums = {run.slot: torch.zeros(2, dtype=torch.float64, device=self._base.device) for run in runs}
        failed: dict[int, Exception] = {}
        while waiting:
            count, tokens = 0, 0
            while count < len(waiting) and (
                not count or tokens + waiting[count][1].ids_BL.numel() <= self._eval_tokens
            ):
                tokens += waiting[count][1].ids_BL.numel()
                count += 1
            together, after = waiting[:count], waiting[count:]
            found, error = self._sums(together, is_costed=split == "validation")
            if found is not None:
                for (run, _), value in zip(together, found, strict=True):
                    sums[run.slot] += value
            elif count == 1 or not is_out_of_memory(error):
                failed.update({run.slot: error for run, _ in together})
            else:
                self._eval_tokens, after = tokens // 2, waiting
                log.warning("memory does not hold %d runs in a measurement; from here on it is halved", count)
            waiting = [one for one in after if one[0].slot not in failed]
        labels = {run.slot: sum(len(batch.targets_S) for batch in self._of(run, split)) for run in runs}
        values = {slot: value.tolist() for slot, value in sums.items() if slot not in failed}
        return {
            **{slot: Likelihood(nll / labels[slot], hits / labels[slot]) for slot, (nll, hits) in values.items()},
            **failed,
        }

    def _sums(
        self, together: Sequence[tuple[SlotRun, Batch]], *, is_costed: bool
    ) -> tuple[list[torch.Tensor] | None, Exception]:
        """Summed NLL and hits of each batch, or None and why not. Device time goes to the runs if it `is_costed`."""
        before_s = self._clock.cost_s
        try:
            with torch.no_grad(), self._clock.measure():
                logits_SV, layout = self._logits([(run, batch, None) for run, batch in together])
                sums = []
                for (_, batch), where, labels in zip(together, layout.selected, layout.labels, strict=True):
                    mine_SV = logits_SV[where][:labels]
                    nll = functional.cross_entropy(mine_SV, batch.targets_S, reduction="sum")
                    chosen_S = mine_SV.gather(1, batch.targets_S[:, None])[:, 0]
                    sums.append(torch.stack([nll, (chosen_S == mine_SV.amax(-1)).sum()]).double())
        except Exception as error:
            return None, error.with_traceback(None)
        if is_costed:
            spent_s, tokens = self._clock.cost_s - before_s, sum(batch.tokens for _, batch in together)
            for run, batch in together:
                run.cost_eval_s += spent_s * batch.tokens / tokens
        return sums, _TooMuch()

    def _logits(
        self, together: Sequence[tuple[SlotRun, Batch, torch.Generator | None]]
    ) -> tuple[torch.Tensor, decoder.Layout]:
        """Float32 logits of all selected positions of these batches, one after the other. With a generator a run
        trains: its noise and its dropout are drawn from it."""
        model = self._base.model
        batches = [batch for _, batch, _ in together]
        layout = decoder.layout_of(batches, together=self._is_stacked, made_up_to=self._made_up_to)
        parts = [
            Part(run.slot, run.adapter, tokens, selected, batch.tokens, labels, generator)
            for (run, batch, generator), tokens, selected, labels in zip(
                together, layout.tokens, layout.selected, layout.labels, strict=True
            )
        ]
        embedded_NH = torch.cat([self._embedded(*one) for one in together])
        hidden_SH = decoder.hidden_of(model, embedded_NH, layout, self._projection.of(parts))
        return frozen_linear(hidden_SH, model.get_output_embeddings().weight).float(), layout

    def _embedded(self, run: SlotRun, batch: Batch, generator: torch.Generator | None) -> torch.Tensor:
        alpha = run.settings.neftune_alpha
        with torch.no_grad():
            if not alpha or generator is None:
                return decoder.embedded(self._base.model, batch, made_up_to=self._made_up_to)
            noise = partial(with_noise, lengths_B=batch.lengths_B, alpha=alpha, generator=generator)
            return decoder.embedded(self._base.model, batch, noise, made_up_to=self._made_up_to)

    # --- training -----------------------------------------------------------------------------------------------------

    def _step(self, runs: Sequence[SlotRun]) -> Iterator[SlotRun]:
        """One optimizer step of each run; those that end in it are given back."""
        losses = self._losses(runs, [run.pieces(self._limit) for run in runs])
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

    def _losses(self, runs: Sequence[SlotRun], pieces: Sequence[list[Piece]]) -> list[torch.Tensor | Exception]:
        """The loss of each run's batch, with its gradients added to its adapter's; or why it could not be computed.

        A pass that memory does not hold is done once more in halves, with the same random numbers, and so are all
        passes from then on. A piece that it does not hold by itself ends its run.
        """
        while True:
            before = [run.generator.get_state() for run in runs]
            found: list[torch.Tensor | Exception] = [torch.zeros((), device=self._base.device) for _ in runs]
            try:
                for together in passes(pieces, self._pass_tokens):
                    well = [
                        (number, pieces[number][at])
                        for number, at in together
                        if isinstance(found[number], torch.Tensor)
                    ]
                    self._add_losses(well, found)
                return found
            except _TooMuch:
                for run, state in zip(runs, before, strict=True):
                    run.generator.set_state(state)
                    run.adapter.zero_grad()

    def _add_losses(self, pieces: Sequence[tuple[int, Piece]], found: list[torch.Tensor | Exception]) -> None:
        if not pieces:
            return
        try:
            losses = self._backward([piece for _, piece in pieces])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(pieces) == 1:
                found[pieces[0][0]] = error
                return
            self._pass_tokens = sum(piece.padded_tokens for _, piece in pieces) // 2
            log.warning("memory does not hold %d runs in a pass; from here on it is halved", len(pieces))
            raise _TooMuch from None
        for (number, _), loss in zip(pieces, losses, strict=True):
            total = found[number]
            assert isinstance(total, torch.Tensor)
            found[number] = total + loss

    def _backward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """Adds the gradients of these pieces to their adapters'; returns each piece's part of its run's loss."""
        before_s = self._clock.cost_s
        with self._clock.measure():
            batches = [self._batch(piece) for piece in pieces]
            with torch.enable_grad():
                logits_SV, layout = self._logits(
                    [(piece.run, batch, piece.run.generator) for piece, batch in zip(pieces, batches, strict=True)]
                )
                loss_S = _losses_at(logits_SV, layout, pieces, batches)
                loss_S.sum().backward()
            self._computed += layout.attended
            self._text += sum(batch.tokens for batch in batches)
            losses = [loss_S[where].detach().sum() for where in layout.selected]
        spent_s, tokens = self._clock.cost_s - before_s, sum(batch.tokens for batch in batches)
        for piece, batch in zip(pieces, batches, strict=True):
            piece.run.cost_train_s += spent_s * batch.tokens / tokens
        return losses

    def _batch(self, piece: Piece) -> Batch:
        full = piece.run.settings.loss_on == "full"
        return collate(piece.rows, piece.run.tokenized.pad_token, self._base.device, full=full)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _ended(self, run: SlotRun) -> Event:
        self._runs[run.slot] = None
        result = run.course.result(
            cost_s=run.cost_train_s + run.cost_eval_s,
            wall_s=run.wall_s,
            peak_memory_gb=run.peak.gb(),
            device=device_name(self._base.device)
            + (f", {len(self._runs)} runs at once" if len(self._runs) > 1 else ""),
            generation=self._generation(run) if self._generate and run.course.status == "ok" else None,
        )
        if self._stack is not None:
            self._stack.leave(run.slot)
        return Event(run.slot, ended=result)

    def _generation(self, run: SlotRun) -> Mapping[str, float] | None:
        """Of the run as it would be alone: the base model generates with its adapter around it."""
        spec = run.course.spec
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "run"
            run.save(checkpoint)
            with finetune(
                *(spec.pipeline, run.tokenized.task, self._base, spec.seed),
                budget=spec.budget,
                checkpoint=checkpoint,
                tokenized=run.tokenized,
            ) as whole:
                whole.evaluate_test()
                return whole.result().run.generation


_Measured = tuple[Likelihood, Likelihood | None] | Exception


def _losses_at(
    logits_SV: torch.Tensor, layout: decoder.Layout, pieces: Sequence[Piece], batches: Sequence[Batch]
) -> torch.Tensor:
    """Each selected position's part of its run's loss: cross entropy over the labels of the run's whole batch."""
    targets_S = torch.full((len(logits_SV),), _NO_LABEL, device=logits_SV.device)
    smoothed: dict[float, list[slice]] = {}
    labels_S = torch.ones(len(logits_SV), device=logits_SV.device)
    for piece, batch, where in zip(pieces, batches, layout.selected, strict=True):
        targets_S[where.start : where.start + len(batch.targets_S)] = batch.targets_S
        labels_S[where] = piece.labels
        smoothed.setdefault(piece.run.settings.label_smoothing, []).append(where)
    if len(smoothed) == 1:
        (smoothing,) = smoothed
        loss_S = functional.cross_entropy(logits_SV, targets_S, reduction="none", label_smoothing=smoothing)
    else:
        at = {
            smoothing: torch.cat([torch.arange(one.start, one.stop, device=logits_SV.device) for one in places])
            for smoothing, places in smoothed.items()
        }
        parts = [
            functional.cross_entropy(logits_SV[rows], targets_S[rows], reduction="none", label_smoothing=smoothing)
            for smoothing, rows in at.items()
        ]
        loss_S = torch.cat(parts)[torch.argsort(torch.cat(list(at.values())))]
    return loss_S / labels_S
