"""The run as a whole: curves, continuation, statuses, the shared base, the adapter on disk."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from ftmeta.errors import DataError, FtmetaError, ModelError, SpaceError
from ftmeta.finetune import Finetuning, finetune, tokenize_task
from ftmeta.finetune.adapters import METHODS
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.schema import Budget, CurvePoint, Pipeline, Task

Make = Callable[..., Pipeline]


def values(method: str, **more: Any) -> dict[str, Any]:
    return {"peft_method": method, "batch_size": 8, "warmup_ratio": 0.0, "lr_multiplier": 2.0, **more}


def numbers(curve: list[CurvePoint]) -> list[dict[str, Any]]:
    """The curve without what time does to it."""
    clocks = {"cost_train_s": 0.0, "cost_eval_s": 0.0, "cost_s": 0.0, "wall_s": 0.0}
    return [replace(point, **clocks).__dict__ for point in curve]


def weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_its_adapter_is_a_plain_peft_adapter(
    method: str, base: LoadedModel, task: Task, budget: Budget, tmp_path: Path
) -> None:
    rate = 10.0 if method == "ia3" else 2.0
    before, tree = weights_hash(base.model), [name for name, _ in base.model.named_modules()]
    ids = torch.tensor([[2, 40, 50, 60, 4, 3, 70]])
    with finetune(Pipeline("lora-v1", values(method, lr_multiplier=rate)), task, base, 0, budget=budget) as run:
        points = list(run)
        assert run.status == "ok", run.error
        assert [point.fidelity for point in points] == [0, 1, 2, 3, 4]
        assert points[0].score == 0.0
        assert points[0].train_loss is None
        assert points[4].train_loss < points[1].train_loss  # type: ignore[operator]
        assert points[4].score > 0.05  # type: ignore[operator]
        assert points[4].examples == 2 * len(task.train)
        assert points[4].step == run.total_steps == 15
        assert points[4].cost_s == pytest.approx(points[4].cost_train_s + points[4].cost_eval_s)
        run.save_adapter(tmp_path / "adapter")
        with torch.inference_mode():
            ours = base.model(ids).logits
    assert weights_hash(base.model) == before
    assert [name for name, _ in base.model.named_modules()] == tree
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    fresh = transformers.AutoModelForCausalLM.from_pretrained(base.info.path, dtype=torch.float32)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # peft 0.21 on transformers 5
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    with torch.inference_mode():
        assert torch.allclose(loaded(ids).logits, ours, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("which", ["lower_half", "upper_half"])
def test_halves_adapt_their_layers_only(method: str, which: str, base: LoadedModel, task: Task, budget: Budget) -> None:
    pipeline = Pipeline("lora-v1", values(method, adapted_layers=which, target_modules="mlp"))
    with finetune(pipeline, task, base, 0, budget=budget) as run:
        names = list(run._parameters)
    assert names
    layer = "layers.0." if which == "lower_half" else "layers.1."
    assert all(layer in name and ".mlp." in name for name in names)


STOCHASTIC = {
    "lora_dropout": 0.2,
    "neftune_alpha": 5,
    "label_smoothing": 0.1,
    "lora_plus_ratio": 4,
    "weight_decay": 0.1,
}


def test_continuing_from_any_fidelity_gives_the_same_curve_bit_for_bit(
    base: LoadedModel, task: Task, budget: Budget, tmp_path: Path
) -> None:
    pipeline = Pipeline("lora-v1", values("lora", **STOCHASTIC))
    tokenized = tokenize_task(task, base)
    with finetune(pipeline, task, base, 3, budget=budget, tokenized=tokenized) as whole:
        expected = numbers(list(whole))
    checkpoint: Path | None = None
    for stop in range(budget.max_fidelity + 1):  # one fidelity at a time, each in a new run
        torch.manual_seed(stop)  # what the caller's generator holds must not matter
        with finetune(
            pipeline, task, base, 3, budget=budget, until=stop, checkpoint=checkpoint, tokenized=tokenized
        ) as part:
            points = list(part)
            checkpoint = tmp_path / str(stop)
            part.save_checkpoint(checkpoint)
            assert part.status == ("ok" if stop == budget.max_fidelity else "stopped")
            assert part.error is None
        assert [point.fidelity for point in points] == [stop]
        assert numbers(part.curve) == expected[: stop + 1]
        assert len(part.result().curve) == stop + 1
    assert part.curve[-1].cost_s >= part.curve[0].cost_s > 0


def test_in_bfloat16_the_curve_is_nearly_that_of_float32(base: LoadedModel, task: Task, budget: Budget) -> None:
    half = load(base.info, dtype="bfloat16")
    pipeline = Pipeline("lora-v1", values("lora", lora_dropout=0.0))
    with finetune(pipeline, task, base, 0, budget=budget) as single:
        expected = [point.val_nll for point in single]
    with finetune(pipeline, task, half, 0, budget=budget) as run:
        assert [point.val_nll for point in run] == pytest.approx(expected, rel=0.05)
    assert expected[-1] < 0.8 * expected[0]  # the adapter has moved far: a stale cast of it would show


def test_the_seed_decides_the_curve(base: LoadedModel, task: Task, budget: Budget) -> None:
    def curve(seed: int) -> list[dict[str, Any]]:
        with finetune(Pipeline("lora-v1", values("lora", **STOCHASTIC)), task, base, seed, budget=budget) as run:
            return numbers(list(run))

    state = torch.get_rng_state()
    first = curve(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert curve(0) == first
    assert curve(1)[0] == first[0]  # zero-shot has no seed
    assert curve(1)[1:] != first[1:]


def test_a_huge_learning_rate_diverges_and_keeps_the_curve(base: LoadedModel, task: Task, budget: Budget) -> None:
    pipeline = Pipeline("lora-v1", values("lora", lr_multiplier=1e6, max_grad_norm=1e6))
    with finetune(pipeline, task, base, 0, budget=budget) as run:
        points = list(run)
    row = run.result().run
    assert row.status == "diverged"
    assert "\n" not in (row.error or "\n")
    assert len(points) >= 1
    assert row.fidelity == points[-1].fidelity < budget.max_fidelity
    with finetune(Pipeline("lora-v1", values("lora")), task, base, 0, budget=budget) as after:
        assert [point.score for point in after][:1] == [0.0]
    assert after.status == "ok"


class HungryModel(transformers.Phi3ForCausalLM):
    """A base model that cannot get the memory for training, with the error that a device raises."""

    hunger: Exception = MemoryError()

    def get_decoder(self) -> Any:
        if self.model.training:
            raise self.hunger
        return super().get_decoder()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"), "oom"),
        (MemoryError(), "oom"),
        (ValueError("something else\nwith a second line"), "error"),
    ],
)
def test_failures_are_statuses(error: Exception, status: str, base: LoadedModel, task: Task, budget: Budget) -> None:
    model = HungryModel.from_pretrained(base.info.path).requires_grad_(False).eval()
    model.hunger = error
    hungry = LoadedModel(base.info, model, base.tokenizer, base.device)
    with finetune(Pipeline("lora-v1", values("lora")), task, hungry, 0, budget=budget) as run:
        assert [point.fidelity for point in run] == [0]
    row = run.result().run
    assert row.status == status
    assert row.error is not None
    assert row.error.startswith(type(error).__name__)
    assert "\n" not in row.error


def test_tiny_tasks_let_fidelities_share_a_step(base: LoadedModel, task: Task) -> None:
    few = replace(task, train=task.train[:5])
    with finetune(Pipeline("lora-v1", values("lora")), few, base, 0, budget=Budget(2, 10, None, 5)) as run:
        points = list(run)
    assert run.status == "ok"
    assert [point.fidelity for point in points] == list(range(11))
    assert points[-1].step == 2  # 10 examples in batches of 8
    shared = [b for a, b in itertools.pairwise(points) if a.step == b.step]
    assert len(shared) == 8
    assert all(point.train_loss is None for point in shared)


def test_what_a_row_says(base: LoadedModel, task: Task, budget: Budget) -> None:
    with finetune(Pipeline("lora-v1", values("lora")), task, base, 0, budget=budget, until=1) as run:
        list(run)
        row, curve = run.result().run, run.result().curve
    assert row.run_id == run.spec.run_id
    assert row.status == "stopped"
    assert (row.fidelity, row.max_fidelity) == (1, 4)
    assert row.base_model_fingerprint == base.info.fingerprint
    assert row.code_version.startswith("0.")
    assert {"torch", "peft", "transformers"} <= set(row.libraries)
    assert row.device
    assert 0.01 < row.peak_memory_gb < 100
    assert row.cost_s == curve[-1].cost_s
    assert run.learning_rate == pytest.approx(2.0 * base.info.reference_lr)


def test_test_evaluation(base: LoadedModel, task: Task, budget: Budget) -> None:
    with finetune(Pipeline("lora-v1", values("lora")), task, base, 0, budget=budget) as run:
        last = list(run)[-1]
        cost = run.result().run.cost_s
        trained, zero = run.evaluate_test(), run.evaluate_test(zero_shot=True)
        assert run.result().run.cost_s == cost
    assert trained["nll"] == pytest.approx(last.test_nll)
    assert trained["score"] == pytest.approx(last.test_score)
    assert zero["score"] == 0.0
    assert zero["nll"] == pytest.approx(run.zero_shot.test_nll)
    assert all(0 <= trained[name] <= 1 for name in ("exact_match", "f1", "rouge_l"))
    assert trained["rouge_l"] > zero["rouge_l"]
    assert run.result().run.generation == {name: trained[name] for name in ("exact_match", "f1", "rouge_l")}


def test_mistakes_of_the_user_are_raised(base: LoadedModel, task: Task, budget: Budget, tmp_path: Path) -> None:
    def start(task: Task = task, checkpoint: Path | None = None, **more: Any) -> Finetuning:
        return finetune(
            Pipeline("lora-v1", values("lora", **more)), task, base, 0, budget=budget, checkpoint=checkpoint
        )

    with pytest.raises(SpaceError, match="no hyperparameter 'lora_rnak'"):
        start(lora_rnak=3)
    with pytest.raises(SpaceError, match="unknown PEFT method 'lorra'; choose one of dora, ia3, lora, rslora"):
        start(peft_method="lorra")
    with pytest.raises(SpaceError, match="unknown target_modules"):
        start(target_modules="head")
    with pytest.raises(SpaceError, match="unknown lr_schedule"):
        start(lr_schedule="step")
    with pytest.raises(DataError, match="no test examples"):
        start(replace(task, test=()))
    with pytest.raises(DataError, match="no usable checkpoint"):
        start(checkpoint=tmp_path)
    with start() as run:
        next(run)
        run.save_checkpoint(tmp_path / "of-another")
        with pytest.raises(FtmetaError, match="another run's adapter"):
            start()
    with pytest.raises(DataError, match="belongs to run"):
        start(checkpoint=tmp_path / "of-another", lora_rank=2)
    with pytest.raises(FtmetaError, match="closed"):
        run.save_adapter(tmp_path / "adapter")
    with start() as last:
        assert next(last).score == 0.0  # after all that, the base is as it was


def test_an_unsupported_architecture_is_named(base: LoadedModel, task: Task) -> None:
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=384))
    with pytest.raises(ModelError, match="type 'gpt2' are not supported"):
        finetune(Pipeline("lora-v1", {}), task, LoadedModel(base.info, other, base.tokenizer, base.device), 0)


def test_a_run_put_aside_before_a_measurement_measures_without_dropout(
    model_folder: Path, task: Task, budget: Budget, tmp_path: Path
) -> None:
    """In bfloat16 the adapter stays beside the weights when it is scored, and so does its dropout."""
    half = load(resolve(str(model_folder)), "cpu", "bfloat16")
    pipeline = Pipeline("lora-v1", values("lora", lora_dropout=0.5))
    aside = tmp_path / "aside"

    def at_the_end_of_fidelity_2(run: Finetuning) -> bool:
        if run.step == round(2 / budget.max_fidelity * run.total_steps):
            run.save_checkpoint(aside)
            return True
        return False

    with finetune(pipeline, task, half, 0, budget=budget) as whole:
        expected = numbers(list(whole))
    with finetune(pipeline, task, half, 0, budget=budget, after_step=at_the_end_of_fidelity_2) as first:
        assert [point.fidelity for point in first] == [0, 1]
    with finetune(pipeline, task, half, 0, budget=budget, checkpoint=aside) as second:
        list(second)
        assert numbers(second.curve) == expected
