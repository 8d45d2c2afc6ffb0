"""AdamW as the pipelines set it: parameter groups, LoRA+, schedules by step, gradient clipping.

The learning rate at a step is a pure function of the step, so a run that continues needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ftmeta.errors import SpaceError
from ftmeta.finetune.settings import Settings


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return max(0.0, 1.0 - progress)


def _cosine(progress: float) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


# lr_schedule -> the factor on the learning rate at a share of the steps after warmup
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}


def lr_factor(schedule: str, step: int, total_steps: int, warmup_ratio: float) -> float:
    """The factor in [0, 1] for the step with index `step` (from 0), as transformers' schedules with warmup define it:
    warmup takes ceil(warmup_ratio * total_steps) steps and its first one has the rate 0."""
    if schedule not in SCHEDULES:
        raise SpaceError(f"unknown lr_schedule '{schedule}'; choose one of {', '.join(SCHEDULES)}")
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return step / max(1, warmup)
    return SCHEDULES[schedule]((step - warmup) / max(1, total_steps - warmup))


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: Settings, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW over the adapter. LoRA+ (arXiv 2402.12354): B learns at `lora_plus_ratio` times the rate of A. Only
    matrices are decayed: vectors are DoRA's magnitudes and (IA)3's scales. Groups carry `base_lr`; empty ones are
    left out, because DeepSpeed and schedulers stumble over them."""
    is_scale = {name: "lora_A" not in name and "lora_B" not in name for name in parameters}
    kinds = [
        ([p for name, p in parameters.items() if "lora_A" in name], 1.0, settings.weight_decay),
        ([p for name, p in parameters.items() if "lora_B" in name], settings.lora_plus_ratio, settings.weight_decay),
        ([p for name, p in parameters.items() if is_scale[name]], 1.0, 0.0),
    ]
    groups = [
        {"params": members, "lr": learning_rate * ratio, "base_lr": learning_rate * ratio, "weight_decay": decay}
        for members, ratio, decay in kinds
        if members
    ]
    return torch.optim.AdamW(groups, betas=(0.9, settings.adam_beta2), eps=1e-8, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
