"""Many runs at once on a CUDA device: each as it is alone there, in float32 to rounding, in bfloat16 to its noise."""

from __future__ import annotations

import pytest
import torch

from ftmeta.finetune import finetune, tokenize_task
from ftmeta.finetune.vectorized import Cohort
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.models.architectures import from_config
from ftmeta.planning.cohort import Batches, plan_cohort
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunResult, RunSpec
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SPACE = load_space("lora-v1")
BUDGET = Budget(epochs=0.5, max_fidelity=3, max_train_examples=192, eval_examples=64)
CHANGES: list[dict[str, object]] = [
    {},
    {"lora_dropout": 0.1},
    {"lora_rank": 64, "batch_size": 4},
    {"peft_method": "rslora", "lora_rank": 4, "lr_multiplier": 0.3},
    {"target_modules": "attention", "adapted_layers": "upper_half", "lora_dropout": 0.2},
    {"neftune_alpha": 5.0, "loss_on": "full", "label_smoothing": 0.1},
]


def specs_for(base: LoadedModel) -> list[RunSpec]:
    task, plain = load_task("elements"), load_pipeline("strong-default", SPACE)
    named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
    pipelines = [Pipeline(SPACE.name, {**plain.values, **change}) for change in CHANGES]  # type: ignore[dict-item]
    return [RunSpec(*named, pipeline, seed, BUDGET) for seed, pipeline in enumerate(pipelines)]


def together(base: LoadedModel, specs: list[RunSpec]) -> list[RunResult]:
    cohort, tokenized = Cohort(base, len(specs)), tokenize_task(load_task("elements"), base)
    slots = [cohort.open(spec, tokenized) for spec in specs]
    ended: dict[int, RunResult] = {}
    while cohort.is_busy:
        ended |= {event.slot: event.ended for event in cohort.tick() if event.ended is not None}
    return [ended[slot] for slot in slots]


def alone(base: LoadedModel, spec: RunSpec) -> list[CurvePoint]:
    with finetune(spec.pipeline, load_task("elements"), base, spec.seed, budget=spec.budget) as run:
        return list(run)


def test_in_float32_every_run_has_the_curve_that_it_has_alone() -> None:
    base = load(resolve("phi3-micro"), "cuda", "float32")
    specs = specs_for(base)
    for spec, found in zip(specs, together(base, specs), strict=True):
        assert found.run.status == "ok", found.run.error
        assert found.run.generation is not None
        wanted = alone(base, spec)
        assert [point.val_nll for point in found.curve] == pytest.approx([one.val_nll for one in wanted], rel=1e-3)


def test_in_bfloat16_scores_are_within_the_noise() -> None:
    base = load(resolve("phi3-micro"), "cuda", "bfloat16")
    specs = specs_for(base)
    for spec, found in zip(specs, together(base, specs), strict=True):
        assert found.run.status == "ok", found.run.error
        assert found.curve[-1].score == pytest.approx(alone(base, spec)[-1].score, abs=0.03)


def test_the_memory_model_is_not_below_what_a_cohort_takes() -> None:
    base = load(resolve("phi3-micro"), "cuda", "float32")
    specs = specs_for(base)
    sizes = from_config(base.model.config.to_dict(), base.info.name)
    plan = plan_cohort(
        sizes,
        [spec.pipeline for spec in specs],
        Batches(16 * 60, 16 * 128),
        free_bytes=20e9,
        device_type="cuda",
        dtype="float32",
    )
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    together(base, specs)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * plan.bytes
