"""Our worker against transformers' Trainer and trl's SFTTrainer: the same loss at each step, the same final adapter.

Equal are the base model, the adapter's initial values (ours, saved as a PEFT adapter), the order of the examples,
AdamW, warmup and cosine, clipping, weight decay, float32. Each side has its own code from tokens to batches, its own
forward pass, loss, accumulation, parameter groups and schedule. Dropout and NEFTune are 0: each side draws its own
masks and noise, so with them the curves agree in distribution only. Measured on one machine, over all cases: losses
apart by 1e-6 of their size at most, final adapters by 2e-5 of what training moved.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import safetensors.torch
import torch
import transformers
import trl
from peft.optimizers import create_loraplus_optimizer

from ftmeta.finetune import Finetuning, adapters, finetune
from ftmeta.finetune.adapters import METHODS
from ftmeta.finetune.data import Tokens, collate
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.loss import training_loss
from ftmeta.finetune.settings import Settings
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.schema import Budget, Pipeline, Task
from ftmeta.tasks import load_task
from tests.finetune.conftest import tiny_llama

LOSS_REL = 1e-4  # the promise: relative, at each step
WEIGHTS_REL = 1e-3  # norm of the difference of the final adapters / norm of what training moved
BUDGET = Budget(epochs=2, max_fidelity=1, max_train_examples=64, eval_examples=4)
VALUES: dict[str, Any] = {
    "batch_size": 8,
    "lora_rank": 8,
    "lora_dropout": 0.0,
    "warmup_ratio": 0.2,
    "weight_decay": 0.1,
    "adam_beta2": 0.99,
    "max_grad_norm": 0.5,
}

pytestmark = [
    # peft 0.21 asks transformers 5 by a name that is on its way out
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]


@dataclass(frozen=True)
class Curve:
    losses: list[float]
    adapter: dict[str, torch.Tensor]
    clipped: list[bool] | None = None


@dataclass(frozen=True)
class Ours:
    """What our worker did, and what the other side needs to do the same."""

    curve: Curve
    initial: Path  # a PEFT adapter
    rows: list[Tokens]  # in the order of training
    learning_rate: float
    pipeline: Pipeline
    base: LoadedModel

    @property
    def start(self) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(self.initial / "adapter_model.safetensors")


def train(
    pipeline: Pipeline, task: Task, base: LoadedModel, folder: Path, micro_batch_tokens: int | None = None
) -> Ours:
    losses: list[float] = []

    def keep_loss(run: Finetuning) -> bool:
        losses.append(run.step_loss)
        return False

    with finetune(
        pipeline,
        task,
        base,
        seed=0,
        budget=BUDGET,
        execution=Execution(micro_batch_tokens=micro_batch_tokens),
        after_step=keep_loss,
    ) as run:
        run.save_adapter(folder / "initial")
        list(run)
        assert run.status == "ok", run.error
        run.save_adapter(folder / "final")
    order = [index for batch in run.batches for index in batch]
    assert {len(batch) for batch in run.batches} == {run.settings.batch_size}  # theirs has no smaller one in between
    curve = Curve(losses, safetensors.torch.load_file(folder / "final" / "adapter_model.safetensors"))
    rows = [run.train_rows[index] for index in order]
    return Ours(curve, folder / "initial", rows, run.learning_rate, pipeline, base)


def their_curve(kind: type[transformers.Trainer], ours: Ours, folder: Path, accumulate: int = 1) -> Curve:
    """The same training by `kind`, a batch in `accumulate` parts."""
    values = ours.pipeline.values
    model = transformers.AutoModelForCausalLM.from_pretrained(ours.base.info.path, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, ours.initial, is_trainable=True)
    losses: list[float] = []

    class Recording(kind):
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            loss = super().training_step(*arguments, **named)
            losses.append(loss.item())
            return loss

    completion_only = values.get("loss_on", "completion") == "completion"
    data = datasets.Dataset.from_list([example(row, completion_only, kind) for row in ours.rows])
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": values["batch_size"] // accumulate,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": ours.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": values["warmup_ratio"],  # below 1 it is a share of all steps
        "weight_decay": values["weight_decay"],
        "adam_beta2": values["adam_beta2"],
        "max_grad_norm": values["max_grad_norm"],
        "bf16": False,
        "activation_checkpointing": False,  # it changes time and memory, not numbers
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    if kind is trl.SFTTrainer:
        config = trl.SFTConfig(str(folder / "theirs"), completion_only_loss=completion_only, **arguments)
        more: dict[str, Any] = {}
    else:
        config = transformers.TrainingArguments(str(folder / "theirs"), **arguments)
        more = {"data_collator": transformers.DataCollatorForSeq2Seq(ours.base.tokenizer)}
    trainer = Recording(
        model=adapted,
        args=config,
        train_dataset=data,
        processing_class=ours.base.tokenizer,
        optimizers=(their_optimizer(adapted, ours), None),
        **more,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    clipped = [log["grad_norm"] > values["max_grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    summed = [sum(losses[at : at + accumulate]) for at in range(0, len(losses), accumulate)]
    return Curve(summed, dict(peft.get_peft_model_state_dict(adapted)), clipped)


def their_optimizer(adapted: peft.PeftModel, ours: Ours) -> torch.optim.Optimizer | None:
    """None: the trainer makes its own. PEFT's LoRA+, and groups for the methods whose scales we do not decay, while
    Trainer decays every adapter weight (ftmeta/finetune/adapters.py says why)."""
    values = ours.pipeline.values
    rate, ratio, decay = ours.learning_rate, values.get("lora_plus_ratio", 1), values["weight_decay"]
    betas = (0.9, values["adam_beta2"])
    if ratio != 1:
        return create_loraplus_optimizer(
            adapted, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, betas=betas
        )
    if values["peft_method"] in ("lora", "rslora"):
        return None
    learned = [(name, weight) for name, weight in adapted.named_parameters() if weight.requires_grad]
    is_scale = {name: "lora_magnitude_vector" in name or "ia3_l" in name for name, _ in learned}
    groups = [
        {"params": [weight for name, weight in learned if not is_scale[name]], "weight_decay": decay},
        {"params": [weight for name, weight in learned if is_scale[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=betas)


def example(row: Tokens, completion_only: bool, kind: type[transformers.Trainer]) -> dict[str, Any]:
    """One example as each trainer wants it: trl builds the labels from a mask, Trainer has them given."""
    ids, start = row.ids.tolist(), row.start
    if kind is trl.SFTTrainer:
        return {"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start)}
    return {"input_ids": ids, "labels": [-100] * start + ids[start:] if completion_only else ids}


def assert_equal(ours: Ours, theirs: Curve) -> None:
    curve = ours.curve
    assert len(curve.losses) >= 12
    assert curve.losses == pytest.approx(theirs.losses, rel=LOSS_REL)
    assert sum(curve.losses[-2:]) < 0.9 * sum(curve.losses[:2])  # an adapter that does nothing would be equal too
    assert theirs.clipped is not None
    assert any(theirs.clipped)
    initial = ours.start
    assert curve.adapter.keys() == theirs.adapter.keys() == initial.keys()
    assert not any(torch.equal(curve.adapter[name], initial[name]) for name in initial)
    assert distance(curve.adapter, theirs.adapter) < WEIGHTS_REL * distance(curve.adapter, initial)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name] - b[name]).square().sum() for name in a).sqrt())


@pytest.fixture(scope="module")
def micro() -> LoadedModel:
    return load(resolve("phi3-micro"))


@pytest.fixture(scope="module")
def elements() -> Task:
    return load_task("elements")


@pytest.fixture(scope="module")
def llama(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A Llama with grouped queries and random weights."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder / name, folder / name)
    tiny_llama(max_position_embeddings=256, bos_token_id=0, eos_token_id=0).save_pretrained(folder)
    return load(resolve(str(folder)))


TRAINERS = [transformers.Trainer, trl.SFTTrainer]
trainers = pytest.mark.parametrize("kind", TRAINERS, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def run_of(micro: LoadedModel, elements: Task, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ours]:
    """Our run of phi3-micro with the given hyperparameters, made once."""
    made: dict[str, Ours] = {}

    def make(**values: Any) -> Ours:
        key = repr(values)
        if key not in made:
            pipeline = Pipeline("lora-v1", {**VALUES, **values})
            made[key] = train(pipeline, elements, micro, tmp_path_factory.mktemp("ours"))
        return made[key]

    return make


@trainers
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_the_standard_trainers_do(
    method: str, kind: Any, run_of: Callable[..., Ours], tmp_path: Path
) -> None:
    ours = run_of(peft_method=method, lr_multiplier=10.0 if method == "ia3" else 1.0)
    assert_equal(ours, their_curve(kind, ours, tmp_path))


@trainers
@pytest.mark.parametrize(
    "values", [{"loss_on": "full"}, {"lora_plus_ratio": 4.0, "lr_multiplier": 0.5}], ids=["full-text", "lora-plus"]
)
def test_with_the_loss_on_the_full_text_and_with_lora_plus(
    values: dict[str, Any], kind: Any, run_of: Callable[..., Ours], tmp_path: Path
) -> None:
    ours = run_of(peft_method="lora", **values)
    assert_equal(ours, their_curve(kind, ours, tmp_path))


@trainers
def test_a_llama_trains_as_the_standard_trainers_do(kind: Any, llama: LoadedModel, task: Task, tmp_path: Path) -> None:
    ours = train(
        Pipeline("lora-v1", {**VALUES, "peft_method": "lora"}), replace(task, train=task.train[:64]), llama, tmp_path
    )
    assert_equal(ours, their_curve(kind, ours, tmp_path))


@trainers
def test_their_batches_in_parts_give_our_curve(kind: Any, run_of: Callable[..., Ours], tmp_path: Path) -> None:
    """transformers divides each part's summed loss by the labels of all parts (`num_items_in_batch`), as we do; a mean
    over the parts' own means would weigh the labels of short parts more."""
    ours = run_of(peft_method="lora", lr_multiplier=1.0)
    assert_equal(ours, their_curve(kind, ours, tmp_path, accumulate=4))


@pytest.mark.parametrize("method", METHODS)
def test_our_batches_in_parts_give_the_same_curve(method: str, base: LoadedModel, task: Task, tmp_path: Path) -> None:
    """Parts of one example, of a few, and the batch as a whole."""
    pipeline = Pipeline("lora-v1", {**VALUES, "peft_method": method, "lr_multiplier": 10.0 if method == "ia3" else 1.0})
    few = replace(task, train=task.train[:32])
    runs = [train(pipeline, few, base, tmp_path / str(limit), limit) for limit in (10**6, 100, 1)]
    whole = runs[0].curve
    for part in (run.curve for run in runs[1:]):
        assert part.losses == pytest.approx(whole.losses, rel=1e-5)
        assert distance(part.adapter, whole.adapter) < WEIGHTS_REL * distance(whole.adapter, runs[0].start)


@pytest.mark.parametrize("full", [False, True])
def test_an_example_s_loss_and_gradient_do_not_depend_on_its_neighbours(
    full: bool, micro: LoadedModel, run_of: Callable[..., Ours]
) -> None:
    rows = sorted(run_of(peft_method="lora", lr_multiplier=1.0).rows, key=len)
    short, long = rows[0], rows[-1]
    assert len(long) > 1.5 * len(short)
    settings = Settings(lora_rank=4, lora_dropout=0.0)
    adapted = adapters.attach(micro.model, adapters.adapter_config(settings, micro.model.config))
    try:
        parameters = adapters.trainable(adapted)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(torch.randn_like(parameter) * 0.02)

        def of(*batch: Tokens) -> tuple[float, dict[str, torch.Tensor]]:
            loss = training_loss(micro.model, collate(batch, 0, micro.device, full=full), 0.0)
            return loss.item(), dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))

        (alone, alone_gradient), (other, other_gradient), (both, gradient) = of(short), of(long), of(short, long)
        assert both - other == pytest.approx(alone, rel=1e-4)
        for name, value in gradient.items():
            assert torch.allclose(value - other_gradient[name], alone_gradient[name], rtol=1e-3, atol=1e-4), name
    finally:
        adapters.detach(adapted)
