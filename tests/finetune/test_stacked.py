"""What is the stack's own (tests/finetune/test_vectorized.py has its exactness): dropout drawn for all layers at once,
half precision, ranks that come and go, and how much padding attention computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ftmeta.finetune import adapters, decoder, finetune, stacked, tokenize_task
from ftmeta.finetune.settings import settings_of
from ftmeta.finetune.side_by_side import Adapter
from ftmeta.finetune.stacked import Stack
from ftmeta.finetune.vectorized import Cohort
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Example, Message, Pipeline, RunSpec, Task
from tests.finetune.conftest import make_task

BUDGET = Budget(epochs=2, max_fidelity=4, eval_examples=10)
PLAIN: dict[str, Any] = {"batch_size": 8, "lora_rank": 4, "warmup_ratio": 0.0, "lora_dropout": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "dropout": {**PLAIN, "lora_dropout": 0.3},
    "neftune": {**PLAIN, "neftune_alpha": 10.0, "lora_dropout": 0.1, "lora_rank": 8},
    "noise-only": {**PLAIN, "neftune_alpha": 10.0},
    "mlp": {**PLAIN, "target_modules": "mlp", "adapted_layers": "lower_half", "lora_dropout": 0.2},
    "large-batch": {**PLAIN, "batch_size": 40, "lora_dropout": 0.1},
}


def spec_of(values: dict[str, Any], base: LoadedModel, task: Task, seed: int = 0) -> RunSpec:
    named = (task.name, task.fingerprint, base.info.name, base.info.fingerprint)
    return RunSpec(*named, Pipeline("lora-v1", values), seed, BUDGET)


def together(base: LoadedModel, specs: list[RunSpec], task: Task, **options: Any) -> list[list[CurvePoint]]:
    """The curves of runs that are all in one cohort."""
    cohort, tokenized = Cohort(base, len(specs), stacked=True, generate=False, **options), tokenize_task(task, base)
    slots = [cohort.open(spec, tokenized) for spec in specs]
    curves: dict[int, list[CurvePoint]] = {slot: [] for slot in slots}
    while cohort.is_busy:
        for event in cohort.tick():
            if event.point is not None:
                curves[event.slot].append(event.point)
    return [curves[slot] for slot in slots]


def alone(base: LoadedModel, spec: RunSpec, task: Task) -> list[CurvePoint]:
    with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget) as run:
        return list(run)


@pytest.fixture
def drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: alone too, a pass draws the masks of all layers in one go."""
    for module in (decoder, adapters, stacked):
        monkeypatch.setattr(module, "draws_at_once", lambda device: True)


def test_masks_that_are_drawn_at_once_are_those_of_the_run_alone(base: LoadedModel, drawn_at_once: None) -> None:
    task = make_task("colours")
    specs = [spec_of(values, base, task, seed) for seed, values in enumerate(KINDS.values())]
    curves = together(base, specs, task, pass_tokens=100_000)
    for spec, curve in zip(specs, curves, strict=True):
        wanted = alone(base, spec, task)
        assert [point.val_nll for point in curve] == pytest.approx([one.val_nll for one in wanted], rel=1e-4)
        losses = [[point.train_loss for point in one if point.train_loss is not None] for one in (curve, wanted)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_masks_that_are_drawn_at_once_leave_the_share_that_they_should(base: LoadedModel, drawn_at_once: None) -> None:
    """Dropout's own effect: another course than without, and about the same loss."""
    task = make_task("colours")
    with_dropout, without = (alone(base, spec_of(values, base, task), task) for values in (KINDS["dropout"], PLAIN))
    assert with_dropout[1].train_loss != pytest.approx(without[1].train_loss, rel=1e-3)
    assert with_dropout[1].train_loss == pytest.approx(without[1].train_loss, rel=0.2)


def test_in_bfloat16_scores_are_those_of_the_run_alone_within_the_noise_of_seeds(base: LoadedModel) -> None:
    """Alone a run goes through transformers under autocast, so single steps differ by bfloat16's rounding."""
    task = make_task("colours")
    half = replace(base, model=base.model.__class__.from_pretrained(base.info.path, dtype=torch.bfloat16))
    values = {**PLAIN, "lr_multiplier": 3.0}
    seeds = (0, 1, 2, 3)
    specs = [spec_of(values, half, task, seed) for seed in seeds]
    curves = together(half, specs, task, pass_tokens=100_000)
    by_seed = [alone(half, spec, task) for spec in specs]
    scores = [wanted[-1].score for wanted in by_seed]
    assert all(score is not None for score in scores)
    noise = max(scores) - min(scores)  # type: ignore[type-var,operator]
    for curve, wanted in zip(curves, by_seed, strict=True):
        assert curve[0].val_nll == pytest.approx(wanted[0].val_nll, rel=0.01)
        assert curve[-1].train_loss == pytest.approx(wanted[-1].train_loss, rel=0.03)
        assert abs(curve[-1].score - wanted[-1].score) <= max(noise, 0.02)  # type: ignore[operator]


def test_an_adapter_keeps_all_it_has_when_the_stack_grows_and_shrinks(base: LoadedModel) -> None:
    def start_of(rank: int) -> tuple[dict[str, torch.Tensor], Any]:
        settings = settings_of(Pipeline("lora-v1", {**PLAIN, "lora_rank": rank}))
        adapted = adapters.attach(base.model, adapters.adapter_config(settings, base.model.config))
        try:
            return {name: one.detach().clone() for name, one in adapters.trainable(adapted).items()}, settings
        finally:
            adapters.detach(adapted)

    def trained(adapter: Adapter) -> dict[str, torch.Tensor]:
        for row in (adapter.a_P, adapter.b_P):
            assert row.grad is not None
        for layer, place in adapter.places.items():
            torch.manual_seed(len(layer))
            place.of_a(adapter.a_P.grad).normal_()  # type: ignore[arg-type]
            place.of_b(adapter.b_P.grad).normal_()  # type: ignore[arg-type]
        adapter.step(float(adapter.gradient_norm()), 1.0)
        return {name: value.clone() for name, value in adapter.state().items()}

    stack = Stack(base.model, 3)
    small = stack.seat(0, *start_of(2), 0.01)
    before = trained(small)
    assert stack.rank == 2
    stack.seat(1, *start_of(16), 0.01)
    assert stack.rank == 16
    assert all(torch.equal(value, before[name]) for name, value in small.state().items())
    again = trained(small)
    stack.leave(1)
    stack.seat(2, *start_of(4), 0.01)
    assert stack.rank == 4
    assert all(torch.equal(value, again[name]) for name, value in small.state().items())


def test_a_stack_that_memory_does_not_hold_leaves_all_as_it_was(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory ends at the allocation, and in the middle of moving."""
    task = make_task("colours")
    specs = [spec_of({**PLAIN, "lora_rank": rank}, base, task, rank) for rank in (2, 4)]
    wanted = [alone(base, spec, task) for spec in specs]
    cohort, tokenized = Cohort(base, 3, stacked=True, generate=False), tokenize_task(task, base)
    slots = [cohort.open(spec, tokenized) for spec in specs]
    curves: dict[int, list[CurvePoint]] = {slot: [] for slot in slots}
    moves: list[Adapter] = []
    move = Adapter.move

    def fails(adapter: Adapter, rows: Any) -> None:
        moves.append(adapter)
        if len(moves) == 2:
            raise torch.OutOfMemoryError("no memory for another moment")
        move(adapter, rows)

    for tick in range(1000):
        if not cohort.is_busy:
            break
        for event in cohort.tick():
            if event.point is not None:
                curves[event.slot].append(event.point)
        if tick == 4:
            larger = spec_of({**PLAIN, "lora_rank": 32}, base, task)
            with monkeypatch.context() as patch:
                patch.setattr(Adapter, "move", fails)
                with pytest.raises(torch.OutOfMemoryError):
                    cohort.open(larger, tokenized)
            assert len(moves) == 3  # one there, one that failed, the first one back
    for slot, points in zip(slots, wanted, strict=True):
        nlls = [point.val_nll for point in curves[slot]]
        assert nlls == pytest.approx([point.val_nll for point in points], rel=1e-4)


def test_padding_of_tasks_of_very_different_lengths_is_bounded_and_reported(base: LoadedModel) -> None:
    def task_of(name: str, words: int) -> Task:
        rows = tuple(Example((Message("user", " ".join(["stone"] * (words + at % 3))),), "iron") for at in range(24))
        return Task(name, rows[:12], rows[12:18], rows[18:], fingerprint=name)

    short, long = task_of("short", 2), task_of("long", 60)
    cohort = Cohort(base, 2, pass_tokens=100_000, stacked=True, generate=False)
    for task in (long, short):
        cohort.open(spec_of(PLAIN, base, task), tokenize_task(task, base))
    while cohort.is_busy:
        cohort.tick()
    assert cohort.padding.text > 0
    assert 0 < cohort.padding.share < 0.5  # padded to the longest of all it would be two fifths more than this
