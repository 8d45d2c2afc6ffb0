"""The memory model: what has to grow grows, what is shared out is shared out, and real runs take what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftmeta.models import decoder
from ftmeta.planning.memory import GB, Memory, Setting, is_lean, memory, trainable_parameters
from ftmeta.schema import Pipeline, Value
from ftmeta.space import load_space
from jobs.plan_measure import Case, in_a_process

MINI = decoder("microsoft/Phi-3-mini-4k-instruct")
SETTING = Setting(rows=4, length=512, labels=2048)


def pipeline(**changes: Value) -> Pipeline:
    space = load_space()
    values = {**space.default().values, **changes}
    return space.validate({name: value for name, value in values.items() if space.is_active(name, values)})


def of(setting: Setting, **changes: Value) -> Memory:
    return memory(MINI, pipeline(**changes), setting)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_more_rows_longer_rows_and_more_labels_take_more(method: str, dtype: str, checkpointing: bool) -> None:
    setting = replace(SETTING, dtype=dtype, checkpointing=checkpointing)
    small = of(setting, peft_method=method).total
    assert of(replace(setting, rows=8, labels=4096), peft_method=method).total > small
    assert of(replace(setting, length=1024), peft_method=method).total > small
    assert of(replace(setting, labels=100_000), peft_method=method).total > small


def test_activations_are_linear_in_tokens() -> None:
    one, four = (of(Setting(rows, 512, 512 * rows)).activations for rows in (1, 4))
    assert four == pytest.approx(4 * one)


def test_checkpointing_cuts_activations() -> None:
    kept, again = of(SETTING), of(replace(SETTING, checkpointing=True))
    assert again.activations < 0.1 * kept.activations
    assert again.total < kept.total
    assert again.weights == kept.weights


def test_zero_2_shares_the_optimizer_and_zero_3_the_weights() -> None:
    alone = of(SETTING)
    two, three = (of(replace(SETTING, devices=4, zero_stage=stage)) for stage in (2, 3))
    assert two.weights == alone.weights
    assert three.weights == alone.weights / 4
    assert two.optimizer < alone.optimizer / 2
    assert three.communication > two.communication > 0
    assert of(replace(SETTING, devices=8, zero_stage=3)).weights == alone.weights / 8


def test_weights_adapter_gradients_and_optimizer_by_hand() -> None:
    found = of(SETTING)
    trainable = 16 * 32 * ((3072 + 9216) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072))
    assert trainable_parameters(MINI, pipeline()) == trainable == 25_165_824
    assert found.weights == 2 * 3_821_079_552
    assert found.adapter == (4 + 2) * trainable  # float32, and autocast's copies in half precision
    assert found.gradients == 4 * trainable
    assert found.optimizer == 8 * trainable


def test_a_higher_rank_takes_more_and_ia3_least() -> None:
    ranks = [of(SETTING, lora_rank=rank).total for rank in (2, 8, 64)]
    assert ranks == sorted(ranks)
    assert of(SETTING, peft_method="ia3").total < ranks[0]
    assert of(SETTING, peft_method="dora").total > of(SETTING, peft_method="lora").total


def test_fewer_adapted_layers_take_less() -> None:
    everywhere = of(SETTING)
    upper = of(SETTING, adapted_layers="upper_half")  # nothing below has gradients
    lower = of(SETTING, adapted_layers="lower_half")
    assert upper.activations < lower.activations < everywhere.activations
    assert upper.activations == pytest.approx(everywhere.activations / 2, rel=0.02)


def test_rows_longer_than_the_sliding_window_keep_masks() -> None:
    inside, beyond = (of(Setting(1, length, length)) for length in (2047, 2048))
    assert beyond.activations - inside.activations > 32 * 2048**2 * 2


def test_which_forward_pass() -> None:
    micro, float32 = decoder("phi3-micro"), replace(SETTING, dtype="float32")
    assert is_lean(micro, float32)
    assert not is_lean(micro, SETTING)
    assert not is_lean(micro, replace(float32, checkpointing=True))
    assert not is_lean(micro, replace(float32, devices=2, zero_stage=3))
    assert not is_lean(MINI, replace(float32, length=4096))
    assert not is_lean(replace(micro, model_type="qwen2"), float32)


@pytest.mark.parametrize(
    "case",
    [
        Case("phi3-micro", 16, 128, 8),
        Case("phi3-micro", 32, 128, 8, dtype="bfloat16", checkpointing=True),
    ],
    ids=["float32", "half precision, checkpointing"],
)
def test_a_real_run_takes_what_the_model_says(case: Case) -> None:
    """Measured: within 8 % of each case of `make bench-plan`; here with room for another allocator and processor."""
    found = in_a_process(case, give_back=True)
    setting = Setting(
        case.rows,
        case.length,
        case.labels,
        checkpointing=case.checkpointing,
        dtype=case.dtype,
        device_type="cpu",
    )
    model = memory(decoder("phi3-micro"), case.pipeline, setting)
    step = model.total - model.weights - model.adapter - model.optimizer
    assert found["peak_gb"] - found["idle_gb"] == pytest.approx(step / GB, rel=0.25)
