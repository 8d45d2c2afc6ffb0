"""The worker: one pipeline on one task -> one curve point per fidelity.

    for point in finetune(pipeline, task, base, seed=0): ...

In: a pipeline, a task, a loaded base model (shared by many runs, one after the other), a seed. Out: curve points, an
adapter, a run row. Fidelity t of T ends at optimizer step round(t / T * total_steps), where total_steps is
ceil(epochs * training examples / batch size). Validation and test are scored at each fidelity on fixed subsets.

A run that fails is data: it ends with a status and a one-line error, and keeps the curve that it has.
- `diverged`: the loss or the gradient of a step is not finite, or the validation NLL is not finite or above
  2 x zero-shot + 1 nats per token (then the point that shows it is the last one);
- `oom`: the device or the machine ran out of memory;  `error`: anything else;
- `stopped`: it ended before the last fidelity, by `until` or because the caller stopped asking; it can be continued.
Mistakes of the user (UserError) are raised.

The number of threads is the caller's decision (`torch.set_num_threads`); this package never sets it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ftmeta.errors import DataError, FtmetaError, UserError
from ftmeta.finetune import adapters, evaluate
from ftmeta.finetune import checkpoint as checkpoints
from ftmeta.finetune.clock import Clock, PeakMemory
from ftmeta.finetune.data import (
    Batch,
    TokenizedTask,
    Tokens,
    collate,
    evaluation_batches,
    fixed_subset,
    tokenize_task,
    training_batches,
)
from ftmeta.finetune.loss import training_loss
from ftmeta.finetune.neftune import Noise
from ftmeta.finetune.optim import lr_factor, make_optimizer, set_learning_rate
from ftmeta.finetune.provenance import device_name, library_versions
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import settings_of
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunResult, RunRow, RunSpec, Split, Status, Task
from ftmeta.version import code_version

_MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}  # rows x padded length of one forward pass with gradients
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


def finetune(
    pipeline: Pipeline,
    task: Task,
    base: LoadedModel,
    seed: int,
    *,
    budget: Budget = Budget(),  # noqa: B008  # frozen
    until: int | None = None,
    checkpoint: Path | str | None = None,
    tokenized: TokenizedTask | None = None,
) -> Finetuning:
    """Starts a run (or continues it from `checkpoint`) that ends after fidelity `until`, or after the last one.

    `tokenized` spares long-lived workers the tokenisation. Close the run before the next one starts on the same base
    model: `with finetune(...) as run`, or `run.close()`. Raises UserError for what cannot be run.
    """
    return Finetuning(pipeline, task, base, seed, budget, until, checkpoint, tokenized)


class Finetuning:
    """An iterator of the run's new curve points (fidelity 0 first), and what is left when it ends.

    `spec` and `learning_rate` say what runs, `status` and `error` how it ended, `curve` holds all points, also those
    from before a continuation.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        task: Task,
        base: LoadedModel,
        seed: int,
        budget: Budget,
        until: int | None,
        checkpoint: Path | str | None,
        tokenized: TokenizedTask | None,
    ) -> None:
        self.spec = RunSpec(task.name, task.fingerprint, base.info.name, base.info.fingerprint, pipeline, seed, budget)
        self.settings = settings_of(pipeline)
        self.learning_rate = self.settings.lr_multiplier * base.info.reference_lr
        self.status: Status = "stopped"
        self.error: str | None = None
        self.curve: list[CurvePoint] = []
        self._until = budget.max_fidelity if until is None else min(until, budget.max_fidelity)
        self._base = base
        self._tokenized = tokenized or tokenize_task(task, base)
        self._peak = PeakMemory(base.device)
        self._peak_before_gb = 0.0
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._generation: dict[str, float] | None = None

        rows = self._tokenized.splits["train"]
        self._train = [rows[index] for index in fixed_subset(len(rows), budget.max_train_examples)]
        for split in ("train", "validation", "test"):
            if not self._tokenized.splits[split]:
                raise DataError(f"task '{task.name}' has no {split} examples; a run needs all three splits")
        examples = math.ceil(budget.epochs * len(self._train))
        lengths = np.array([len(row) for row in self._train])
        self._batches = training_batches(lengths, self.settings.batch_size, examples, seed)
        lr_factor(self.settings.lr_schedule, 0, self.total_steps, self.settings.warmup_ratio)

        self._step = self._examples = self._tokens = 0
        self._train_clock, self._eval_clock = Clock(base.device), Clock(base.device)
        self._wall_before_s, self._wall_began = 0.0, time.perf_counter()
        self._adapted: Any = None
        self._randomness = Randomness(seed, base.device)
        self._noise = Noise(self.settings.neftune_alpha)
        config = adapters.adapter_config(self.settings, base.model.config)
        with self._randomness.active():
            self._adapted = adapters.attach(base.model, config)
        self._parameters = adapters.trainable(self._adapted)
        self._optimizer = make_optimizer(self._parameters, self.settings, self.learning_rate)
        if checkpoint is not None:
            self._continue_from(checkpoint)
        self._points = self._run()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the full budget."""
        return len(self._batches)

    @property
    def peak_memory_gb(self) -> float:
        return max(self._peak_before_gb, self._peak.gb())

    @property
    def device(self) -> str:
        return device_name(self._base.device)

    @property
    def zero_shot(self) -> CurvePoint:
        """Fidelity 0. Raises FtmetaError before it is measured."""
        if not self.curve:
            raise FtmetaError("the zero-shot score is not measured yet; iterate over the run first")
        return self.curve[0]

    def __iter__(self) -> Iterator[CurvePoint]:
        return self

    def __next__(self) -> CurvePoint:
        return next(self._points)

    def __enter__(self) -> Finetuning:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the run and takes its adapter off the base model, which is then as it was before. Safe to repeat."""
        if self._adapted is None:
            return
        self._peak_before_gb = self.peak_memory_gb
        self._wall_before_s, self._wall_began = self._wall_s(), math.inf
        self._points.close()
        adapters.detach(self._adapted)
        self._adapted = None

    # --- the run ---------------------------------------------------------------------------------------------------

    def _run(self) -> Generator[CurvePoint, None, None]:
        try:
            yield from self._fidelities()
        except UserError:
            raise
        except FloatingPointError as error:
            self._end("diverged", error)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._end("oom", error)
        except Exception as error:
            said = str(error).lower()
            self._end("oom" if any(words in said for words in _OUT_OF_MEMORY) else "error", error)

    def _fidelities(self) -> Iterator[CurvePoint]:
        last = self.spec.budget.max_fidelity
        for fidelity in range(len(self.curve), self._until + 1):
            train_loss = self._train_to(round(fidelity / last * self.total_steps))
            point = self._measure(fidelity, train_loss)
            self.curve.append(point)
            self._check(point)
            if fidelity == last and self.status == "stopped":
                self.status = "ok"
            yield point
            if self.status == "diverged":
                return

    def _train_to(self, target: int) -> float | None:
        """Takes optimizer steps until `target`; returns the mean loss per label over them, None without a step."""
        if target == self._step:
            return None
        losses = []
        model = self._base.model
        embedding = model.get_input_embeddings()
        with self._train_clock.measure(), self._randomness.active(), self._noise.active(embedding):
            model.train()
            try:
                while self._step < target:
                    losses.append(self._one_step())
            finally:
                model.eval()
        return float(np.mean(losses))

    def _one_step(self) -> float:
        settings = self.settings
        rows = [self._train[index] for index in self._batches[self._step]]
        limit = _MICRO_BATCH_TOKENS[self._base.device.type]
        micro = [self._collate(part, full=settings.loss_on == "full") for part in evaluation_batches(rows, limit)]
        labels = sum(len(batch.targets_S) for batch in micro)
        total = torch.zeros((), device=self._base.device)
        for batch in micro:
            self._noise.lengths_B = batch.lengths_B
            with self._precision():  # left before each step: autocast keeps the weights it has cast until then
                loss = training_loss(self._base.model, batch, settings.label_smoothing) / labels
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), settings.max_grad_norm)
        value, gradient = torch.stack([total, norm.float()]).tolist()
        if not (math.isfinite(value) and math.isfinite(gradient)):
            raise FloatingPointError(f"step {self._step + 1}: training loss {value}, gradient norm {gradient}")
        factor = lr_factor(settings.lr_schedule, self._step, self.total_steps, settings.warmup_ratio)
        set_learning_rate(self._optimizer, factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        self._examples += len(rows)
        self._tokens += sum(batch.tokens for batch in micro)
        return value

    def _measure(self, fidelity: int, train_loss: float | None) -> CurvePoint:
        if self.curve and train_loss is None:  # a tiny task: this fidelity ends at the step of the one before
            return replace(self.curve[-1], fidelity=fidelity, train_loss=None, wall_s=self._wall_s())
        with adapters.merged(self._adapted), self._precision():
            with self._eval_clock.measure():
                validation = evaluate.likelihood(self._base.model, self._evaluation("validation"))
            test = evaluate.likelihood(self._base.model, self._evaluation("test"))
        zero_val = self.curve[0].val_nll if self.curve else validation.nll
        zero_test = self.curve[0].test_nll if self.curve else test.nll
        if not self.curve and not (math.isfinite(validation.nll) and math.isfinite(test.nll)):
            raise FtmetaError(f"the base model's own NLL is not finite ({validation.nll}); its weights are unusable")
        assert zero_val is not None
        assert zero_test is not None
        finite = math.isfinite(validation.nll)
        return CurvePoint(
            fidelity=fidelity,
            step=self._step,
            examples=self._examples,
            tokens=self._tokens,
            score=evaluate.score_of(validation.nll, zero_val),
            val_nll=validation.nll if finite else None,
            val_token_accuracy=validation.token_accuracy if finite else None,
            test_score=evaluate.score_of(test.nll, zero_test),
            test_nll=test.nll if math.isfinite(test.nll) else None,
            train_loss=train_loss,
            cost_train_s=self._train_clock.cost_s,
            cost_eval_s=self._eval_clock.cost_s,
            cost_s=self._train_clock.cost_s + self._eval_clock.cost_s,
            wall_s=self._wall_s(),
        )

    def _check(self, point: CurvePoint) -> None:
        limit = 2 * self.zero_shot.val_nll + 1 if self.zero_shot.val_nll is not None else math.inf
        if point.val_nll is None or point.val_nll > limit:
            self._end(
                "diverged",
                FloatingPointError(f"fidelity {point.fidelity}: validation NLL {point.val_nll}, limit {limit:.3f}"),
            )

    def _end(self, status: Status, error: Exception) -> None:
        logging.getLogger(__name__).debug("run %s: %s", self.spec.run_id, status, exc_info=error)
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, FloatingPointError) else f"{type(error).__name__}: "
        self.status, self.error = status, (kind + lines[0])[:500]

    # --- parts -----------------------------------------------------------------------------------------------------

    def _collate(self, rows: Sequence[Tokens], *, full: bool = False) -> Batch:
        return collate(rows, self._tokenized.pad_token, self._base.device, full=full)

    def _evaluation(self, split: Split) -> list[Batch]:
        return evaluate.batches_of(self._tokenized, split, self.spec.budget.eval_examples, self._base.device)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return evaluate.precision(self._base.model, self._base.device)

    def _wall_s(self) -> float:
        if self._wall_began == math.inf:
            return self._wall_before_s
        return self._wall_before_s + time.perf_counter() - self._wall_began

    def _continue_from(self, folder: Path | str) -> None:
        try:
            progress = checkpoints.read_progress(folder, self.spec.run_id)
            checkpoints.load_tensors(folder, self._parameters, self._optimizer, self._randomness)
        except BaseException:
            adapters.detach(self._adapted)
            raise
        self._step, self._examples, self._tokens = progress.step, progress.examples, progress.tokens
        self._train_clock.cost_s, self._eval_clock.cost_s = progress.cost_train_s, progress.cost_eval_s
        self._wall_before_s, self._peak_before_gb = progress.wall_s, progress.peak_memory_gb
        self._started_at = progress.started_at
        self.curve = list(progress.curve)
        if len(self.curve) > self.spec.budget.max_fidelity:
            self.status = "ok"

    # --- what is left of it ----------------------------------------------------------------------------------------

    def save_checkpoint(self, folder: Path | str) -> None:
        """Writes what `finetune(..., checkpoint=folder)` continues from. Call it between points."""
        progress = checkpoints.Progress(
            run_id=self.spec.run_id,
            step=self._step,
            examples=self._examples,
            tokens=self._tokens,
            cost_train_s=self._train_clock.cost_s,
            cost_eval_s=self._eval_clock.cost_s,
            wall_s=self._wall_s(),
            peak_memory_gb=self.peak_memory_gb,
            started_at=self._started_at,
            curve=tuple(self.curve),
        )
        self._require_open()
        checkpoints.save(folder, progress, self._parameters, self._optimizer, self._randomness)

    def save_adapter(self, folder: Path | str) -> None:
        """Writes a standard PEFT adapter: `PeftModel.from_pretrained(base, folder)` loads it, without ftmeta."""
        from ftmeta.files import atomic_path

        self._require_open()
        with atomic_path(folder) as fresh:
            self._adapted.save_pretrained(fresh)

    def evaluate_test(self, *, zero_shot: bool = False) -> dict[str, float]:
        """Test quality now (with `zero_shot`: of the bare base model): `score`, `nll` on the run's fixed test subset,
        `exact_match`, `f1`, `rouge_l` of 64 generated answers, `generated` their number. Costs nothing of `cost_s`."""
        self._require_open()
        rows = self._tokenized.splits["test"]
        subset = fixed_subset(len(rows), self.spec.budget.eval_examples)
        sample = [int(subset[at]) for at in fixed_subset(len(subset), evaluate.GENERATION_EXAMPLES)]
        model = self._base.model
        with adapters.disabled(self._adapted) if zero_shot else adapters.merged(self._adapted), self._precision():
            nll = evaluate.likelihood(model, self._evaluation("test")).nll
            made = evaluate.answers(model, self._tokenized, "test", sample, self._base.tokenizer, self._base.device)
        examples = self._tokenized.task.test
        generation = evaluate.text_metrics(made, [examples[index].completion for index in sample])
        if not zero_shot:
            self._generation = generation
        zero_nll = self.zero_shot.test_nll
        assert zero_nll is not None
        return {
            "score": evaluate.score_of(nll, zero_nll) or 0.0,
            "nll": nll,
            **generation,
            "generated": len(sample),
        }

    def result(self) -> RunResult:
        """The run's row and curve, at any time; `generation` is set once `evaluate_test` was called."""
        last = self.curve[-1] if self.curve else None
        row = RunRow(
            run_id=self.spec.run_id,
            task=self.spec.task,
            base_model=self.spec.base_model,
            seed=self.spec.seed,
            status=self.status,
            error=self.error,
            max_fidelity=self.spec.budget.max_fidelity,
            fidelity=last.fidelity if last else 0,
            cost_s=self._train_clock.cost_s + self._eval_clock.cost_s,
            wall_s=self._wall_s(),
            peak_memory_gb=self.peak_memory_gb,
            device=self.device,
            code_version=code_version(),
            task_fingerprint=self.spec.task_fingerprint,
            base_model_fingerprint=self.spec.base_model_fingerprint,
            space=self.spec.pipeline.space,
            started_at=self._started_at,
            pipeline=self.spec.pipeline,
            libraries=library_versions(),
            generation=self._generation,
        )
        return RunResult(row, tuple(self.curve))

    def _require_open(self) -> None:
        if self._adapted is None:
            raise FtmetaError("the run is closed; save and evaluate before close()")
