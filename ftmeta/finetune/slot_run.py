"""One run in a slot of a cohort (vectorized.py): where it stands, the pieces of its next batch, its checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ftmeta.finetune import checkpoint as checkpoints
from ftmeta.finetune.checkpoint import Progress
from ftmeta.finetune.clock import PeakMemory
from ftmeta.finetune.course import Counts, Course
from ftmeta.finetune.data import TokenizedTask, Tokens, micro_batches
from ftmeta.finetune.optim import lr_factor
from ftmeta.finetune.settings import Settings
from ftmeta.finetune.side_by_side import Adapter
from ftmeta.finetune.training import Plan


@dataclass
class SlotRun:
    slot: int
    course: Course
    tokenized: TokenizedTask
    plan: Plan
    adapter: Adapter
    generator: torch.Generator
    peak: PeakMemory
    until: int | None = None
    keep: Path | None = None  # where its checkpoint goes when it ends
    step: int = 0
    examples: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # since the last point
    step_loss: float = math.nan  # of the last step
    cost_train_s: float = 0.0
    cost_eval_s: float = 0.0
    generation: Mapping[str, float] | None = None
    wall_before_s: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    @property
    def settings(self) -> Settings:
        return self.adapter.settings

    @property
    def wall_s(self) -> float:
        return self.wall_before_s + time.perf_counter() - self.began

    @property
    def is_at_its_end(self) -> bool:
        last = self.course.spec.budget.max_fidelity if self.until is None else self.until
        return self.course.status != "stopped" or self.course.fidelity > last

    @property
    def is_due(self) -> bool:
        """It has reached the step at which the next point is measured."""
        share = self.course.fidelity / self.course.spec.budget.max_fidelity
        return not self.is_at_its_end and self.step >= round(share * len(self.plan.batches))

    @property
    def repeats(self) -> bool:
        """No step was taken since the last point: the task is tiny."""
        return bool(self.course.curve) and not self.losses

    def counts(self) -> Counts:
        train_loss = sum(self.losses) / len(self.losses) if self.losses else None
        return Counts(
            *(self.step, self.examples, self.tokens, train_loss, self.cost_train_s, self.cost_eval_s, self.wall_s)
        )

    def pieces(self, limit: int) -> list[Piece]:
        """The batch of the next step, cut as it is when the run is alone: at most `limit` padded tokens each."""
        rows = [self.plan.rows[index] for index in self.plan.batches[self.step]]
        full = self.settings.loss_on == "full"
        labels = sum(len(row) - row.first_label(full=full) for row in rows)
        return [Piece(self, shares[0], labels) for shares in micro_batches(rows, limit, 1)]

    def update(self, loss: float, norm: float) -> None:
        """Takes the step for which gradients are there. Raises FloatingPointError for a loss, or a norm of the
        gradients, that is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(f"step {self.step + 1}: training loss {loss}, gradient norm {norm}")
        rows = [self.plan.rows[index] for index in self.plan.batches[self.step]]
        steps = len(self.plan.batches)
        factor = lr_factor(self.settings.lr_schedule, self.step, steps, self.settings.warmup_ratio)
        self.adapter.step(norm, factor)
        self.step += 1
        self.examples += len(rows)
        self.tokens += sum(len(row) for row in rows)
        self.losses.append(loss)
        self.step_loss = loss

    def take_up(self, folder: Path | str) -> dict[str, Any] | None:
        """Goes on from a checkpoint; returns the state of its random numbers, None where it has none that fit this
        device."""
        progress, tensors = checkpoints.load(folder, self.course.spec.run_id)
        self.adapter.load(tensors)
        self.course.take_up(progress.curve, progress.started_at)
        self.step, self.examples, self.tokens = progress.step, progress.examples, progress.tokens
        self.cost_train_s, self.cost_eval_s = progress.cost_train_s, progress.cost_eval_s
        self.losses, self.wall_before_s = list(progress.losses), progress.wall_s
        kind = self.generator.device.type
        state = tensors.get(f"random/0/{kind}")
        return None if state is None else {kind: state}

    def save(self, folder: Path | str) -> None:
        """Writes a checkpoint, as a run does that is alone."""
        course, kind = self.course, self.generator.device.type
        state = {f"random/0/{kind}": self.generator.get_state()}
        if kind != "cpu":
            state["random/0/cpu"] = torch.Generator().manual_seed(course.spec.seed).get_state()
        progress = Progress(
            run_id=course.spec.run_id,
            step=self.step,
            examples=self.examples,
            tokens=self.tokens,
            cost_train_s=self.cost_train_s,
            cost_eval_s=self.cost_eval_s,
            wall_s=self.wall_s,
            peak_memory_gb=self.peak.gb(),
            started_at=course.started_at,
            curve=tuple(course.curve),
            losses=tuple(self.losses),
        )
        checkpoints.save(folder, progress, {**self.adapter.state(), **state})


@dataclass(frozen=True)
class Piece:
    """A part of a run's batch that is computed in one pass."""

    run: SlotRun
    rows: list[Tokens]
    labels: int  # of the whole batch

    @property
    def length(self) -> int:
        return max(len(row) for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        return len(self.rows) * self.length


def passes(pieces: Sequence[Sequence[Piece]], limit: int) -> Iterator[list[tuple[int, int]]]:
    """Which pieces are computed together: (run, piece) each, shorter rows first. The pieces of one run stay in their
    order and come in different passes, because each draws its random numbers after the one before; small ones fill a
    pass together."""
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
        yield sorted(together, key=lambda one: pieces[one[0]][one[1]].length)
