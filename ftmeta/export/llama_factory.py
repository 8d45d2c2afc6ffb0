"""The folder for LLaMA-Factory: `config.yaml`, and data in the OpenAI form with its `dataset_info.json`.

Its arguments are those of transformers' Seq2SeqTrainingArguments and its own (src/llamafactory/hparams). Unknown ones
are errors there. Written by its documentation and source at 0.9.5; it was not run.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from ftmeta.export.recipe import (
    Recipe,
    Written,
    data_files,
    differences,
    dora_differences,
    in_line,
    lora_only,
    messages,
)
from ftmeta.schema import Example


def write(given: Recipe) -> Written:
    recipe, not_carried = lora_only(given, "LLaMA-Factory")
    config = yaml.safe_dump(_config(recipe), sort_keys=False, allow_unicode=True)
    info = json.dumps({split: _data(split) for split in recipe.task.splits}, indent=2) + "\n"
    return Written(
        tool="LLaMA-Factory",
        files={
            "config.yaml": f"# ftmeta: pipeline {given.pipeline.id} for {in_line(recipe.task.name)}\n{config}",
            "data/dataset_info.json": info,
            **data_files(recipe.task, lambda example: {"messages": messages(example)}),
        },
        install='pip install "llamafactory>=0.9.5"',
        command="llamafactory-cli train config.yaml",
        carried=_carried(recipe),
        not_carried=not_carried,
        notes=(
            "ftmeta has not run this configuration: it is written by LLaMA-Factory's documentation.",
            *differences(recipe),
            *dora_differences(recipe),
            "`template: null` has it take the base model's own chat template apart. Where it cannot, name one of its "
            "own templates. It also trains on what the template writes after the end of a turn, as a line end.",
            f"Examples longer than {recipe.sizes.context_length} tokens are cut by another rule than ftmeta's.",
            *_odd_turns(recipe),
        ),
    )


def _config(recipe: Recipe) -> dict[str, Any]:
    settings, adapter = recipe.settings, recipe.adapter
    completion = settings.loss_on == "completion"
    return {
        "model_name_or_path": recipe.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings.lora_rank,
        "lora_alpha": adapter.arguments["lora_alpha"],
        "lora_dropout": settings.lora_dropout,
        "lora_target": ",".join(adapter.spelled),
        "use_rslora": settings.peft_method == "rslora",
        "use_dora": settings.peft_method == "dora",
        **({"loraplus_lr_ratio": settings.lora_plus_ratio} if settings.lora_plus_ratio != 1 else {}),
        "dataset_dir": "data",
        "dataset": "train",
        "eval_dataset": "validation",
        "template": None,
        "cutoff_len": recipe.sizes.context_length,
        "train_on_prompt": not completion,
        "mask_history": completion,  # of a conversation, the last answer alone
        "output_dir": "output",
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.budget.epochs,
        "lr_scheduler_type": recipe.schedule,
        # Steps, because transformers 5 drops warmup_ratio and earlier ones take no share here.
        "warmup_steps": _warmup_steps(recipe),
        "optim": "adamw_torch",
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        **({"neftune_noise_alpha": settings.neftune_alpha} if settings.neftune_alpha else {}),
        "label_smoothing_factor": settings.label_smoothing,
        "seed": recipe.seed,
        "bf16": True,
        "logging_steps": 10,
        "eval_strategy": "epoch",
        "per_device_eval_batch_size": recipe.micro_batch,
        "save_strategy": "epoch",
        "save_only_model": True,
        "report_to": "none",
    }


def _carried(recipe: Recipe) -> dict[str, str]:
    settings = recipe.settings
    layers = "spelled out" if recipe.adapter.layers else "without layers: all"
    return {
        "peft_method": "`use_rslora`, `use_dora`",
        "lora_rank": "`lora_rank`",
        "alpha_per_rank": "`lora_alpha`, times the rank",
        "lora_dropout": "`lora_dropout`",
        "lora_plus_ratio": "`loraplus_lr_ratio`" + (", left out: 1" if settings.lora_plus_ratio == 1 else ""),
        "target_modules": "`lora_target`",
        "adapted_layers": f"`lora_target`, {layers}",
        "lr_multiplier": "`learning_rate`, times the base model's reference rate",
        "lr_schedule": "`lr_scheduler_type`",
        "warmup_ratio": f"`warmup_steps`, of {recipe.steps}",
        "weight_decay": "`weight_decay`",
        "adam_beta2": "`adam_beta2`",
        "max_grad_norm": "`max_grad_norm`",
        "batch_size": "`per_device_train_batch_size` x `gradient_accumulation_steps`",
        "neftune_alpha": "`neftune_noise_alpha`" + ("" if settings.neftune_alpha else ", left out: off"),
        "label_smoothing": "`label_smoothing_factor`",
        "loss_on": "`train_on_prompt`, `mask_history`",
    }


def _warmup_steps(recipe: Recipe) -> int:
    return math.ceil(recipe.settings.warmup_ratio * recipe.steps)


def _data(split: str) -> dict[str, Any]:
    return {
        "file_name": f"{split}.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


def _odd_turns(recipe: Recipe) -> tuple[str, ...]:
    odd = sum(not _takes_turns(example) for examples in recipe.task.splits.values() for example in examples)
    return (f"It leaves out {odd} examples in which user and assistant do not take turns.",) if odd else ()


def _takes_turns(example: Example) -> bool:
    roles = [message.role for message in example.context]
    turns = roles[1:] if roles[0] == "system" else roles
    return turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]
