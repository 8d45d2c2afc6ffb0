"""The passes of a cohort (vectorized.py): what its runs compute together, for training, measuring and answering.

In: runs in slots. Out: the losses of their batches, with the gradients added to their adapters'; the likelihoods of
their splits; their generation metrics. Which runs and when is the cohort's part. Device time of a pass goes to the runs
by the tokens that each had in it, and what memory does not hold is done again in halves.

# N tokens of a pass, S its selected positions, H hidden size, V vocabulary
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from ftmeta.finetune import decoder, evaluate
from ftmeta.finetune.clock import Clock
from ftmeta.finetune.course import is_out_of_memory
from ftmeta.finetune.data import Batch, collate
from ftmeta.finetune.evaluate import Likelihood
from ftmeta.finetune.neftune import with_noise
from ftmeta.finetune.products import frozen_linear
from ftmeta.finetune.side_by_side import Part, Projection, SideBySide, merged
from ftmeta.finetune.slot_run import Piece, SlotRun, passes
from ftmeta.finetune.stacked import TILE, Stack
from ftmeta.models import LoadedModel
from ftmeta.schema import Split

_NO_LABEL = -100  # what cross_entropy passes over

Measured = tuple[Likelihood, Likelihood | None] | Exception  # validation and test, or why not

log = logging.getLogger("ftmeta.finetune")


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


class Passes:
    """`piece_tokens`: rows x padded length of a piece of one run, `pass_tokens` of all pieces in a pass. `stack`: holds
    the adapters, None where each has its own. `clock`: adds up the device time."""

    def __init__(
        self,
        base: LoadedModel,
        stack: Stack | None,
        clock: Clock,
        *,
        piece_tokens: int,
        pass_tokens: int,
        score_test: bool,
    ) -> None:
        self._base, self._stack, self._clock, self._score_test = base, stack, clock, score_test
        self._limit, self._pass_tokens, self._eval_tokens = piece_tokens, pass_tokens, pass_tokens
        self._projection: Projection = stack or SideBySide(base.model)
        self._made_up_to = decoder.ROUND if stack is None else TILE
        self._batches: dict[tuple[str, Split, int | None], list[Batch]] = {}
        self._computed = self._text = 0

    @property
    def padding(self) -> Padding:
        """Of all training passes so far. Outside of attention there is none."""
        return Padding(self._computed, self._text)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def measure(self, runs: Sequence[SlotRun]) -> dict[int, Measured]:
        """By slot."""
        return self._one_by_one(runs) if self._stack is None else self._side_by_side(runs)

    def tokens_to_measure(self, run: SlotRun) -> int:
        return 0 if run.repeats else sum(batch.tokens for split in self._splits for batch in self._of(run, split))

    @property
    def _splits(self) -> tuple[Split, ...]:
        return ("validation", "test") if self._score_test else ("validation",)

    def _of(self, run: SlotRun, split: Split) -> list[Batch]:
        spec = run.course.spec
        key = (spec.task_fingerprint, split, spec.budget.eval_examples)
        if key not in self._batches:
            examples = spec.budget.eval_examples
            self._batches[key] = evaluate.batches_of(run.tokenized, split, examples, self._base.device, self._limit)
        return self._batches[key]

    def _one_by_one(self, runs: Sequence[SlotRun]) -> dict[int, Measured]:
        """Each with its adapter added into the weights, as it is when it is alone."""
        found: dict[int, Measured] = {}
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

    def _side_by_side(self, runs: Sequence[SlotRun]) -> dict[int, Measured]:
        """All with their adapters beside the weights, in passes that they share."""
        well = [run for run in runs if run.adapter.is_finite()]
        found: dict[int, Measured] = {run.slot: FloatingPointError("the adapter is not finite") for run in runs}
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
            found = self._sums(together, is_costed=split == "validation")
            if not isinstance(found, Exception):
                for (run, _), value in zip(together, found, strict=True):
                    sums[run.slot] += value
            elif count == 1 or not is_out_of_memory(found):
                failed.update({run.slot: found for run, _ in together})
            else:
                self._eval_tokens, after = tokens // 2, waiting
                log.warning("memory does not hold %d batches of a measurement; from here on they are halved", count)
            waiting = [one for one in after if one[0].slot not in failed]
        labels = {run.slot: sum(len(batch.targets_S) for batch in self._of(run, split)) for run in runs}
        values = {slot: value.tolist() for slot, value in sums.items() if slot not in failed}
        return {
            **{slot: Likelihood(nll / labels[slot], hits / labels[slot]) for slot, (nll, hits) in values.items()},
            **failed,
        }

    def _sums(self, together: Sequence[tuple[SlotRun, Batch]], *, is_costed: bool) -> list[torch.Tensor] | Exception:
        """Summed NLL and hits of each batch, or why not. Device time goes to the runs if it `is_costed`."""
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
            return error.with_traceback(None)
        if is_costed:
            spent_s, tokens = self._clock.cost_s - before_s, sum(batch.tokens for _, batch in together)
            for run, batch in together:
                run.cost_eval_s += spent_s * batch.tokens / tokens
        return sums

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, runs: Sequence[SlotRun], pieces: Sequence[list[Piece]]) -> list[torch.Tensor | Exception]:
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
                found[pieces[0][0]] = error.with_traceback(None)  # which would keep what the pass had computed
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

    def _logits(
        self, together: Sequence[tuple[SlotRun, Batch, torch.Generator | None]]
    ) -> tuple[torch.Tensor, decoder.Layout]:
        """Float32 logits of all selected positions of these batches, one after the other. With a generator a run
        trains: its noise and its dropout are drawn from it."""
        model = self._base.model
        batches = [batch for _, batch, _ in together]
        layout = decoder.layout_of(batches, together=self._stack is not None, made_up_to=self._made_up_to)
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

    # --- answering ----------------------------------------------------------------------------------------------------

    def answer(self, runs: Sequence[SlotRun]) -> None:
        """Their generation metrics; those of one task answer at the same time where products are computed at once."""
        by_task: dict[tuple[str, int], list[SlotRun]] = {}
        for run in runs:
            spec = run.course.spec
            by_task.setdefault((spec.task_fingerprint, spec.budget.eval_examples), []).append(run)
        together = list(by_task.values()) if self._stack is not None else [[run] for run in runs]
        while together:
            group = together.pop()
            try:
                for run, generation in zip(group, self._generated(group), strict=True):
                    run.generation = generation
            except Exception as error:
                if is_out_of_memory(error) and len(group) > 1:
                    together += [group[: len(group) // 2], group[len(group) // 2 :]]
                    continue
                for run in group:
                    run.course.end(error)

    def _generated(self, group: Sequence[SlotRun]) -> list[dict[str, float]]:
        model, first = self._base.model, group[0]
        examples = first.tokenized.task.test
        sample = evaluate.generation_sample(len(examples), first.course.spec.budget.eval_examples)
        beside = (
            merged(model, first.adapter) if self._stack is None else self._stack.beside([run.slot for run in group])
        )
        with beside:
            made = evaluate.answers(model, first.tokenized, "test", sample, self._base.tokenizer, copies=len(group))
        wanted = [examples[index].completion for index in sample]
        shares = [made[at : at + len(sample)] for at in range(0, len(made), len(sample))]
        return [evaluate.text_metrics(share, wanted) for share in shares]


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
