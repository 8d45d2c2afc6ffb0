"""Schedules against transformers', parameter groups."""

from __future__ import annotations

import pytest
import torch
import transformers

from ftmeta.finetune.optim import SCHEDULES, lr_factor, make_optimizer, set_learning_rate
from ftmeta.finetune.settings import Settings


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total", "ratio"), [(40, 0.1), (7, 0.03), (23, 0.0), (1, 0.2)])
def test_schedules_equal_transformers(name: str, total: int, ratio: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = transformers.TrainingArguments(warmup_steps=ratio, report_to="none", use_cpu=True)
    warmup = arguments.get_warmup_steps(total)
    kind = "constant_with_warmup" if name == "constant" else name
    theirs = transformers.get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        assert lr_factor(name, step, total, ratio) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def parameters(*names: str) -> dict[str, torch.nn.Parameter]:
    return {f"{name}.weight": torch.nn.Parameter(torch.zeros(2, 2)) for name in names}


def test_lora_plus_gives_b_its_own_rate() -> None:
    settings = Settings(lora_plus_ratio=8, weight_decay=0.1, adam_beta2=0.95)
    optimizer = make_optimizer(parameters("x.lora_A.default", "x.lora_B.default"), settings, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 8e-3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 4e-3]


def test_scales_are_not_decayed_and_empty_groups_are_left_out() -> None:
    names = ("x.lora_A.default", "x.lora_B.default", "x.lora_magnitude_vector.default")
    dora = make_optimizer(parameters(*names), Settings(weight_decay=0.1), 1e-3)
    assert [group["weight_decay"] for group in dora.param_groups] == [0.1, 0.1, 0.0]
    ia3 = make_optimizer(parameters("x.ia3_l.default"), Settings(weight_decay=0.1), 1e-3)
    assert [group["weight_decay"] for group in ia3.param_groups] == [0.0]
