"""The optimizer steps of a run: which examples, which loss, which learning rate; the engine carries them out.

In: the tokenised task, the settings, an engine. Out: an adapter that learns, and the loss of each step. What a step
learns depends on the run alone, not on how it is cut into micro-batches or shared out among ranks: the loss is the mean
over the labels of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ftmeta.finetune.activations import checkpointed
from ftmeta.finetune.clock import Clock
from ftmeta.finetune.data import TokenizedTask, Tokens, collate, fixed_subset, micro_batches, training_batches
from ftmeta.finetune.engine import Engine, Execution
from ftmeta.finetune.evaluate import precision
from ftmeta.finetune.loss import training_loss
from ftmeta.finetune.neftune import Noise
from ftmeta.finetune.optim import lr_factor
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import Settings
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget

MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}  # rows x padded length of one forward pass with gradients


class Plan:
    """What the steps of the full budget are: `batches` holds the examples of each as indices into `rows`."""

    def __init__(self, tokenized: TokenizedTask, settings: Settings, budget: Budget, seed: int) -> None:
        all_rows = tokenized.splits["train"]
        self.rows: list[Tokens] = [all_rows[at] for at in fixed_subset(len(all_rows), budget.max_train_examples)]
        examples = math.ceil(budget.epochs * len(self.rows))
        self.batches: list[npt.NDArray[np.int64]] = training_batches(
            len(self.rows), settings.batch_size, examples, seed
        )
        lr_factor(settings.lr_schedule, 0, len(self.batches), settings.warmup_ratio)  # raises for an unknown schedule


class Training:
    """`step`, `examples` and `tokens` count what has been done; `losses` are those of the steps since the last point,
    `step_loss` is that of the last step; `clock` measures this process."""

    def __init__(
        self,
        plan: Plan,
        base: LoadedModel,
        tokenized: TokenizedTask,
        settings: Settings,
        engine: Engine,
        execution: Execution,
        randomness: Randomness,
    ) -> None:
        self.step = self.examples = self.tokens = 0
        self.losses: list[float] = []
        self.step_loss = math.nan
        self.clock = Clock(base.device)
        self._plan, self._base, self._tokenized = plan, base, tokenized
        self._settings, self._engine, self._execution = settings, engine, execution
        self._randomness = randomness
        self._noise = Noise(settings.neftune_alpha)

    def run_to(self, target: int, wants_to_stop: Callable[[], bool]) -> bool:
        """Takes steps until `target`, or until `wants_to_stop`, which is asked after each; returns whether it did."""
        if target <= self.step:
            return False
        model = self._base.model
        with (
            self.clock.measure(),
            self._randomness.active(),
            self._noise.active(model.get_input_embeddings()),
            checkpointed(model, self._execution.activation_checkpointing, in_pieces=self._engine.in_pieces),
        ):
            model.train()
            try:
                while self.step < target:
                    self._one_step()
                    if wants_to_stop():
                        return True
            finally:
                model.eval()
        return False

    def mean_loss(self) -> float | None:
        """Per label, over the steps since the last point; None without a step."""
        return float(np.mean(self.losses)) if self.losses else None

    def _one_step(self) -> None:
        settings, ranks, device = self._settings, self._engine.ranks, self._base.device
        rows = [self._plan.rows[index] for index in self._plan.batches[self.step]]
        full = settings.loss_on == "full"
        labels = sum(len(row) - row.first_label(full=full) for row in rows)
        limit = self._execution.micro_batch_tokens or MICRO_BATCH_TOKENS[device.type]
        total = torch.zeros((), device=device)
        for shares in micro_batches(rows, limit, ranks.size):
            mine = shares[ranks.rank]
            loss = self._loss_of(mine or rows[:1], full=full)
            loss = loss / labels if mine else loss * 0.0  # a rank without examples takes part, and adds nothing
            self._engine.backward(loss)
            total += loss.detach()
        steps = len(self._plan.batches)
        factor = lr_factor(settings.lr_schedule, self.step, steps, settings.warmup_ratio)
        value, gradient = self._engine.step(total, factor)
        if not (math.isfinite(value) and math.isfinite(gradient)):
            raise FloatingPointError(f"step {self.step + 1}: training loss {value}, gradient norm {gradient}")
        self.step += 1
        self.examples += len(rows)
        self.tokens += sum(len(row) for row in rows)
        self.step_loss = value
        self.losses.append(value)

    def _loss_of(self, rows: list[Tokens], *, full: bool) -> torch.Tensor:
        """Summed over the labels."""
        batch = collate(rows, self._tokenized.pad_token, self._base.device, full=full)
        self._noise.lengths_B = batch.lengths_B
        loss: Callable[[Any], torch.Tensor] = partial(
            training_loss, batch=batch, label_smoothing=self._settings.label_smoothing
        )
        with precision(self._base.model, self._base.device):  # autocast keeps the weights it has cast until it is left
            return self._engine.forward(loss)
