"""The worker on a CUDA device: it learns, continues, and agrees with the CPU."""

import pytest
import torch

from ftmeta.finetune import finetune
from ftmeta.models import load, resolve
from ftmeta.schema import Budget, CurvePoint
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SPACE = load_space("lora-v1")
BUDGET = Budget(epochs=1, max_fidelity=3, max_train_examples=96, eval_examples=64)


def curve(device: str, dtype: str, values: dict[str, object] | None = None) -> list[CurvePoint]:
    pipeline = SPACE.validate({**SPACE.default().values, "lora_dropout": 0.0, **(values or {})})
    base = load(resolve("phi3-micro"), device, dtype)
    with finetune(pipeline, load_task("elements"), base, seed=0, budget=BUDGET) as run:
        points = list(run)
        assert run.status == "ok", run.error
    return points


def test_in_float32_the_curve_is_that_of_the_cpu() -> None:
    for ours, theirs in zip(curve("cuda", "float32"), curve("cpu", "float32"), strict=True):
        assert ours.val_nll == pytest.approx(theirs.val_nll, rel=1e-3)


def test_in_bfloat16_it_learns_nearly_the_same() -> None:
    half, single = curve("cuda", "bfloat16"), curve("cuda", "float32")
    assert half[-1].score == pytest.approx(single[-1].score, abs=0.03)
    assert half[-1].score > 0.1


@pytest.mark.parametrize(("method", "multiplier"), [("rslora", 0.3), ("dora", 1.0), ("ia3", 10.0)])
def test_every_method_learns(method: str, multiplier: float) -> None:
    values: dict[str, object] = {"peft_method": method, "lr_multiplier": multiplier}
    if method == "ia3":
        values |= dict.fromkeys(("lora_rank", "alpha_per_rank", "lora_dropout", "lora_plus_ratio"))
    assert curve("cuda", "bfloat16", values)[-1].score > 0.02


def test_a_run_continues_from_its_checkpoint(tmp_path) -> None:
    base, task = load(resolve("phi3-micro"), "cuda", "float32"), load_task("elements")
    pipeline = load_pipeline("strong-default", SPACE)
    with finetune(pipeline, task, base, seed=0, budget=BUDGET) as whole:
        expected = [point.val_nll for point in whole]
    with finetune(pipeline, task, base, seed=0, budget=BUDGET, until=1) as first:
        list(first)
        first.save_checkpoint(tmp_path / "checkpoint")
    with finetune(pipeline, task, base, seed=0, budget=BUDGET, checkpoint=tmp_path / "checkpoint") as second:
        list(second)
        assert [point.val_nll for point in second.curve] == pytest.approx(expected, rel=1e-4)


def test_running_out_of_device_memory_is_a_status() -> None:
    base, task = load(resolve("phi3-micro"), "cuda", "float32"), load_task("elements")
    with finetune(load_pipeline("strong-default", SPACE), task, base, seed=0, budget=BUDGET) as run:
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2e6) / total)
        try:
            list(run)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert run.status == "oom"
        assert "memory" in str(run.error)
