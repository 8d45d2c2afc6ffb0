"""The folder for axolotl: `config.yaml` and data in the OpenAI form.

Its keys are those of its configuration schema (src/axolotl/utils/schemas). Written by its documentation and source of
2026; it was not run.
"""

from __future__ import annotations

from typing import Any

import yaml

from ftmeta.export.recipe import (
    NotCarried,
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

_OF_FULL_TEXT = (
    "`train_on_inputs` has the text of all messages learned and the ends of turns, but nothing else that the template "
    "writes."
)


def write(given: Recipe) -> Written:
    recipe, not_carried = lora_only(given, "axolotl")
    settings = recipe.settings
    completion = settings.loss_on == "completion"
    config = yaml.safe_dump(_config(recipe), sort_keys=False, allow_unicode=True)
    return Written(
        tool="axolotl",
        files={
            "config.yaml": f"# ftmeta: pipeline {given.pipeline.id} for {in_line(recipe.task.name)}\n{config}",
            **data_files(recipe.task, _flagged if completion else lambda example: {"messages": messages(example)}),
        },
        install="pip install axolotl",
        command="axolotl train config.yaml",
        carried=_carried(recipe),
        not_carried=(*not_carried, *_label_smoothing(recipe)),
        notes=(
            "ftmeta has not run this configuration: it is written by axolotl's documentation.",
            *differences(recipe),
            *dora_differences(recipe),
            "axolotl rounds the number of warmup steps down, and makes 2 of 1.",
            f"Examples longer than {recipe.sizes.context_length} tokens are dropped; ftmeta cuts them.",
            *(() if completion else (_OF_FULL_TEXT,)),
        ),
    )


def _config(recipe: Recipe) -> dict[str, Any]:
    settings, adapter = recipe.settings, recipe.adapter
    completion = settings.loss_on == "completion"
    layers: dict[str, Any] = {}
    if adapter.layers is not None:
        layers = {"peft_layers_to_transform": list(adapter.layers), "peft_layers_pattern": ["layers"]}
    return {
        "base_model": recipe.model,
        "adapter": "lora",
        "lora_r": settings.lora_rank,
        "lora_alpha": adapter.arguments["lora_alpha"],
        "lora_dropout": settings.lora_dropout,
        "lora_target_modules": list(adapter.modules),
        **layers,
        "peft_use_rslora": settings.peft_method == "rslora",
        "peft_use_dora": settings.peft_method == "dora",
        **({"loraplus_lr_ratio": settings.lora_plus_ratio} if settings.lora_plus_ratio != 1 else {}),
        "chat_template": "tokenizer_default",
        # By default it takes the tokenizer's end of text for the end of a turn; Phi-3 ends turns with another token.
        **({"eot_tokens": [recipe.end_of_turn]} if recipe.end_of_turn != recipe.eos_token else {}),
        "train_on_inputs": not completion,
        "datasets": [_data("train", completion)],
        "test_datasets": [_data("validation", completion)],
        "val_set_size": 0.0,
        "dataset_prepared_path": "prepared",
        "output_dir": "output",
        "sequence_len": recipe.sizes.context_length,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "num_epochs": recipe.budget.epochs,
        "optimizer": "adamw_torch_fused",
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": recipe.schedule,
        "warmup_ratio": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        **({"neftune_noise_alpha": settings.neftune_alpha} if settings.neftune_alpha else {}),
        "seed": recipe.seed,
        "bf16": "auto",
        "logging_steps": 10,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_only_model": True,
    }


def _data(split: str, completion: bool) -> dict[str, Any]:
    """For the loss on the last answer alone each message says whether it is learned."""
    learned = {"roles_to_train": [], "message_field_training": "train"} if completion else {}
    return {
        "path": f"data/{split}.jsonl",
        "ds_type": "json",
        "split": "train",  # what a JSON file is called there
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        **learned,
        "train_on_eos": "turn",
    }


def _flagged(example: Example) -> dict[str, Any]:
    *before, answer = messages(example)
    return {"messages": [*({**one, "train": False} for one in before), {**answer, "train": True}]}


def _label_smoothing(recipe: Recipe) -> tuple[NotCarried, ...]:
    value = recipe.settings.label_smoothing
    why = "axolotl has no label smoothing for supervised finetuning; the loss is the plain one"
    return (NotCarried("label_smoothing", value, why),) if value else ()


def _carried(recipe: Recipe) -> dict[str, str]:
    settings = recipe.settings
    return {
        "peft_method": "`adapter`, `peft_use_rslora`, `peft_use_dora`",
        "lora_rank": "`lora_r`",
        "alpha_per_rank": "`lora_alpha`, times the rank",
        "lora_dropout": "`lora_dropout`",
        "lora_plus_ratio": "`loraplus_lr_ratio`" + (", left out: 1" if settings.lora_plus_ratio == 1 else ""),
        "target_modules": "`lora_target_modules`",
        "adapted_layers": "`peft_layers_to_transform`" + ("" if recipe.adapter.layers else ", left out: all"),
        "lr_multiplier": "`learning_rate`, times the base model's reference rate",
        "lr_schedule": "`lr_scheduler`",
        "warmup_ratio": "`warmup_ratio`",
        "weight_decay": "`weight_decay`",
        "adam_beta2": "`adam_beta2`",
        "max_grad_norm": "`max_grad_norm`",
        "batch_size": "`micro_batch_size` x `gradient_accumulation_steps`",
        "neftune_alpha": "`neftune_noise_alpha`" + ("" if settings.neftune_alpha else ", left out: off"),
        "label_smoothing": "left out: off",
        "loss_on": "`train_on_inputs`, `message_field_training`",
    }
