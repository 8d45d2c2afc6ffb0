"""The benchmark against SFTTrainer: it measures what it says, on a tiny model, and its page says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs.bench_finetune import main, name_of, sections_beside
from jobs.finetune_measure import SIDES, Setup, in_a_process, parity, speed
from jobs.finetune_page import page, verdicts
from tests.finetune.conftest import make_model

pytestmark = [
    # peft 0.21 asks transformers 5 by a name that is on its way out
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = make_model(tmp_path_factory.mktemp("tiny"))
    return Setup(str(folder), task="elements", examples=32, batch_size=8, threads=1, repetitions=2)


def test_speed_of_the_sides_in_turns(setup: Setup) -> None:
    found = speed(setup)
    assert found["tokens"] == pytest.approx(32 * found["mean_tokens"])
    assert found["flops_per_token"] > 0
    for side in SIDES:
        assert len(found["tokens_per_s"][side]) == 2
        assert found["train_loss"][side] == pytest.approx(found["train_loss"]["ours"], rel=0.1)
    for side, ratios in found["ratio"].items():
        rates = found["tokens_per_s"]
        assert ratios == [pytest.approx(ours / theirs) for ours, theirs in zip(rates["ours"], rates[side], strict=True)]


def test_the_losses_of_both_sides_are_equal(setup: Setup) -> None:
    found = parity(setup)
    assert found["steps"] == 4
    assert found["worst_relative"] < 1e-4
    assert found["last_loss"] != found["first_loss"]


@pytest.mark.parametrize("side", SIDES[:2])
def test_peaks_are_those_of_a_process(setup: Setup, side: str) -> None:
    assert 0.1 < in_a_process(setup, "peak", side)["peak_gb"] < 4


def results(ratio: float = 4.0, ours_gb: float = 0.5) -> dict[str, Any]:
    """As jobs/bench_finetune.py writes them, made up."""
    setup = Setup("phi3-micro").__dict__
    case = {"setup": setup, "ftmeta": "0.1.0+g1"}
    speed = {
        **case,
        "device": "cpu",
        "tokens": 1000,
        "mean_tokens": 34.7,
        "flops_per_token": 1e7,
        "tokens_per_s": {"ours": [10000.0, 12000.0, 11000.0], **{side: [2500.0, 2600.0, 2700.0] for side in SIDES[1:]}},
        "ratio": {"trl": [ratio, ratio + 1, ratio - 0.25], "trl_without_checkpointing": [2.0, 3.0, 2.5]},
        "load_before_and_after": [0.1, 1.1],
    }
    name = name_of(Setup("phi3-micro"))
    gigabytes = {"ours": ours_gb, "trl": 0.7, "trl_without_checkpointing": 0.8}
    return {
        "command": "python -m jobs.bench_finetune",
        "date": "2026-01-02",
        "hardware": "a machine, 2 cores",
        "vector_width": "AVX512",
        "versions": {"torch": "2", "trl": "1"},
        "speed": {name: speed},
        "peak": {f"{name} {side}": {**case, "peak_gb": peak} for side, peak in gigabytes.items()},
        "parity": {
            name: {**case, "steps": 4, "worst_relative": 2e-7, "first_loss": 5.0, "last_loss": 4.0},
        },
    }


def test_the_page_says_what_was_measured_and_whether_it_was_wanted() -> None:
    said = page(results(), {})
    assert (
        "| phi3-micro | 2 | 34.7 | 11,000 (10,000 to 12,000) | 2,600 (2,500 to 2,700) | 4.00 (3.75 to 5.00) | 3 | met"
        in said
    )
    assert "| phi3-micro | 0.50 | 0.70 | 0.80 | met |" in said
    assert "2.0e-07" in said
    assert "no CUDA device was at hand" in said
    assert "## Faults" not in said
    assert list(verdicts(results())) == [True, True]
    assert list(verdicts(results(ratio=2.9, ours_gb=0.9))) == [False, False]
    assert page(results(ratio=2.9, ours_gb=0.9), {}).count("**missed**") == 2


def test_the_page_names_each_version_that_measured_a_part_of_it() -> None:
    found = results()
    assert "trl 1, ftmeta 0.1.0+g1. `finetune.json`" in page(found, {})
    next(iter(found["parity"].values()))["ftmeta"] = "0.1.0+g2"
    assert "trl 1, ftmeta 0.1.0+g1, 0.1.0+g2. `finetune.json`" in page(found, {})


def test_the_page_holds_what_other_commands_found(tmp_path: Path) -> None:
    out = tmp_path / "finetune.json"
    out.write_text(json.dumps(results()), encoding="utf-8")
    fault = {"fault": "a kill", "how": "kill -9", "what_happened": "went on", "curve": "the same", "test": "test_kill"}
    out.with_name("finetune-faults.json").write_text(json.dumps([fault]), encoding="utf-8")
    startup = {
        "command": "python -m jobs.bench_startup",
        "hardware": "a machine",
        "target_s": 25,
        "first_s": 21.0,
        "later_s": {"median": 15.0, "min": 14.0, "max": 16.0},
        "repeats": 4,
    }
    out.with_name("finetune-startup.json").write_text(json.dumps(startup), encoding="utf-8")
    assert sections_beside(out).keys() == {"faults", "startup"}
    with pytest.raises(typer.Exit) as ended:
        main(out, page_only=True)
    assert ended.value.exit_code == 0
    said = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| a kill | kill -9 | went on | the same | test_kill |" in said
    assert "21.0 s for the first of a cluster, 15.0 s (14.0 to 16.0)" in said


def test_the_page_of_a_cuda_device_states_utilisation() -> None:
    case = next(iter(results()["speed"].values()))
    on_cuda = {"Phi-3-mini, batch 16": {**case, "device": "NVIDIA H100", "flops_per_token": 9e9}}
    said = page(results(), {"cuda": {**results(), "cases": on_cuda}})
    assert "| Phi-3-mini, batch 16 | NVIDIA H100 | 11,000 (10,000 to 12,000) | 10.0% |" in said
