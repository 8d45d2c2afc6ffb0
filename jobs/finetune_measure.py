"""Our worker and trl's SFTTrainer on the same work, in a process of their own.

    python -m jobs.finetune_measure speed '{"base_model": "phi3-micro", "examples": 64}'

In: what to measure (`speed`, `peak SIDE`, `parity`) and a `Setup` as JSON. Out: JSON on standard output.

Both sides get the same base model in memory, the same token lists with the loss on the completion, the strong default's
adapter, AdamW, schedule and clipping, batches of the same size, the same precision and threads. What is timed is the
training loop: from the first batch on to the end of the last optimizer step; making the trainer, loading, evaluation
and saving are not. Tokens are those of the examples: padding does not count.

SFTTrainer is as trl sets it up by default: random order, padding to the longest example of a batch, activation
checkpointing on. `trl_without_checkpointing` is the same with that off: faster, with more memory. Our worker sorts
examples of 16 batches by length before it cuts them into batches, as it always does.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.schema import Budget, Pipeline
from jobs import measuring
from jobs.trl_terms import sft_arguments, sft_dataset

if TYPE_CHECKING:
    from ftmeta.finetune import Finetuning, TokenizedTask
    from ftmeta.finetune.data import Tokens
    from ftmeta.models import LoadedModel

SIDES = ("ours", "trl", "trl_without_checkpointing")


@dataclass(frozen=True)
class Setup:
    base_model: str  # a name or a folder
    task: str = "world-facts"
    examples: int | None = None  # of the training split, a fixed subset; None: all. One epoch of them is one repetition
    batch_size: int = 16
    threads: int = 2
    repetitions: int = 5
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def budget(self) -> Budget:
        return Budget(epochs=1, max_fidelity=1, max_train_examples=self.examples, eval_examples=1)


@dataclass(frozen=True)
class Timed:
    tokens_per_s: float
    train_loss: float  # mean over the steps


def in_a_process(setup: Setup, *what: str) -> dict[str, Any]:
    """Measures in a fresh process."""
    environment = {"OMP_NUM_THREADS": str(setup.threads)}
    return measuring.in_a_process("jobs.finetune_measure", *what, json.dumps(asdict(setup)), environment=environment)


class Bench:
    """A setup with its model, tokens and pipeline in memory."""

    def __init__(self, setup: Setup, **changes: Any) -> None:
        import torch

        from ftmeta.finetune import tokenize_task
        from ftmeta.finetune.data import fixed_subset
        from ftmeta.models import load, resolve
        from ftmeta.space import load_pipeline, load_space
        from ftmeta.tasks import load_task

        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.base: LoadedModel = load(resolve(setup.base_model), setup.device, setup.dtype)
        self.task = load_task(setup.task)
        self.tokenized: TokenizedTask = tokenize_task(self.task, self.base)
        rows = self.tokenized.splits["train"]
        self.rows: list[Tokens] = [rows[index] for index in fixed_subset(len(rows), setup.examples)]
        self.tokens = sum(map(len, self.rows))
        strong = load_pipeline("strong-default", load_space("lora-v1"))
        self.pipeline = Pipeline(strong.space, {**strong.values, "batch_size": setup.batch_size, **changes})

    def flops_per_token(self) -> float:
        """What the model itself asks for, whoever computes it: 4 a weight of the blocks (the base is frozen: forward,
        and backward through activations), and the same for the head at labels."""
        model = self.base.model
        blocks = sum(weight.numel() for weight in model.get_decoder().layers.parameters())
        labels = sum(len(row) - row.start for row in self.rows) / self.tokens
        return 4.0 * (blocks + labels * model.get_output_embeddings().weight.numel())

    def run(self, side: str) -> Timed:
        """One epoch by one side."""
        if side == "ours":
            return self._ours()
        # SFTTrainer writes its own forward pass into the model it gets
        return self.theirs(copy.deepcopy(self.base.model), checkpointing=side == "trl")

    def _ours(self) -> Timed:
        ended_s, losses = 0.0, []

        def after_step(run: Finetuning) -> bool:
            nonlocal ended_s
            ended_s = time.perf_counter()
            losses.append(run.step_loss)
            return False

        with self._run(after_step) as run:
            next(run)  # the zero-shot score
            began_s = time.perf_counter()
            list(run)
            if run.status != "ok":
                raise RuntimeError(f"our run ended with {run.status}: {run.error}")
        return Timed(self.tokens / (ended_s - began_s), sum(losses) / len(losses))

    def _run(self, after_step: Callable[[Finetuning], bool]) -> Finetuning:
        from ftmeta.finetune import finetune

        return finetune(
            self.pipeline,
            self.task,
            self.base,
            seed=0,
            budget=self.setup.budget,
            tokenized=self.tokenized,
            after_step=after_step,
        )

    def theirs(self, model: Any, *, checkpointing: bool) -> Timed:
        from ftmeta.finetune.adapters import adapter_config
        from ftmeta.finetune.settings import settings_of

        config = adapter_config(settings_of(self.pipeline), model.config)
        with tempfile.TemporaryDirectory() as folder:
            trainer, losses, clock = self._trainer(model, self.rows, folder, checkpointing, peft_config=config)
            trainer.train()
        return Timed(self.tokens / (clock.ended_s - clock.began_s), sum(losses) / len(losses))

    def _trainer(
        self, model: Any, rows: list[Tokens], folder: str, checkpointing: bool, order: str = "random", **more: Any
    ) -> tuple[Any, list[float], Any]:
        """An SFTTrainer, the loss of each step as it comes, and the time of its training loop."""
        import datasets
        import torch
        import transformers
        from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

        datasets.disable_progress_bars()
        losses: list[float] = []
        device = self.base.device

        class Recording(SFTTrainer):
            def training_step(self, *arguments: Any, **named: Any) -> Any:
                loss = super().training_step(*arguments, **named)
                losses.append(loss.item())
                return loss

        class Clock(transformers.TrainerCallback):
            began_s = ended_s = 0.0

            def on_train_begin(self, *arguments: Any, **named: Any) -> None:
                self.began_s = time.perf_counter()

            def on_step_end(self, *arguments: Any, **named: Any) -> None:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                self.ended_s = time.perf_counter()

        clock = Clock()
        arguments = SFTConfig(
            folder,
            **sft_arguments(self.pipeline.values, self.base.info.reference_lr),
            num_train_epochs=1,
            train_sampling_strategy=order,
            activation_checkpointing=checkpointing,
            bf16=self.setup.dtype == "bfloat16",
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
        )
        trainer = Recording(
            model,
            args=arguments,
            train_dataset=sft_dataset(rows),
            processing_class=self.base.tokenizer,
            callbacks=[clock],
            **more,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer, losses, clock

    def parity(self) -> dict[str, Any]:
        """Both sides from the same initial adapter through the same batches: how far their losses are apart."""
        import peft

        ours: list[float] = []

        def after_step(run: Finetuning) -> bool:
            ours.append(run.step_loss)
            return False

        with tempfile.TemporaryDirectory() as folder:
            with self._run(after_step) as run:
                run.save_adapter(Path(folder) / "initial")
                list(run)
            rows = [run.train_rows[index] for batch in run.batches for index in batch]
            adapted = peft.PeftModel.from_pretrained(self.base.model, Path(folder) / "initial", is_trainable=True)
            trainer, theirs, _ = self._trainer(adapted, rows, folder, checkpointing=True, order="sequential")
            trainer.train()
        apart = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
        return {"steps": len(ours), "worst_relative": max(apart), "first_loss": ours[0], "last_loss": ours[-1]}


def speed(setup: Setup) -> dict[str, Any]:
    """The sides in turns, `repetitions` times after one that does not count; the ratios belong to one turn each."""
    from ftmeta.finetune.provenance import device_name

    bench = Bench(setup)
    load = [os.getloadavg()[0]]
    turns = [{side: bench.run(side) for side in SIDES} for _ in range(setup.repetitions + 1)][1:]
    load.append(os.getloadavg()[0])
    return {
        "tokens": bench.tokens,
        "mean_tokens": bench.tokens / len(bench.rows),
        "flops_per_token": bench.flops_per_token(),
        "device": device_name(bench.base.device),
        "tokens_per_s": {side: [turn[side].tokens_per_s for turn in turns] for side in SIDES},
        "train_loss": {side: turns[0][side].train_loss for side in SIDES},
        "ratio": {side: [turn["ours"].tokens_per_s / turn[side].tokens_per_s for turn in turns] for side in SIDES[1:]},
        "load_before_and_after": load,
    }


def peak(setup: Setup, side: str) -> dict[str, Any]:
    """Peak memory of a process that does nothing but this side's training; on CUDA what torch allocated there."""
    import torch

    bench = Bench(setup)
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if side == "ours":
        bench.run(side)
    else:
        bench.theirs(bench.base.model, checkpointing=side == "trl")
    if setup.device == "cuda":
        return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def parity(setup: Setup) -> dict[str, Any]:
    """Without dropout, of which each side draws its own."""
    return Bench(replace(setup), lora_dropout=0.0).parity()


WHAT: dict[str, Callable[..., dict[str, Any]]] = {"speed": speed, "peak": peak, "parity": parity}

if __name__ == "__main__":
    name, *arguments, document = sys.argv[1:]
    print(json.dumps(WHAT[name](Setup(**json.loads(document)), *arguments)))  # noqa: T201
