"""A pipeline and examples of ours in the terms of trl's SFTTrainer: what the benchmarks that compare with it share.

In: the values of a LoRA pipeline, tokenised examples. Out: arguments of SFTConfig, a dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ftmeta.schema import Value

if TYPE_CHECKING:
    from ftmeta.finetune.data import Tokens

_SCHEDULES = {"constant": "constant_with_warmup"}  # transformers' own `constant` has no warmup


def sft_arguments(values: Mapping[str, Value], reference_lr: float) -> dict[str, Any]:
    """The pipeline's optimizer, schedule and loss; nothing is saved, reported or drawn."""
    return {
        "per_device_train_batch_size": int(values["batch_size"]),
        "learning_rate": float(values["lr_multiplier"]) * reference_lr,
        "lr_scheduler_type": _SCHEDULES.get(str(values["lr_schedule"]), str(values["lr_schedule"])),
        "warmup_steps": float(values["warmup_ratio"]),  # below 1 it is a share of all steps
        "weight_decay": float(values["weight_decay"]),
        "adam_beta2": float(values["adam_beta2"]),
        "max_grad_norm": float(values["max_grad_norm"]),
        "completion_only_loss": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def sft_dataset(rows: Iterable[Tokens]) -> Any:
    """A `datasets.Dataset` of token lists, with the answers marked."""
    import datasets

    return datasets.Dataset.from_list(
        [
            {"input_ids": row.ids.tolist(), "completion_mask": [0] * row.start + [1] * (len(row) - row.start)}
            for row in rows
        ]
    )
