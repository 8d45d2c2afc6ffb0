"""The folder for trl: `train.py`, which trains with SFTTrainer and needs trl, peft, transformers and datasets alone.

The script is train_with_trl.py beside this file, with the block of settings at its top written anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmeta.export.recipe import Recipe, Written, data_files, differences, messages
from ftmeta.schema import Example

_SCRIPT = Path(__file__).with_name("train_with_trl.py")
_BEGIN, _END = "# --- settings ---\n", "# --- end of settings ---\n"
# What the script was run with. trl 2 drops its label smoothing; before transformers 5 a warmup below 1 is no share.
_REQUIREMENTS = "trl>=1.16,<2\npeft>=0.21\ntransformers>=5.23\ndatasets>=5.2\ntorch>=2.11\n"


def write(recipe: Recipe) -> Written:
    before, _, rest = _SCRIPT.read_text(encoding="utf-8").partition(_BEGIN)
    script = before + _BEGIN + _settings(recipe) + _END + rest.partition(_END)[2]
    return Written(
        tool="trl",
        files={"train.py": script, "requirements.txt": _REQUIREMENTS, **data_files(recipe.task, _row)},
        install="pip install -r requirements.txt",
        command="python train.py",
        carried=_CARRIED,
        notes=(
            *differences(recipe),
            "Tokens and loss mask are those of ftmeta: `train.py` applies the base model's own chat template itself. "
            "trl would from the same files, but also train on what the template writes after the end of a turn.",
            "Dropout, NEFTune and a fresh adapter draw other random numbers than ftmeta does.",
        ),
    )


# setting -> where it stands in train.py
_CARRIED = {
    "peft_method": "`ADAPTER`",
    "lora_rank": "`ADAPTER`: `r`",
    "alpha_per_rank": "`ADAPTER`: `lora_alpha`, times the rank",
    "lora_dropout": "`ADAPTER`: `lora_dropout`",
    "lora_plus_ratio": "`OPTIMIZER`: `lora_plus_ratio`",
    "target_modules": "`ADAPTER`: `target_modules`",
    "adapted_layers": "`ADAPTER`: `layers_to_transform`, or spelled out in `target_modules`",
    "lr_multiplier": "`OPTIMIZER`: `learning_rate`, times the base model's reference rate",
    "lr_schedule": "`TRAINING`: `lr_scheduler_type`",
    "warmup_ratio": "`TRAINING`: `warmup_steps`, a share below 1",
    "weight_decay": "`OPTIMIZER`: `weight_decay`",
    "adam_beta2": "`OPTIMIZER`: `betas`",
    "max_grad_norm": "`TRAINING`: `max_grad_norm`",
    "batch_size": "`BATCH_SIZE`",
    "neftune_alpha": "`TRAINING`: `neftune_noise_alpha`",
    "label_smoothing": "`TRAINING`: `label_smoothing_factor`",
    "loss_on": "`TRAINING`: `completion_only_loss`",
}


def _settings(recipe: Recipe) -> str:
    settings, adapter = recipe.settings, recipe.adapter
    training = {
        "num_train_epochs": recipe.budget.epochs,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": settings.warmup_ratio,
        "max_grad_norm": settings.max_grad_norm,
        "neftune_noise_alpha": settings.neftune_alpha or None,
        "label_smoothing_factor": settings.label_smoothing,
        "completion_only_loss": settings.loss_on == "completion",
        "seed": recipe.seed,
    }
    optimizer = {
        "learning_rate": recipe.learning_rate,
        "lora_plus_ratio": settings.lora_plus_ratio,
        "weight_decay": settings.weight_decay,
        "betas": (0.9, settings.adam_beta2),
    }
    arguments = "".join(f"    {name}={_literal(value)},\n" for name, value in adapter.arguments.items())
    return (
        f"MODEL = {_literal(recipe.model)}\n"
        f"ADAPTER = peft.{adapter.kind}(\n{arguments})\n"
        f"TRAINING: dict[str, Any] = {_literal(training)}\n"
        f"OPTIMIZER: dict[str, Any] = {_literal(optimizer)}\n"
        f"BATCH_SIZE = {settings.batch_size}\n"
        f"MICRO_BATCH = {recipe.micro_batch}\n"
        f"END_OF_TURN = {_literal(recipe.end_of_turn)}\n"
        f"CONTEXT_TOKENS = {recipe.sizes.context_length}\n"
    )


def _literal(value: Any) -> str:
    """As Python source. JSON's strings are Python's."""
    if isinstance(value, Mapping):
        return "{\n" + "".join(f"    {_literal(key)}: {_literal(one)},\n" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False) if isinstance(value, str) else repr(value)


def _row(example: Example) -> dict[str, Any]:
    *prompt, completion = messages(example)
    return {"prompt": prompt, "completion": [completion]}
