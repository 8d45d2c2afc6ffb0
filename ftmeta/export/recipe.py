"""What every exported folder is made from, and what a writer hands back.

In: a pipeline of `lora-v1`, a task, a base model, a budget. Out: a `Recipe`, which has the pipeline's settings as plain
values, the PEFT adapter that they mean on this base model, and the examples; a writer makes a `Written` of it. Nothing
is written here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ModelError, UserError
from ftmeta.models import Decoder, decoder
from ftmeta.schema import BaseModelInfo, Budget, Example, Pipeline, Task, Value
from ftmeta.space import load_space

if TYPE_CHECKING:
    from ftmeta.finetune.settings import Settings

_AT_ONCE = 8  # examples of one forward pass at most; the batch is made of as many passes as it takes
_BLOCKS = {"attention": "self_attn", "mlp": "mlp"}  # how transformers calls the parts of a decoder block
_TOLD = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules")  # also where they are defaults


@dataclass(frozen=True)
class NotCarried:
    """A setting that the other tool does not have, or not with this value."""

    setting: str
    value: Value
    why: str  # and what happens instead


@dataclass(frozen=True)
class Written:
    """What a writer makes: the text of each file by its path in the folder, and what to say about it."""

    tool: str  # as people call it
    files: Mapping[str, str]
    install: str | None  # a shell command
    command: str  # the one that trains; run in the folder
    carried: Mapping[str, str]  # setting -> what it became there
    not_carried: tuple[NotCarried, ...] = ()
    notes: tuple[str, ...] = ()  # what is carried, and still differs


@dataclass(frozen=True)
class Adapter:
    """A PEFT configuration by the name of its class and its arguments."""

    kind: str
    arguments: Mapping[str, Any]
    layers: tuple[int, ...] | None  # None: all
    modules: tuple[str, ...]  # short names, as `qkv_proj`; spelled out where the configuration spells them out
    spelled: tuple[str, ...]  # the same for tools that cannot be told layers: `layers.3.self_attn.qkv_proj`


@dataclass(frozen=True)
class Recipe:
    """`task` holds the training examples of the budget. `adapter` is what `settings` mean on `base_model`."""

    pipeline: Pipeline
    settings: Settings
    task: Task
    base_model: BaseModelInfo
    sizes: Decoder
    budget: Budget
    seed: int
    end_of_turn: str  # the token that ends an answer, as `<|end|>`
    eos_token: str | None

    @cached_property
    def adapter(self) -> Adapter:
        return _adapter(self.settings, self.sizes)

    @property
    def learning_rate(self) -> float:
        return float(f"{self.settings.lr_multiplier * self.base_model.reference_lr:.6g}")

    @property
    def schedule(self) -> str:
        """As transformers calls it. Its `constant` has no warmup; ours has."""
        return {"constant": "constant_with_warmup"}.get(self.settings.lr_schedule, self.settings.lr_schedule)

    @property
    def micro_batch(self) -> int:
        """Examples of a forward pass on one device: the largest part of the batch that is no more than 8."""
        size = self.settings.batch_size
        return max(part for part in range(1, min(_AT_ONCE, size) + 1) if size % part == 0)

    @property
    def accumulation(self) -> int:
        """Forward passes of an optimizer step on one device."""
        return self.settings.batch_size // self.micro_batch

    @property
    def steps(self) -> int:
        """Optimizer steps where each epoch ends with a batch of its own, as in transformers' Trainer."""
        return math.ceil(self.budget.epochs * math.ceil(len(self.task.train) / self.settings.batch_size))

    @property
    def name(self) -> str:
        """What ftmeta finds the base model by, from any folder."""
        name = self.base_model.name
        return self.base_model.path if Path(name).expanduser().is_dir() else name

    @property
    def model(self) -> str:
        """What another tool loads the base model by: a hub id, or the folder on this machine."""
        return self.name if "/" in self.name else self.base_model.path


def recipe(pipeline: Pipeline, task: Task, base_model: BaseModelInfo, budget: Budget, seed: int) -> Recipe:
    """Raises UserError for a pipeline of another space than lora-v1, and SpaceError or ModelError for what does not fit
    the space or the base model."""
    from ftmeta.finetune.data import end_of_turn, fixed_subset
    from ftmeta.finetune.settings import settings_of

    space = load_space()
    if pipeline.space != space.name:
        raise UserError(
            f"the pipeline is of the search space '{pipeline.space}', and only those of '{space.name}' can be "
            "exported; what the hyperparameters of another space mean to a trainer is not known here"
        )
    chosen = fixed_subset(len(task.train), budget.max_train_examples)
    tokenizer = _tokenizer(base_model)
    return Recipe(
        pipeline=pipeline,
        settings=settings_of(space.validate(pipeline.values)),
        task=replace(task, train=tuple(task.train[at] for at in chosen)),
        base_model=base_model,
        sizes=decoder(base_model.path),
        budget=budget,
        seed=seed,
        end_of_turn=end_of_turn(tokenizer),
        eos_token=tokenizer.eos_token,
    )


def lora_only(given: Recipe, tool: str) -> tuple[Recipe, tuple[NotCarried, ...]]:
    """The recipe for a tool that knows LoRA and its kin alone: another method is replaced by the strong default's LoRA
    at the reference learning rate, because a rate chosen for the one can make the other diverge."""
    settings = given.settings
    if given.adapter.kind == "LoraConfig":
        return given, ()
    instead = replace(given, settings=replace(settings, peft_method="lora", lr_multiplier=1.0))
    rank, rate = instead.settings.lora_rank, instead.learning_rate
    return instead, (
        NotCarried(
            "peft_method",
            settings.peft_method,
            f"{tool} has LoRA, rsLoRA and DoRA only; LoRA of rank {rank} stands in its place. That is another "
            "pipeline, and what was predicted for this one does not hold for it; trl and ftmeta have the method",
        ),
        NotCarried(
            "lr_multiplier",
            settings.lr_multiplier,
            f"it was chosen for {settings.peft_method}; LoRA in its place learns at the reference rate, {rate:g}",
        ),
    )


def differences(given: Recipe) -> tuple[str, ...]:
    """What transformers' Trainer, and so each tool built on it, does otherwise with settings that it has."""
    size = given.settings.batch_size
    notes = [
        "The order of the examples is another random draw than ftmeta's, whose batches run on over the end of an "
        "epoch, while here an epoch ends with what is left of it. So the score need not be quite the predicted one.",
        f"The batch of {size} is for one device: {given.micro_batch} examples at a time, {given.accumulation} times. "
        "On more devices, divide one of the two by their number.",
    ]
    if given.settings.neftune_alpha:
        notes.append("NEFTune's noise is scaled by the padded length of a batch; ftmeta takes each row's own.")
    return tuple(notes)


def dora_differences(given: Recipe) -> tuple[str, ...]:
    """What PEFT's LoRA+ optimizer and Trainer's weight decay do to DoRA's magnitudes."""
    settings, notes = given.settings, []
    if settings.peft_method == "dora" and settings.lora_plus_ratio != 1:
        notes.append("LoRA+ gives DoRA's magnitudes the rate of B; ftmeta gives them that of A.")
    if settings.peft_method == "dora" and settings.weight_decay:
        notes.append("DoRA's magnitudes are decayed towards 0; ftmeta does not decay them.")
    return tuple(notes)


def messages(example: Example) -> list[dict[str, str]]:
    """The whole conversation, the answer last."""
    context = [{"role": message.role, "content": message.content} for message in example.context]
    return [*context, {"role": "assistant", "content": example.completion}]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def data_files(task: Task, row: Any) -> dict[str, str]:
    """`data/train.jsonl` and its like, one row an example."""
    return {f"data/{split}.jsonl": jsonl(map(row, examples)) for split, examples in task.splits.items()}


def in_line(text: str) -> str:
    """Any text as a part of one line, for comments and code spans."""
    return " ".join(text.split()).replace("`", "'")


def _adapter(settings: Settings, sizes: Decoder) -> Adapter:
    from ftmeta.finetune.adapters import adapter_config

    config = adapter_config(settings, SimpleNamespace(model_type=sizes.model_type, num_hidden_layers=sizes.layers))
    plain = type(config)()
    order = [matrix.name for matrix in sizes.matrices]

    def value_of(name: str) -> Any:
        value = getattr(config, name)
        return sorted(value, key=lambda target: _place(target, order)) if isinstance(value, set) else value

    told = [one.name for one in fields(config) if one.init]
    arguments = {
        name: value_of(name) for name in told if name in _TOLD or getattr(config, name) != getattr(plain, name)
    }
    modules = tuple(arguments["target_modules"])
    layers = getattr(config, "layers_to_transform", None)
    blocks = {matrix.name: _BLOCKS[matrix.block] for matrix in sizes.matrices}
    return Adapter(
        kind=type(config).__name__,
        arguments=arguments,
        layers=None if layers is None else tuple(layers),
        modules=modules,
        spelled=modules
        if layers is None
        else tuple(f"layers.{layer}.{blocks[name]}.{name}" for layer in layers for name in modules),
    )


def _place(target: str, order: list[str]) -> tuple[int, int]:
    """Where a target stands in the model: `layers.10.mlp.down_proj` behind `layers.9.mlp.down_proj`."""
    parts = target.split(".")
    return (int(parts[1]) if len(parts) > 1 else 0), order.index(parts[-1])


def _tokenizer(base_model: BaseModelInfo) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_model.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer of '{base_model.name}' in {base_model.path} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"base model '{base_model.name}' has no chat template; choose one tuned to follow instructions"
        )
    return tokenizer
