from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftmeta.costs import (
    TokenStatistics,
    analytic_seconds,
    analytic_work,
    layer_weights,
    trainable_parameters,
    usd,
    usd_of_tokens,
)
from ftmeta.errors import ConfigError
from ftmeta.hardware import detect, for_device, list_hardware, load_hardware
from ftmeta.schema import ModelShape, Pipeline
from ftmeta.space import load_space

PHI3_MINI = ModelShape(3_821_000_000, 3072, 8192, 32, 32064, 4096)
SPACE = load_space()
TOKENS = TokenStatistics(1600, 30, 10)
BUDGET = SPACE.budget()


def pipeline(**changes: object) -> Pipeline:
    values = {**SPACE.default().values, **changes}
    return SPACE.validate({k: v for k, v in values.items() if v is not None})


def flops(**changes: object) -> float:
    return float(analytic_work(PHI3_MINI, pipeline(**changes), TOKENS, BUDGET).flops[-1])


def test_phi3_mini_has_its_published_numbers_of_weights() -> None:
    assert layer_weights(PHI3_MINI) == pytest.approx(3.62e9, rel=0.01)
    # PEFT prints 25,165,824 for r 16 on all four fused projections of Phi-3-mini.
    assert trainable_parameters(PHI3_MINI, pipeline(lora_rank=16)) == 25_165_824
    assert trainable_parameters(PHI3_MINI, pipeline(adapted_layers="upper_half")) == 25_165_824 // 2


def test_a_lora_step_costs_about_four_flops_a_weight_and_token() -> None:
    no_evaluation = replace(BUDGET, eval_examples=0)
    work = analytic_work(PHI3_MINI, pipeline(), TOKENS, no_evaluation)
    per_token = work.flops[-1] / work.tokens[-1]
    assert 4.0 < per_token / layer_weights(PHI3_MINI) < 4.3
    assert work.tokens[-1] == 3 * 1600 * 40
    assert work.steps[-1] == 300


def test_what_makes_a_run_dearer() -> None:
    assert flops(adapted_layers="upper_half") < 0.8 * flops()
    assert flops(adapted_layers="lower_half") == pytest.approx(flops(), rel=0.02)
    assert flops(loss_on="full") > flops()
    assert flops(peft_method="dora") > 1.3 * flops()
    assert flops(peft_method="dora", lora_dropout=0.0) < flops(peft_method="dora")
    ia3 = dict.fromkeys(("lora_rank", "alpha_per_rank", "lora_dropout", "lora_plus_ratio"))
    assert flops(peft_method="ia3", **ia3) < flops()


def test_work_is_cumulative_and_starts_with_the_zero_shot_evaluation() -> None:
    work = analytic_work(PHI3_MINI, pipeline(), TOKENS, BUDGET)
    seconds = work.seconds(load_hardware("h100-80gb"))
    assert seconds.shape == (11,)
    assert seconds[0] > 0
    assert (np.diff(seconds) > 0).all()
    assert work.steps[0] == 0


def test_a_tighter_budget_costs_less() -> None:
    small = analytic_work(PHI3_MINI, pipeline(), TOKENS, replace(BUDGET, max_train_examples=400))
    assert small.tokens[-1] == 3 * 400 * 40


def test_hardware_profiles() -> None:
    assert set(list_hardware()) >= {"cpu-core", "l4", "a10g", "a100-80gb", "h100-80gb", "h200", "rtx-4090"}
    for name in list_hardware():
        assert load_hardware(name).source in ("estimate", "measured")
    with pytest.raises(ConfigError, match="unknown hardware 'tpu'; choose one of a100-80gb, a10g"):
        load_hardware("tpu")
    assert for_device("cpu") == "cpu-core"
    assert for_device("NVIDIA H100 80GB HBM3") == "h100-80gb"
    assert for_device("NVIDIA L40S") == "l40s"
    assert for_device("NVIDIA L4") == "l4"
    with pytest.raises(ConfigError, match="no hardware profile for 'NVIDIA T4'"):
        for_device("NVIDIA T4")
    assert detect() in list_hardware()


def test_money_is_seconds_times_price_and_unknown_is_none() -> None:
    assert usd(3600, "l4") == pytest.approx(0.71)
    assert usd(3600, "rtx-4090") is None


def test_own_prices_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text("currency: USD\nas_of: 2026-01-01\nprice_usd_per_hour: {rtx-4090: 0.4, l4: null}\n")
    monkeypatch.setenv("FTMETA_PRICES", str(own))
    assert usd(1800, "rtx-4090") == pytest.approx(0.2)
    assert usd(1800, "l4") is None
    assert usd(3600, "a10g") == pytest.approx(1.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("currency: EUR\nas_of: 1\nprice_usd_per_hour: {}", "is in EUR"),
        ("currency: USD\nas_of: 1\nprice_usd_per_hour: {l4: cheap}", "price_usd_per_hour"),
        ("currency: USD\nas_of: 1\nprice_usd_per_hour: {l4: -1}", "not a number from 0 up"),
        ("currency: [", "see ftmeta/data/prices.yaml"),
        (None, "cannot be read"),
    ],
)
def test_malformed_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    own = tmp_path / "prices.yaml"
    if text is not None:
        own.write_text(text)
    monkeypatch.setenv("FTMETA_PRICES", str(own))
    with pytest.raises(ConfigError, match=said):
        usd(1, "l4")


def test_tokens_have_a_price_only_where_a_table_names_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usd_of_tokens("some-model", 1, 1) is None
    own = tmp_path / "own.yaml"
    prices = "{some-model: {prompt: 0.5, completion: 2}, free: {prompt: 0, completion: 0}, unknown: null}"
    own.write_text(f"currency: USD\nas_of: 2026-01-01\nprice_usd_per_million_tokens: {prices}\n")
    monkeypatch.setenv("FTMETA_PRICES", str(own))
    assert usd_of_tokens("some-model", 2_000_000, 500_000) == pytest.approx(2.0)
    assert usd_of_tokens("free", 5, 5) == 0
    assert usd_of_tokens("unknown", 5, 5) is None
    assert usd(3600, "cpu-core") == pytest.approx(0.09)  # what one's own table leaves out is in the shipped one
    negative = tmp_path / "negative.yaml"
    negative.write_text(
        "currency: USD\nas_of: 2026-01-01\nprice_usd_per_million_tokens: {m: {prompt: -1, completion: 2}}\n"
    )
    monkeypatch.setenv("FTMETA_PRICES", str(negative))
    with pytest.raises(ConfigError, match=r"m.*prompt.*greater than or equal to 0"):
        usd_of_tokens("m", 1, 1)


def test_many_pipelines_at_once_cost_what_each_costs_alone() -> None:
    hardware = load_hardware("cpu-core")
    many = [
        pipeline(),
        pipeline(loss_on="full", batch_size=4),
        pipeline(peft_method="dora", lora_rank=8, lora_dropout=0.1, adapted_layers="upper_half"),
        pipeline(peft_method="dora", lora_dropout=0.0, target_modules="attention"),
        pipeline(
            peft_method="ia3", **dict.fromkeys(("lora_rank", "alpha_per_rank", "lora_dropout", "lora_plus_ratio"))
        ),
    ]
    at_once_NT = analytic_seconds(PHI3_MINI, many, TOKENS, BUDGET, hardware)
    alone = [analytic_work(PHI3_MINI, one, TOKENS, BUDGET, hardware.weight_bytes).seconds(hardware) for one in many]
    assert at_once_NT == pytest.approx(np.array(alone), rel=1e-12)
