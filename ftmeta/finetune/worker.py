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
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ftmeta.errors import DataError, FtmetaError, UserError
from ftmeta.files import atomic_path
from ftmeta.finetune import adapters, evaluate
from ftmeta.finetune import checkpoint as checkpoints
from ftmeta.finetune.checkpoint import Progress
from ftmeta.finetune.clock import Clock, PeakMemory
from ftmeta.finetune.course import Counts, Course
from ftmeta.finetune.data import TokenizedTask, Tokens, tokenize_task
from ftmeta.finetune.engine import EngineMaker, Execution, LocalEngine, Ranks
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.randomness import Randomness
from ftmeta.finetune.settings import settings_of
from ftmeta.finetune.training import Plan, Training
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunResult, RunSpec, Split, Status, Task


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
    engine: EngineMaker = LocalEngine,
    execution: Execution = Execution(),  # noqa: B008  # frozen
    after_step: Callable[[Finetuning], bool] | None = None,
    score_test: bool = True,
) -> Finetuning:
    """Starts a run (or continues it from `checkpoint`) that ends after fidelity `until`, or after the last one.

    `tokenized` spares long-lived workers the tokenisation. `engine` and `execution` say how the steps are computed.
    `after_step` is called after each optimizer step; it may read `step_loss`, save a checkpoint, and return True to end
    the run here. Without `score_test` points have no test scores, which only reports
    need. Close the run before the next one starts on the same base model: `with finetune(...) as run`, or
    `run.close()`. Raises UserError for what cannot be run.
    """
    return Finetuning(
        pipeline, task, base, seed, budget, until, checkpoint, tokenized, engine, execution, after_step, score_test
    )


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
        engine: EngineMaker,
        execution: Execution,
        after_step: Callable[[Finetuning], bool] | None,
        score_test: bool,
    ) -> None:
        self.spec = RunSpec(task.name, task.fingerprint, base.info.name, base.info.fingerprint, pipeline, seed, budget)
        self.settings = settings_of(pipeline)
        self.learning_rate = self.settings.lr_multiplier * base.info.reference_lr
        self._course = Course(self.spec)
        self._until = budget.max_fidelity if until is None else min(until, budget.max_fidelity)
        self._base = base
        self._tokenized = tokenized or tokenize_task(task, base)
        self._peak = PeakMemory(base.device)
        self._peak_before_gb = 0.0
        self._generation: dict[str, float] | None = None

        for split in ("train", "validation", "test"):
            if not self._tokenized.splits[split]:
                raise DataError(f"task '{task.name}' has no {split} examples; a run needs all three splits")
        self._plan = Plan(self._tokenized, self.settings, budget, seed)
        self._eval_clock = Clock(base.device)
        self._wall_before_s, self._wall_began = 0.0, time.perf_counter()
        self._stopped = False
        self._adapted: Any = None
        self._after_step, self._execution, self._score_test = after_step, execution, score_test
        self._zero_test_nll: float | None = None
        self._randomness = Randomness(seed, base.device)
        config = adapters.adapter_config(self.settings, base.model.config)
        with self._randomness.active():
            self._adapted = adapters.attach(base.model, config)
        self._adapted.eval()  # PEFT's dropout begins in training mode, and a run may begin with a measurement
        try:
            self._parameters = adapters.trainable(self._adapted)
            progress, tensors = self._read(checkpoint)
            self._engine = engine(self._adapted, self._parameters, self.settings, self.learning_rate)
            self._randomness.split(self._engine.ranks.rank)
            self._training = Training(
                self._plan, base, self._tokenized, self.settings, self._engine, execution, self._randomness
            )
            if progress is not None:
                self._go_on_from(progress, tensors)
        except BaseException:
            adapters.detach(self._adapted)
            raise
        self._points = self._run()

    @property
    def status(self) -> Status:
        """How the run ended; `stopped` as long as it can go on."""
        return self._course.status

    @property
    def error(self) -> str | None:
        return self._course.error

    @property
    def curve(self) -> list[CurvePoint]:
        """All points, also those from before a continuation."""
        return self._course.curve

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the full budget."""
        return len(self._plan.batches)

    @property
    def train_rows(self) -> list[Tokens]:
        """The training examples."""
        return self._plan.rows

    @property
    def batches(self) -> list[npt.NDArray[np.int64]]:
        """The examples of each optimizer step of the full budget, as indices into `train_rows`."""
        return self._plan.batches

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._training.step

    @property
    def step_loss(self) -> float:
        """The mean loss per label of the last step."""
        return self._training.step_loss

    @property
    def was_stopped(self) -> bool:
        """Whether `after_step` ended the run."""
        return self._stopped

    @property
    def cut(self) -> dict[Split, int]:
        """How many examples of each split were longer than the model's context and lost text (data.py says which)."""
        return self._tokenized.cut

    @property
    def ranks(self) -> Ranks:
        """The processes that take part."""
        return self._engine.ranks

    @property
    def peak_memory_gb(self) -> float:
        return max(self._peak_before_gb, self._peak.gb())

    @property
    def device(self) -> str:
        return device_name(self._base.device)

    @property
    def zero_shot(self) -> CurvePoint:
        """Fidelity 0. Raises FtmetaError before it is measured."""
        return self._course.zero_shot

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
        except Exception as error:
            self._course.end(error)

    def _fidelities(self) -> Iterator[CurvePoint]:
        last = self.spec.budget.max_fidelity
        left = range(len(self.curve), self._until + 1) if self.status != "diverged" else ()
        for fidelity in left:
            self._stopped = self._training.run_to(round(fidelity / last * self.total_steps), self._wants_to_stop)
            if self._stopped:
                return
            point = self._measure(self._training.mean_loss())
            self._training.losses = []
            yield point
            if self.status == "diverged":
                return

    def _wants_to_stop(self) -> bool:
        return self._after_step is not None and self._after_step(self)

    def _measure(self, train_loss: float | None) -> CurvePoint:
        if self.curve and train_loss is None:  # a tiny task: this fidelity ends at the step of the one before
            return self._course.repeated(self._wall_s())
        with self._engine.merged(), self._precision():
            with self._eval_clock.measure():
                validation = self._likelihood("validation")
            test = self._likelihood("test") if self._score_test else None
        cost_train_s, cost_eval_s = self._engine.ranks.sum([self._training.clock.cost_s, self._eval_clock.cost_s])
        training = self._training
        counts = Counts(
            *(training.step, training.examples, training.tokens, train_loss, cost_train_s, cost_eval_s, self._wall_s())
        )
        return self._course.measured(counts, validation, test)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _likelihood(self, split: Split) -> evaluate.Likelihood:
        examples, limit = self.spec.budget.eval_examples, self._execution.micro_batch_tokens
        batches = evaluate.batches_of(self._tokenized, split, examples, self._base.device, limit)
        return self._engine.evaluate(lambda model: evaluate.likelihood(model, batches, self._engine.ranks))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return evaluate.precision(self._base.model, self._base.device)

    def _wall_s(self) -> float:
        if self._wall_began == math.inf:
            return self._wall_before_s
        return self._wall_before_s + time.perf_counter() - self._wall_began

    def _read(self, checkpoint: Path | str | None) -> tuple[Progress | None, Mapping[str, torch.Tensor]]:
        """The checkpoint, whose adapter is put in place at once: an engine may take the parameters apart."""
        if checkpoint is None:
            return None, {}
        progress, tensors = checkpoints.load(checkpoint, self.spec.run_id)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[f"adapter/{name}"])
        return progress, tensors

    def _go_on_from(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        self._engine.load_optimizer(tensors)
        rank = self._engine.ranks.rank
        mine = f"random/{rank}/"
        state = {name.removeprefix(mine): value for name, value in tensors.items() if name.startswith(mine)}
        if state.keys() >= self._randomness.state().keys():
            self._randomness.load(state)
        else:  # written by fewer processes, or on another kind of device
            self._randomness.split(rank, progress.step)
        training = self._training
        training.step, training.examples, training.tokens = progress.step, progress.examples, progress.tokens
        training.losses = list(progress.losses)
        if rank == 0:  # costs are summed over the ranks
            training.clock.cost_s, self._eval_clock.cost_s = progress.cost_train_s, progress.cost_eval_s
        self._wall_before_s, self._peak_before_gb = progress.wall_s, progress.peak_memory_gb
        self._course.take_up(progress.curve, progress.started_at)

    # --- what is left of it ----------------------------------------------------------------------------------------

    def save_checkpoint(self, folder: Path | str) -> None:
        """Writes what `finetune(..., checkpoint=folder)` continues from, between points or in `after_step`. All ranks
        call it, and the first one writes."""
        self._require_open()
        ranks = self._engine.ranks
        train_s, eval_s = ranks.sum([self._training.clock.cost_so_far(), self._eval_clock.cost_s])
        tensors = self._engine.state()
        for rank, state in enumerate(ranks.gather(self._randomness.state())):
            tensors.update({f"random/{rank}/{name}": value for name, value in state.items()})
        progress = Progress(
            run_id=self.spec.run_id,
            step=self.step,
            examples=self._training.examples,
            tokens=self._training.tokens,
            cost_train_s=train_s,
            cost_eval_s=eval_s,
            wall_s=self._wall_s(),
            peak_memory_gb=max(ranks.gather(self.peak_memory_gb)),
            started_at=self._course.started_at,
            curve=tuple(self.curve),
            losses=tuple(self._training.losses),
        )
        if ranks.rank == 0:
            checkpoints.save(folder, progress, tensors)

    def save_adapter(self, folder: Path | str) -> None:
        """Writes a standard PEFT adapter: `PeftModel.from_pretrained(base, folder)` loads it, without ftmeta. All ranks
        call it, and the first one writes."""
        write = self.adapter_writer()
        if self.ranks.rank == 0:
            write(folder)

    def adapter_writer(self) -> Callable[[Path | str], None]:
        """What `save_adapter` writes with: all ranks call this, and one of them the function that it returns."""
        self._require_open()
        whole = self._engine.state()
        state = {name: whole[f"adapter/{name}"] for name in self._parameters}

        def write(folder: Path | str) -> None:
            with atomic_path(folder) as fresh:
                self._adapted.save_pretrained(fresh, state_dict=state)

        return write

    def evaluate_test(self, *, zero_shot: bool = False) -> dict[str, float]:
        """Test quality now (with `zero_shot`: of the bare base model): `score`, `nll` on the run's fixed test subset,
        `exact_match`, `f1`, `rouge_l` of 64 generated answers, `generated` their number. Costs nothing of `cost_s`."""
        self._require_open()
        sample = evaluate.generation_sample(len(self._tokenized.splits["test"]), self.spec.budget.eval_examples)
        engine = self._engine
        answers = partial(
            evaluate.answers,
            tokenized=self._tokenized,
            split="test",
            indices=sample,
            tokenizer=self._base.tokenizer,
            ranks=engine.ranks,
            in_pieces=engine.in_pieces,
        )
        with adapters.disabled(self._adapted) if zero_shot else engine.merged(), self._precision():
            nll = None if zero_shot else self._test_nll()
            nll = self._likelihood("test").nll if nll is None else nll
            made = engine.evaluate(answers)
        examples = self._tokenized.task.test
        generation = evaluate.text_metrics(made, [examples[index].completion for index in sample])
        if zero_shot:
            self._zero_test_nll = nll
        else:
            self._generation = generation
        return {
            "score": evaluate.score_of(nll, self._zero_shot_test_nll()) or 0.0,
            "nll": nll,
            **generation,
            "generated": len(sample),
        }

    def _zero_shot_test_nll(self) -> float:
        """Of the bare base model; measured now if no point has."""
        known = self._zero_test_nll if self.zero_shot.test_nll is None else self.zero_shot.test_nll
        if known is None:
            with adapters.disabled(self._adapted), self._precision():
                known = self._zero_test_nll = self._likelihood("test").nll
        return known

    def validate_whole(self) -> tuple[float, float]:
        """NLL per answer token now on the whole validation split, of which points score a part, and the device-seconds
        that this took; they are not in the run's own costs."""
        self._require_open()
        clock = Clock(self._base.device)
        rows, limit = len(self._tokenized.splits["validation"]), self._execution.micro_batch_tokens
        batches = evaluate.batches_of(self._tokenized, "validation", rows, self._base.device, limit)
        engine = self._engine
        with engine.merged(), self._precision(), clock.measure():
            nll = engine.evaluate(lambda model: evaluate.likelihood(model, batches, engine.ranks)).nll
        return nll, sum(engine.ranks.sum([clock.cost_s]))

    def _test_nll(self) -> float | None:
        """Of the adapter as it is now, if the last point has measured it."""
        return self.curve[-1].test_nll if self.curve and self.curve[-1].step == self.step else None

    def result(self) -> RunResult:
        """The run's row and curve, at any time; `generation` is set once `evaluate_test` was called."""
        ranks = self._engine.ranks
        return self._course.result(
            cost_s=sum(ranks.sum([self._training.clock.cost_s + self._eval_clock.cost_s])),
            wall_s=self._wall_s(),
            peak_memory_gb=max(ranks.gather(self.peak_memory_gb)),
            device=self.device,
            generation=self._generation,
        )

    def _require_open(self) -> None:
        if self._adapted is None:
            raise FtmetaError("the run is closed; save and evaluate before close()")
