"""How many runs at once: more memory never gives fewer, what is planned fits, real passes keep what the model says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ftmeta.errors import UserError
from ftmeta.finetune import tokenize_task
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.vectorized import PASS_TOKENS, Cohort
from ftmeta.models import LoadedModel, decoder
from ftmeta.models.architectures import from_config
from ftmeta.planning.cohort import FULL_PASS_TOKENS, Batches, CohortPlan, pass_bytes, place_bytes, plan_cohort
from ftmeta.planning.memory import GB
from ftmeta.schema import Budget, Pipeline, RunSpec
from tests.finetune.conftest import base, make_task, model_folder

__all__ = ["base", "model_folder"]

MINI, MICRO = decoder("microsoft/Phi-3-mini-4k-instruct"), decoder("phi3-micro")
BATCHES = Batches(tokens=1000, largest_piece=4096, labels_per_token=0.2)


def pipelines(count: int, rank: int = 16, dropout: float = 0.05) -> list[Pipeline]:
    return [
        Pipeline("lora-v1", {"lora_rank": rank, "lora_dropout": dropout, "batch_size": n + 1}) for n in range(count)
    ]


def planned(free_gb: float, count: int = 100, rank: int = 16, **more: Any) -> CohortPlan:
    options = {"device_type": "cuda", "dtype": "bfloat16", **more}
    return plan_cohort(MINI, pipelines(count, rank), BATCHES, free_bytes=free_gb * GB, **options)


def test_more_memory_never_gives_less_and_what_is_planned_fits() -> None:
    found = [planned(gb) for gb in (30, 48, 72, 130, 500)]
    for gb, plan in zip((30, 48, 72, 130, 500), found, strict=True):
        assert plan.bytes <= 0.9 * gb * GB
    sizes = [(plan.pass_tokens, plan.places) for plan in found]  # a larger pass may leave room for fewer places
    assert sizes == sorted(sizes)
    assert found[0].places >= 1
    assert found[-1] == CohortPlan(64, FULL_PASS_TOKENS["cuda"], found[-1].bytes)


def test_a_higher_rank_leaves_room_for_fewer() -> None:
    assert planned(72, rank=64).places < planned(72, rank=8).places


def test_no_more_places_than_runs_or_than_asked_for() -> None:
    assert planned(400, count=3).places == 3
    assert planned(400, at_most=5).places == 5


def test_too_little_memory_and_no_runs_say_so() -> None:
    with pytest.raises(
        UserError, match=r"rank 16 needs .* GB beside the base model for a pass of 4096 tokens, and 0.90"
    ):
        planned(1)
    with pytest.raises(UserError, match="at least one run, and there is none"):
        planned(72, count=0)


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """Bytes of what autograd keeps, by storage."""
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_real_pass_keeps_what_the_model_says(base: LoadedModel, dropout: float) -> None:
    sizes = from_config(base.model.config.to_dict(), "tiny")
    task = make_task("kept", train=256)
    rank = 8
    values = {"batch_size": 128, "lora_rank": rank, "lora_dropout": dropout, "warmup_ratio": 0.0, "loss_on": "full"}
    execution = Execution(micro_batch_tokens=100_000)
    cohort = Cohort(base, 2, execution=execution, pass_tokens=100_000, stacked=True, generate=False)
    tokenized = tokenize_task(task, base)
    named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
    specs = [RunSpec(*named, Pipeline("lora-v1", values), seed, Budget(max_fidelity=2)) for seed in range(2)]
    for spec in specs:
        cohort.open(spec, tokenized)
    with kept_bytes() as found:
        cohort.tick()
    weights = {value.untyped_storage().data_ptr() for value in base.model.state_dict().values()}
    measured = sum(size for at, size in found.items() if at not in weights)
    tokens = cohort.padding.text
    labels = 1 - 2 * 128 / tokens  # all tokens of a row but the first
    whole = pass_bytes(sizes, [spec.pipeline for spec in specs], tokens, labels, device_type="cpu", dtype="float32")
    logits = 3 * 4 * labels * tokens * sizes.vocab_size
    assert measured - logits / 3 == pytest.approx(whole - logits, rel=0.2)


def test_a_seat_takes_what_the_model_says(base: LoadedModel) -> None:
    sizes = from_config(base.model.config.to_dict(), "tiny")
    cohort = Cohort(base, 3, stacked=True)
    task = make_task("seats")
    named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
    pipeline = pipelines(1, rank=8)[0]
    slot = cohort.open(RunSpec(*named, pipeline, 0, Budget(max_fidelity=2)), tokenize_task(task, base))
    run = cohort._run_in(slot)
    assert 16 * run.adapter.size == place_bytes(sizes, [pipeline], "float32")


def test_a_full_pass_is_what_the_worker_takes_for_one() -> None:
    assert FULL_PASS_TOKENS == PASS_TOKENS


def test_the_cpu_keeps_to_small_passes() -> None:
    plan = plan_cohort(MICRO, pipelines(20), Batches(600, 1024), free_bytes=4 * GB, device_type="cpu", dtype="float32")
    assert plan.pass_tokens == 1024
    assert plan.places == 20
