"""Runs side by side have the curves that they have alone, whatever their neighbours do: diverge, end, or are replaced.

Each test is done twice: with the adapters' products one after the other, as on a CPU, and all at once, as on a GPU.

Tolerance: 1e-4 relative in the loss of each step and in the NLL of each point, float32: sums are taken in another
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import FtmetaError, ModelError, UserError
from ftmeta.finetune import Finetuning, finetune, tokenize_task
from ftmeta.finetune.vectorized import Cohort
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, CurvePoint, Pipeline, RunResult, RunSpec, Task
from tests.finetune.conftest import make_task

BUDGET = Budget(epochs=2, max_fidelity=4, eval_examples=10)
PLAIN: dict[str, Any] = {"batch_size": 8, "lora_rank": 4, "warmup_ratio": 0.0, "lora_dropout": 0.0}
# Each differs from its neighbours in everything that a slot has of its own.
KINDS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "dropout": {**PLAIN, "lora_dropout": 0.3},
    "neftune": {**PLAIN, "neftune_alpha": 10.0, "lora_dropout": 0.1},
    "rank": {**PLAIN, "lora_rank": 16, "alpha_per_rank": 0.5},
    "rslora": {**PLAIN, "peft_method": "rslora", "lora_rank": 2},
    "lora-plus": {**PLAIN, "lora_plus_ratio": 8.0, "weight_decay": 0.1, "adam_beta2": 0.95},
    "clipped": {**PLAIN, "max_grad_norm": 0.05, "lr_schedule": "linear", "warmup_ratio": 0.3},
    "full-text": {**PLAIN, "loss_on": "full", "label_smoothing": 0.1, "lr_schedule": "constant"},
    "attention": {**PLAIN, "target_modules": "attention", "adapted_layers": "upper_half"},
    "mlp": {**PLAIN, "target_modules": "mlp", "adapted_layers": "lower_half", "lora_dropout": 0.2},
    "batch": {**PLAIN, "batch_size": 3, "lr_multiplier": 3.0},
    "large-batch": {**PLAIN, "batch_size": 40, "lora_dropout": 0.1},
}


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [make_task("colours"), make_task("shapes", train=47)]


@pytest.fixture(scope="module")
def spec_of(base: LoadedModel, tasks: list[Task]) -> Callable[..., RunSpec]:
    def make(values: dict[str, Any], task: int = 0, seed: int = 0, budget: Budget = BUDGET) -> RunSpec:
        named = (tasks[task].name, tasks[task].fingerprint, base.info.name, base.info.fingerprint)
        return RunSpec(*named, Pipeline("lora-v1", values), seed, budget)

    return make


@pytest.fixture(scope="module")
def specs(spec_of: Callable[..., RunSpec]) -> dict[str, RunSpec]:
    return {name: spec_of(values, n % 2, seed=n) for n, (name, values) in enumerate(KINDS.items())}


Alone = dict[str, tuple[list[CurvePoint], list[float]]]


@pytest.fixture(scope="module")
def alone(base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec]) -> Alone:
    """Curve and losses of each run, made one after the other."""
    found: Alone = {}
    for name, spec in specs.items():
        losses: list[float] = []

        def note(run: Finetuning, losses: list[float] = losses) -> bool:
            losses.append(run.step_loss)
            return False

        task = next(one for one in tasks if one.name == spec.task)
        with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget, after_step=note) as run:
            found[name] = (list(run), losses)
    return found


class Together:
    """A cohort that runs specifications as slots are free, and what came of them. `products`: "at once" also lets runs
    wait to be measured together, as they do on a GPU."""

    def __init__(
        self,
        base: LoadedModel,
        tasks: list[Task],
        slots: int,
        products: str,
        pass_tokens: int | None = 100_000,
        **options: Any,
    ) -> None:
        at_once = products == "at once"
        waiting = {"wait_tokens": 1500} if at_once else {}
        self.cohort = Cohort(base, slots, pass_tokens=pass_tokens, stacked=at_once, **{**waiting, **options})
        self.tokenized = {task.name: tokenize_task(task, base) for task in tasks}
        self.curves: dict[str, list[CurvePoint]] = {}
        self.results: dict[str, RunResult] = {}
        self.named: dict[int, str] = {}

    def open(self, name: str, spec: RunSpec, **options: Any) -> int:
        slot = self.cohort.open(spec, self.tokenized[spec.task], **options)
        self.named[slot] = name
        self.curves.setdefault(name, [])
        return slot

    def tick(self) -> None:
        for event in self.cohort.tick():
            name = self.named[event.slot]
            if event.point is not None:
                self.curves[name].append(event.point)
            if event.ended is not None:
                self.results[name] = event.ended

    def run(self, specs: dict[str, RunSpec]) -> None:
        waiting = dict(specs)
        while waiting or self.cohort.is_busy:
            while waiting and self.cohort.free:
                name = next(iter(waiting))
                self.open(name, waiting.pop(name))
            self.tick()


@pytest.fixture(params=["one by one", "at once"])
def products(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_same(curve: list[CurvePoint], wanted: list[CurvePoint]) -> None:
    assert [point.fidelity for point in curve] == [point.fidelity for point in wanted]
    for point, other in zip(curve, wanted, strict=True):
        assert (point.step, point.examples, point.tokens) == (other.step, other.examples, other.tokens)
        assert point.val_nll == pytest.approx(other.val_nll, rel=1e-4)
        assert point.test_nll == pytest.approx(other.test_nll, rel=1e-4)
        assert point.score == pytest.approx(other.score, abs=1e-4)
        if other.train_loss is None:
            assert point.train_loss is None
        else:
            assert point.train_loss == pytest.approx(other.train_loss, rel=1e-4)


@pytest.mark.parametrize("slots", [1, 4, 12])
def test_every_run_has_the_curve_that_it_has_alone(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, slots: int, products: str
) -> None:
    together = Together(base, tasks, slots, products)
    together.run(specs)
    for name in specs:
        assert_same(together.curves[name], alone[name][0])
        assert together.results[name].run.status == "ok"
        assert list(together.results[name].curve) == together.curves[name]


def test_every_step_has_the_loss_that_it_has_alone(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    together = Together(base, tasks, len(specs), products)
    slots = {name: together.open(name, spec) for name, spec in specs.items()}
    seen: dict[str, list[float]] = {name: [] for name in specs}
    while together.cohort.is_busy:
        before = {name: together.cohort.step_of(slot) for name, slot in slots.items()}
        together.tick()
        for name, slot in slots.items():
            after = together.cohort.step_of(slot)
            if after is not None and before[name] != after:
                seen[name].append(after[1])
    for name, losses in seen.items():
        assert losses == pytest.approx(alone[name][1], rel=1e-4)


def test_passes_that_are_full_are_cut_and_nothing_changes(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    together = Together(base, tasks, 5, products, pass_tokens=200)
    together.run(specs)
    for name in specs:
        assert_same(together.curves[name], alone[name][0])


def test_a_neighbour_that_diverges_disturbs_nobody(
    base: LoadedModel,
    tasks: list[Task],
    specs: dict[str, RunSpec],
    alone: Alone,
    spec_of: Callable[..., RunSpec],
    products: str,
) -> None:
    wild = spec_of({**PLAIN, "lr_multiplier": 1e6, "max_grad_norm": 1e6, "lora_rank": 8})
    names = ["dropout", "neftune", "full-text"]
    together = Together(base, tasks, 4, products)
    together.run({"wild": wild, **{name: specs[name] for name in names}})
    ended = together.results["wild"].run
    assert ended.status == "diverged"
    assert ended.error
    for name in names:
        assert_same(together.curves[name], alone[name][0])


def test_a_slot_is_taken_again_at_once_and_the_next_run_is_its_own(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    """A run is stopped on the way; the one that takes its slot, and the one beside it, are as they are alone."""
    together = Together(base, tasks, 2, products)
    together.open("mlp", specs["mlp"])
    slot = together.open("rank", specs["rank"])
    for _ in range(5):
        together.tick()
    stopped = together.cohort.close(slot)
    assert stopped.run.status == "stopped"
    assert_same(list(stopped.curve), alone["rank"][0][: len(stopped.curve)])
    together.open("dropout", specs["dropout"])
    while together.cohort.is_busy:
        together.tick()
    assert_same(together.curves["mlp"], alone["mlp"][0])
    assert_same(together.curves["dropout"], alone["dropout"][0])


@pytest.mark.parametrize("name", ["dropout", "neftune", "lora-plus"])
def test_a_run_goes_on_alone_where_it_was_put_aside_in_a_cohort_and_back(
    base: LoadedModel,
    tasks: list[Task],
    specs: dict[str, RunSpec],
    alone: Alone,
    tmp_path: Path,
    name: str,
    products: str,
) -> None:
    spec = specs[name]
    task = next(one for one in tasks if one.name == spec.task)
    first = Together(base, tasks, 2, products)
    slot = first.open(name, spec)
    first.open("plain", specs["plain"])
    for _ in range(5):
        first.tick()
    first.cohort.save_checkpoint(slot, tmp_path / "one")
    with finetune(
        spec.pipeline, task, base, spec.seed, budget=spec.budget, until=3, checkpoint=tmp_path / "one"
    ) as run:
        list(run)
        assert_same(run.curve, alone[name][0][:4])
        run.save_checkpoint(tmp_path / "two")
    second = Together(base, tasks, 1, products)
    second.open(name, spec, checkpoint=tmp_path / "two")
    while second.cohort.is_busy:
        second.tick()
    assert_same(list(second.results[name].curve), alone[name][0])


def test_a_run_may_end_at_an_earlier_fidelity(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    together = Together(base, tasks, 1, products)
    together.open("plain", specs["plain"], until=2)
    while together.cohort.is_busy:
        together.tick()
    assert together.results["plain"].run.status == "stopped"
    assert_same(together.curves["plain"], alone["plain"][0][:3])


def test_a_run_that_comes_to_its_end_has_the_generation_metrics_that_it_has_alone(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], products: str
) -> None:
    spec = specs["rslora"]
    task = next(one for one in tasks if one.name == spec.task)
    with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget) as run:
        list(run)
        run.evaluate_test()
        wanted = run.result().run.generation
    together = Together(base, tasks, 2, products)
    together.run({"rslora": spec, "plain": specs["plain"]})
    assert wanted is not None
    assert together.results["rslora"].run.generation == pytest.approx(wanted, abs=0.02)


def test_costs_add_up_and_are_shared_by_tokens(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], products: str
) -> None:
    together = Together(base, tasks, 2, products)
    together.run({"plain": specs["plain"], "full-text": specs["full-text"]})
    for result in together.results.values():
        costs = [point.cost_s for point in result.curve]
        assert costs == sorted(costs)
        assert result.run.cost_s == pytest.approx(result.curve[-1].cost_train_s + result.curve[-1].cost_eval_s)
        assert result.curve[-1].cost_train_s > 0


def test_a_task_so_small_that_a_fidelity_is_no_step(
    base: LoadedModel, spec_of: Callable[..., RunSpec], products: str
) -> None:
    tiny = make_task("tiny", train=8)
    spec = replace(
        spec_of({**PLAIN, "batch_size": 8}, budget=Budget(epochs=2, max_fidelity=4, eval_examples=10)),
        task=tiny.name,
        task_fingerprint=tiny.fingerprint,
    )
    with finetune(spec.pipeline, tiny, base, 0, budget=spec.budget) as run:
        wanted = list(run)
    together = Together(base, [tiny], 1, products)
    together.run({"tiny": spec})
    assert_same(together.curves["tiny"], wanted)


@contextmanager
def little_memory(base: LoadedModel, tokens: int) -> Iterator[list[int]]:
    """Passes of more tokens run out of memory, as a device does it: in the middle, when noise has been drawn."""
    refused: list[int] = []

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > tokens:
            refused.append(len(inputs[0]))
            raise MemoryError(f"no memory for {len(inputs[0])} tokens")

    handle = base.model.get_decoder().rotary_emb.register_forward_pre_hook(look)
    try:
        yield refused
    finally:
        handle.remove()


def test_a_pass_that_memory_does_not_hold_is_halved_and_nothing_changes(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    names = ["dropout", "neftune", "rank", "lora-plus", "attention"]
    together = Together(base, tasks, len(names), products)
    with little_memory(base, 500) as refused:
        together.run({name: specs[name] for name in names})
    assert refused
    assert len(refused) < 5  # the halves are remembered
    for name in names:
        assert_same(together.curves[name], alone[name][0])


def test_a_run_that_memory_does_not_hold_by_itself_ends_and_nobody_else(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], alone: Alone, products: str
) -> None:
    together = Together(base, tasks, 3, products)
    with little_memory(base, 400) as refused:
        together.run({name: specs[name] for name in ("large-batch", "plain", "batch")})
    assert refused
    assert together.results["large-batch"].run.status == "oom"
    assert "no memory for" in str(together.results["large-batch"].run.error)
    for name in ("plain", "batch"):
        assert_same(together.curves[name], alone[name][0])


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_what_cannot_stand_beside_others_says_so(
    base: LoadedModel, tasks: list[Task], spec_of: Callable[..., RunSpec], method: str, products: str
) -> None:
    together = Together(base, tasks, 1, products)
    with pytest.raises(UserError, match=f"{method} changes more than .* it runs alone"):
        together.open("x", spec_of({**PLAIN, "peft_method": method}))
    assert together.cohort.free == [0]


def test_a_full_cohort_an_empty_slot_and_no_slots(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], products: str
) -> None:
    together = Together(base, tasks, 1, products)
    assert together.cohort.tick() == []
    with pytest.raises(FtmetaError, match="slot 0 is empty"):
        together.cohort.close(0)
    together.open("plain", specs["plain"])
    with pytest.raises(FtmetaError, match="no slot of the cohort is free"):
        together.open("rank", specs["rank"])
    with pytest.raises(UserError, match="at least one slot"):
        Cohort(base, 0)


def test_a_base_model_without_a_lean_forward_pass_says_so(base: LoadedModel) -> None:
    whole = replace(base, model=base.model.__class__(base.model.config).double())
    with pytest.raises(ModelError, match="cannot train several runs at once"):
        Cohort(whole, 2)
    half = replace(base, model=base.model.__class__(base.model.config).bfloat16())
    with pytest.raises(ModelError, match="in bfloat16 the adapters' products are computed all at once"):
        Cohort(half, 2, stacked=False)


def test_the_base_model_is_left_as_it_was(
    base: LoadedModel, tasks: list[Task], specs: dict[str, RunSpec], products: str
) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    together = Together(base, tasks, 3, products)
    together.run({name: specs[name] for name in ("plain", "rslora", "mlp")})
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)
