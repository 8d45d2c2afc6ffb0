"""What the base model makes of a task before any finetuning: the two meta-features that need its weights.

In: a task and a base model. Out: one number for each name in ftmeta.metafeatures.ZERO_SHOT_FEATURES.

    zero_shot_features(load_task("elements"), resolve("phi3-micro"))    # {"zero_shot_nll": 5.77, ...}

They are measured with what a run scores itself with: the same validation examples, tokens and arithmetic. So they are
the numbers that every run records at fidelity 0, and a sweep takes them from there, at no cost.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from ftmeta.errors import ModelError
from ftmeta.finetune.data import fixed_subset, tokenize_task
from ftmeta.finetune.evaluate import batches_of, likelihood, precision
from ftmeta.metafeatures import zero_shot
from ftmeta.models import LoadedModel, load
from ftmeta.schema import BaseModelInfo, Budget, Task

CPU_PARAMETERS = 200_000_000  # smollm2-135m takes half a minute of one core


def zero_shot_features(
    task: Task,
    base_model: BaseModelInfo,
    *,
    examples: int = Budget.eval_examples,
    device: str | None = None,
    threads: int | None = None,
) -> dict[str, float]:
    """Loads the base model, on `device` (None: a CUDA device where there is one), and measures.

    Raises ModelError for a model that cannot be loaded, that is too large for the device, or whose NLL is not finite.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    parameters = base_model.shape.parameters
    if where == "cpu" and parameters > CPU_PARAMETERS:
        raise ModelError(
            f"base model '{base_model.name}' has {parameters / 1e6:,.0f} M parameters; without a CUDA device its "
            f"zero-shot loss is measured up to {CPU_PARAMETERS / 1e6:,.0f} M"
        )
    try:
        return measured(task, load(base_model, where), examples=examples, threads=threads)
    except (torch.OutOfMemoryError, MemoryError):
        raise ModelError(
            f"base model '{base_model.name}' does not fit into the memory of '{where}', so its zero-shot loss is not "
            "measured; use a device with more memory"
        ) from None


def measured(
    task: Task, base: LoadedModel, *, examples: int = Budget.eval_examples, threads: int | None = None
) -> dict[str, float]:
    """`zero_shot_features` of a model in memory, on at most `examples` validation examples: those that a run scores
    whose budget has as many `eval_examples`. `threads` None leaves torch's setting."""
    kept = tuple(task.validation[index] for index in fixed_subset(len(task.validation), examples))
    tokenized = tokenize_task(replace(task, train=(), validation=kept, test=()), base)
    with _threads(threads), precision(base.model, base.device):
        found = likelihood(base.model, batches_of(tokenized, "validation", examples, base.device))
    if not math.isfinite(found.nll):
        raise ModelError(
            f"base model '{base.info.name}' has an NLL of {found.nll} on the validation split of '{task.name}', not a "
            "finite one; its weights are unusable: fetch it again, or choose another"
        )
    return zero_shot(found.nll, found.token_accuracy)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
