"""A pipeline -> the typed settings of the worker: the one place that knows the names of the search space `lora-v1`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ftmeta.errors import SpaceError
from ftmeta.schema import Pipeline


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of one run. The defaults are the strong default's, for what a pipeline leaves out."""

    peft_method: str = "lora"
    lora_rank: int = 16
    alpha_per_rank: float = 2.0  # lora_alpha / lora_rank
    lora_dropout: float = 0.05
    lora_plus_ratio: float = 1.0  # learning rate of B / learning rate of A
    target_modules: str = "all"  # attention, mlp or all
    adapted_layers: str = "all"  # all, lower_half or upper_half
    lr_multiplier: float = 1.0  # x the base model's reference learning rate
    lr_schedule: str = "cosine"
    warmup_ratio: float = 0.1  # share of all optimizer steps
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    batch_size: int = 16  # examples per optimizer step
    neftune_alpha: float = 0.0  # 0: off
    label_smoothing: float = 0.0  # 0: off
    loss_on: str = "completion"  # completion or full


def settings_of(pipeline: Pipeline) -> Settings:
    """Reads a pipeline. Raises SpaceError for a hyperparameter that the worker does not have."""
    types = {field.name: field.type for field in fields(Settings)}
    unknown = sorted(set(pipeline.values) - set(types))
    if unknown:
        raise SpaceError(
            f"the finetune worker has no hyperparameter '{unknown[0]}'; it has {', '.join(sorted(types))} "
            f"(pipeline {pipeline.id} of space '{pipeline.space}')"
        )
    convert = {"int": int, "float": float, "str": str}
    return Settings(**{name: convert[str(types[name])](value) for name, value in pipeline.values.items()})
