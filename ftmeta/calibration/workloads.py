"""What is measured: short finetuning runs on made-up examples of chosen token lengths.

In: a base model's shape. Out: `Workload`s, from small to large; those that are `needed` are measured on every machine,
the others where time allows. They differ in what time goes into: few tokens a step (overhead), many (arithmetic), long
rows (attention), a small and a large adapter, forward passes alone (evaluation).

The examples are random tokens: how long a step takes does not depend on them. The learning rate is the search space's
lowest, so that nothing diverges while noise is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.costs import TokenStatistics, Work, analytic_work
from ftmeta.schema import Budget, ModelShape, Pipeline, Task, Value
from ftmeta.space import load_pipeline, load_space

if TYPE_CHECKING:
    from ftmeta.finetune import TokenizedTask

BATCH_SIZE, PROMPT, ANSWER = 16, 24, 8  # of the workload that tokens_per_s is told of: rows as short as questions are
REFERENCE = "strong default, 16 x 32"
_TASK = Task("calibration", (), (), (), fingerprint="calibration")


@dataclass(frozen=True)
class Workload:
    name: str
    pipeline: Pipeline
    prompt_tokens: int
    answer_tokens: int
    trains: bool = True  # False: a forward pass over `examples`, as an evaluation
    needed: bool = False

    @property
    def examples(self) -> int:
        """Of one unit: an optimizer step, or an evaluation."""
        return int(self.pipeline["batch_size"])

    @property
    def tokens(self) -> int:
        """Of one unit."""
        return self.examples * (self.prompt_tokens + self.answer_tokens)

    def budget(self, units: int) -> Budget:
        """What the worker is given for `units` of it."""
        if self.trains:
            return Budget(epochs=units, max_fidelity=1, eval_examples=1)
        return Budget(epochs=1, max_fidelity=1, eval_examples=self.examples * units)

    def work(self, shape: ModelShape, units: int, weight_bytes: int) -> Work:
        """What `units` of it ask for."""
        statistics = TokenStatistics(self.examples, self.prompt_tokens, self.answer_tokens)
        budget = self.budget(units)
        if self.trains:
            return analytic_work(shape, self.pipeline, statistics, replace(budget, eval_examples=0), weight_bytes)
        whole = analytic_work(shape, self.pipeline, statistics, budget, weight_bytes)
        first = {name: getattr(whole, name)[:1] for name in ("flops", "bytes", "layer_passes", "steps", "tokens")}
        return Work(**first)  # fidelity 0, before any training

    def tokenized(self, shape: ModelShape, units: int) -> TokenizedTask:
        """Random examples, as a task that the worker takes. The splits that are not measured have one."""
        from ftmeta.finetune import TokenizedTask
        from ftmeta.finetune.data import Tokens

        rng = np.random.default_rng(0)

        def examples(count: int) -> tuple[Tokens, ...]:
            ids = rng.integers(0, shape.vocab_size, (count, self.prompt_tokens + self.answer_tokens))
            return tuple(Tokens(row, self.prompt_tokens) for row in ids)

        validation = examples(1 if self.trains else self.examples * units)
        splits = {"train": examples(self.examples), "validation": validation, "test": examples(1)}
        return TokenizedTask(_TASK, "calibration", splits, end_token=0, pad_token=0)  # type: ignore[arg-type]  # literals


def workloads(shape: ModelShape) -> list[Workload]:
    """From few tokens to many; only those that the model's context has room for."""
    space = load_space("lora-v1")
    strong = load_pipeline("strong-default", space)
    widest = min(64, shape.hidden_size)  # PEFT takes no rank above a layer's width
    adapters: dict[str, dict[str, Value]] = {
        "strong default": {},
        "small adapter": {"lora_rank": 2, "target_modules": "attention"},
        "large adapter": {"lora_rank": widest},
        "evaluation": {},
    }

    def workload(kind: str, batch_size: int, tokens: int, *, needed: bool = False) -> Workload:
        values = {**strong.values, "lr_multiplier": 0.01, "batch_size": batch_size, **adapters[kind]}
        return Workload(
            f"{kind}, {batch_size} x {tokens}",
            Pipeline(space.name, values),
            prompt_tokens=tokens * PROMPT // (PROMPT + ANSWER),
            answer_tokens=tokens * ANSWER // (PROMPT + ANSWER),
            trains=kind != "evaluation",
            needed=needed,
        )

    found = [
        workload("small adapter", 4, 32, needed=True),
        workload("large adapter", 4, 32, needed=True),
        workload("strong default", BATCH_SIZE, 32, needed=True),
        workload("evaluation", 16, 32, needed=True),
        workload("small adapter", 16, 128),
        workload("large adapter", 64, 32),
        workload("strong default", 4, 512),
        workload("evaluation", 64, 128),
        workload("strong default", 64, 128),
        workload("large adapter", 64, 512),
    ]
    return [one for one in found if one.prompt_tokens + one.answer_tokens <= shape.context_length]
