"""What the planner picks for real GPUs, that jobs/configs says the same, and what it says when nothing fits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import ModelError, UserError
from ftmeta.models import decoder
from ftmeta.orchestrate.config import load_config
from ftmeta.planning.choose import Devices, Rows, choose
from ftmeta.planning.plan import plan
from ftmeta.schema import Example, Message, Pipeline, Task
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task
from jobs.finetune import Finetune

MINI, MEDIUM = "microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-medium-4k-instruct"
CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture(scope="module")
def strong() -> Pipeline:
    return load_pipeline("strong-default", load_space())


def picked(found: dict[str, Any]) -> tuple[int, int, int, bool]:
    chosen = found["plan"]
    names = ("micro_batch", "accumulation_steps", "zero_stage", "activation_checkpointing")
    return tuple(chosen[name] for name in names)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("gpus", "nodes", "memory", "file", "wanted"),
    [
        (1, 1, 80, "finetune-phi3-mini-1x80.yaml", (16, 1, 0, False)),
        (1, 1, 24, "finetune-phi3-mini-1x24.yaml", (4, 4, 0, False)),
        (4, 1, 24, "finetune-phi3-mini.yaml", (4, 1, 2, False)),
        (8, 2, 24, "finetune-phi3-mini-2x4x24.yaml", (2, 1, 2, False)),
    ],
)
def test_phi3_mini_on_real_gpus(
    gpus: int, nodes: int, memory: float, file: str, wanted: tuple[int, int, int, bool], strong: Pipeline
) -> None:
    found = plan(MINI, strong, gpus=gpus, nodes=nodes, gpu_memory_gb=memory)
    assert found["fits"]
    assert picked(found) == wanted
    assert found["memory_gb"]["total"] <= found["usable_gb"] == pytest.approx(0.9 * memory)
    config = load_config(CONFIGS / file, Finetune)
    assert config.base_model == MINI
    assert config.pipeline == "strong-default"
    if gpus == 1:  # one process, plain torch
        assert (config.workers, config.gpus) == (None, 1)
        assert found["plan"]["zero_stage"] == 0
    else:
        assert (config.workers, config.gpus_per_worker) == (gpus, 1)
        assert config.zero == found["plan"]["zero_stage"]
    assert config.micro_batch_tokens == found["plan"]["micro_batch_tokens"]
    assert config.activation_checkpointing == found["plan"]["activation_checkpointing"]


def test_long_rows_are_checkpointed_and_a_large_model_is_taken_apart(strong: Pipeline) -> None:
    long = plan(MINI, strong, gpus=4, gpu_memory_gb=24, sequence_length=4096)
    assert long["plan"]["zero_stage"] == 2
    assert long["plan"]["activation_checkpointing"]
    assert any("activation checkpointing: without it" in reason for reason in long["reasons"])
    large = plan(MEDIUM, strong, gpus=4, gpu_memory_gb=24)
    assert large["plan"]["zero_stage"] == 3
    assert any("under ZeRO-2" in reason for reason in large["reasons"])
    assert any("never measured on GPUs" in note for note in large["notes"])
    assert not any("never measured on GPUs" in note for note in long["notes"])


def test_the_workers_of_a_node_hold_the_model_in_host_memory_while_they_load_it(strong: Pipeline) -> None:
    def host_gb(**where: Any) -> float | None:
        found: float | None = plan(MEDIUM, strong, **where)["host_memory_gb"]
        return found

    weights_gb = 2 * decoder(MEDIUM).parameters / 1e9
    assert host_gb(gpus=4, gpu_memory_gb=24) == pytest.approx(4 * weights_gb, rel=1e-3)
    assert host_gb(gpus=8, nodes=2, gpu_memory_gb=24) == pytest.approx(4 * weights_gb, rel=1e-3)
    assert host_gb(gpu_memory_gb=80) == pytest.approx(weights_gb, rel=1e-3)
    assert host_gb(hardware="cpu-core") is None  # there it is the memory that is planned


@pytest.mark.parametrize(("base_model", "memory"), [(MINI, 6), (MEDIUM, 24)])
def test_what_cannot_fit_says_why_and_what_would(base_model: str, memory: float, strong: Pipeline) -> None:
    found = plan(base_model, strong, gpu_memory_gb=memory)
    assert not found["fits"]
    assert found["plan"] is None
    assert found["time"] is None
    assert found["memory_gb"]["total"] > found["usable_gb"]
    (reason,) = found["reasons"]
    assert "GB of weights" in reason
    devices = next(line for line in found["advice"] if line.endswith(f"devices of {memory} GB fit"))
    size = next(line for line in found["advice"] if line.startswith("1 device of at least") and line.endswith(" fits"))
    assert plan(base_model, strong, gpus=int(devices.split()[0]), gpu_memory_gb=memory)["fits"]
    larger = int(size.split()[5])
    assert plan(base_model, strong, gpu_memory_gb=larger, batch_size=1)["fits"]
    assert not plan(base_model, strong, gpu_memory_gb=larger - 2, batch_size=1)["fits"]


def test_shorter_rows_and_a_smaller_rank_are_proposed_where_they_help(strong: Pipeline) -> None:
    found = plan(MINI, strong, gpu_memory_gb=12, sequence_length=4096)
    length = next(int(line.split()[4]) for line in found["advice"] if "tokens fit" in line)
    rank = next(int(line.split()[1]) for line in found["advice"] if line.startswith("lora_rank"))
    assert plan(MINI, strong, gpu_memory_gb=12, sequence_length=length)["fits"]
    smaller = Pipeline("lora-v1", {**strong.values, "lora_rank": rank})
    assert plan(MINI, smaller, gpu_memory_gb=12, sequence_length=4096)["fits"]


def test_dora_is_named_where_it_is_what_does_not_fit(strong: Pipeline) -> None:
    dora = Pipeline("lora-v1", {**strong.values, "peft_method": "dora"})
    found = plan(MINI, dora, gpu_memory_gb=10.5)
    assert not found["fits"]
    assert any(line.startswith("peft_method lora fits") for line in found["advice"])


def test_more_memory_never_makes_a_plan_worse(strong: Pipeline) -> None:
    shape = decoder(MINI)
    tokens = []
    for memory in (12, 16, 24, 40, 48, 80):
        chosen = choose(shape, strong, Devices(1, memory), Rows(512), 16)
        assert chosen is not None
        tokens.append((not chosen.setting.checkpointing, chosen.micro_batch_tokens))
    assert tokens == sorted(tokens)


def test_a_dataset_says_how_long_rows_are_and_how_long_a_run_takes(strong: Pipeline) -> None:
    task = load_task("world-facts")
    found = plan("phi3-micro", strong, hardware="cpu-core", task=task, epochs=3)
    assert found["task"]["examples"] == len(task.train)
    assert found["sequence_length"] == 66  # as the worker tokenises it
    assert found["plan"]["dtype"] == "float32"
    assert found["forward_pass"] == "ftmeta's own"
    assert found["time"]["run_s"] == pytest.approx(3 * 0.8 * found["time"]["per_1000_examples_s"], rel=0.01)
    twice = plan("phi3-micro", strong, hardware="cpu-core", task=task, epochs=6)
    assert twice["time"]["run_s"] == pytest.approx(2 * found["time"]["run_s"], rel=0.01)


def test_rows_beyond_the_context_are_said_to_lose_text(strong: Pipeline) -> None:
    short = Example((Message("user", "Which?"),), "This.")
    long = Example((Message("user", "word " * 5000),), "This.")
    task = Task("made-up", (short, long, short, long), (short,), (short,), fingerprint="0" * 16)
    found = plan("phi3-micro", strong, hardware="cpu-core", task=task)
    context = decoder("phi3-micro").context_length
    assert (found["task"]["cut"], found["sequence_length"]) == (2, context)
    said = f"2 of 4 training examples are longer than the context of {context} tokens and lose text"
    assert said in found["notes"]
    fitting = plan("phi3-micro", strong, hardware="cpu-core", task=load_task("world-facts"))
    assert fitting["task"]["cut"] == 0
    assert not any("lose text" in note for note in fitting["notes"])


@pytest.mark.parametrize(
    ("where", "note"),
    [
        ({"gpu_memory_gb": 100_000}, "no known GPU has 100000 GB; times are those of h200"),
        ({"gpu_memory_gb": 30}, "the slowest known GPU of 48 GB"),
        ({"hardware": "a10g", "gpu_memory_gb": 80}, "a10g has 24 GB, and the plan is for 80 GB"),
    ],
)
def test_whose_times_they_are(where: dict[str, Any], note: str, strong: Pipeline) -> None:
    (said,) = (line for line in plan(MINI, strong, **where)["notes"] if "times" in line)
    assert note in said


def test_a_profile_with_its_own_memory_needs_no_word(strong: Pipeline) -> None:
    for memory in (None, 24):
        assert not any("times" in line for line in plan(MINI, strong, hardware="a10g", gpu_memory_gb=memory)["notes"])


def test_times_follow_from_the_work(strong: Pipeline) -> None:
    one = plan(MINI, strong, hardware="a100-80gb")["time"]
    four = plan(MINI, strong, hardware="a100-80gb", gpus=4)["time"]
    assert 1 < four["tokens_per_s"] / one["tokens_per_s"] < 4
    assert one["communication_s"] == 0 < four["communication_s"]
    faster = plan(MINI, strong, hardware="h100-80gb")["time"]
    assert faster["tokens_per_s"] > one["tokens_per_s"]
    # A100: 156 TFLOP/s in use; 4 N FLOPs a token, N = 3.72 B, and attention and head beside them
    assert 156e12 / one["tokens_per_s"] == pytest.approx(4 * 3.72e9, rel=0.1)
    slow = plan(MEDIUM, strong, gpus=8, nodes=2, gpu_memory_gb=24)["time"]
    assert slow["communication_s"] > slow["compute_s"]  # ZeRO-3 over Ethernet


def test_mistakes_are_said(strong: Pipeline) -> None:
    with pytest.raises(UserError, match="equally many GPUs"):
        plan(MINI, strong, gpus=3, nodes=2, gpu_memory_gb=24)
    with pytest.raises(UserError, match="2 to 4096 tokens"):
        plan(MINI, strong, gpu_memory_gb=24, sequence_length=5000)
    for memory in (math.inf, math.nan, 0.0, -24.0):
        with pytest.raises(UserError, match="give the GB of one GPU"):
            plan(MINI, strong, gpu_memory_gb=memory)
    with pytest.raises(ModelError, match="phi3-micro"):
        plan("phi3-mirco", strong, gpu_memory_gb=24)
    with pytest.raises(UserError, match="h100-80gb"):
        plan(MINI, strong, hardware="abacus")
