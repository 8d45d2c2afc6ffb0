"""Work and money: the FLOPs and bytes of a run from first principles, seconds on a device, and their price.

In: a base model's shape, a pipeline, a task's token statistics and the budget. Out: `Work`, cumulative for fidelities
0..T. The counts follow from what a LoRA step has to compute; constant factors that they miss are what the cost
surrogate learns from real runs.

FLOPs a token (N: weights of the layers' matrices; a multiply-add is 2 FLOPs):
  forward          2 N + 4 L s h (attention over s tokens; Kaplan et al. 2020, arXiv 2001.08361, table 1)
  backward         2 N' + 8 L' s h, with N', L' only the layers from the lowest adapted one up: the base is frozen, so
                   there are gradients of activations but none of weights, and below the lowest adapter none at all
  head             2 h V forward and 2 h V backward at answer tokens only, or at all tokens where the loss is on them
  adapters         6 P for P trainable weights (2 forward, 4 backward)
DoRA (Liu et al. 2024, arXiv 2402.09353, section 4.3) norms W + BA at each step, 2 r d_in d_out + 3 d_in d_out FLOPs a
matrix, and with dropout multiplies by W a second time: 2 N_adapted forward and as much backward.
An evaluation is a forward pass over `budget.eval_examples` examples of mean length, with the head at answer tokens;
fidelity 0 has one too.

Bytes: weights once forward and once backward a step, and activations written and read again, 34 h bytes a token and
layer at two bytes a number (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1); 28 bytes an adapter
weight for AdamW.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftmeta.errors import ConfigError
from ftmeta.files import DATA
from ftmeta.hardware import HardwareProfile, load_hardware, profile_of
from ftmeta.schema import Budget, ModelShape, Pipeline

if TYPE_CHECKING:
    import numpy as np

CURRENCY = "USD"  # of all prices and costs
EVALUATION_BATCH = 64  # examples; only the number of weight reads depends on it
_MAX_COUNTED = 20_000
ANALYTIC_NAMES = ("peft_method", "target_modules", "adapted_layers", "batch_size")  # hyperparameters the counts need


TOKEN_METAFEATURES = ("log10_train_examples", "prompt_tokens_mean", "answer_tokens_mean")
_CHAT_TOKENS = 6, 1  # what a chat template adds to prompt and answer: Phi-3's roles, line breaks and <|end|>


@dataclass(frozen=True)
class TokenStatistics:
    """What the cost of a task depends on. Token counts are means an example, in the base model's own tokens."""

    train_examples: float
    prompt_tokens: float  # everything before the completion, the chat template included
    answer_tokens: float

    @classmethod
    def of(cls, metafeatures: Mapping[str, float]) -> TokenStatistics | None:
        """From a task's meta-features (ftmeta/metafeatures.py); None where they do not say, as for foreign tables."""
        if any(name not in metafeatures for name in TOKEN_METAFEATURES):
            return None
        log10_examples, prompt, answer = (float(metafeatures[name]) for name in TOKEN_METAFEATURES)
        return cls(10**log10_examples, prompt + _CHAT_TOKENS[0], answer + _CHAT_TOKENS[1])


@dataclass(frozen=True)
class Work:
    """What a run has to do up to each fidelity 0..T; cumulative arrays of length T + 1."""

    flops: np.ndarray
    bytes: np.ndarray
    layer_passes: np.ndarray  # forward or backward passes through one layer, of whatever size
    steps: np.ndarray  # optimizer steps
    tokens: np.ndarray  # training tokens

    def seconds(self, hardware: HardwareProfile) -> np.ndarray:
        """Roofline seconds (Williams et al. 2009): the slower of computing and moving bytes, and the overhead."""
        import numpy as np

        busy_T = np.maximum(self.flops / hardware.flops_per_s, self.bytes / hardware.bytes_per_s)
        return busy_T + self.layer_passes * hardware.overhead_s


def has_analytic_cost(hyperparameters: Collection[str]) -> bool:
    """Whether a search space has the hyperparameters that `analytic_work` reads."""
    return all(name in hyperparameters for name in ANALYTIC_NAMES)


def layer_weights(shape: ModelShape) -> float:
    """Weights in the matrices of all layers: L (4 h^2 + 3 h m) for attention and a gated MLP, or less if the model
    as a whole has less beside its embedding (grouped-query attention)."""
    full = shape.layers * (4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size)
    return float(min(full, max(shape.parameters - shape.hidden_size * shape.vocab_size, 1)))


def adapted_layers(shape: ModelShape, pipeline: Pipeline) -> int:
    whole = pipeline.get("adapted_layers", "all") == "all"
    return shape.layers if whole else max(1, shape.layers // 2)


def trainable_parameters(shape: ModelShape, pipeline: Pipeline) -> int:
    """Weights of the adapters: r (d_in + d_out) a matrix for LoRA, d_out more for DoRA, one vector for IA3.

    Matrices as in Phi-3: qkv (h -> 3h), o (h -> h), gate and up (h -> 2m), down (m -> h).
    """
    matrices = _target_matrices(shape, pipeline)
    method, rank = pipeline.get("peft_method", "lora"), int(pipeline.get("lora_rank") or 0)
    per_layer = 0
    for d_in, d_out in matrices:
        if method == "ia3":
            per_layer += d_out
        else:
            per_layer += rank * (d_in + d_out) + (d_out if method == "dora" else 0)
    return per_layer * adapted_layers(shape, pipeline)


def analytic_work(
    shape: ModelShape, pipeline: Pipeline, tokens: TokenStatistics, budget: Budget, weight_bytes: int = 2
) -> Work:
    """Cumulative work of one run at fidelities 0..budget.max_fidelity; see the head of this file for the formulas."""
    return _work(shape, _counts(shape, pipeline), float(pipeline["batch_size"]), tokens, budget, weight_bytes)


def analytic_seconds(
    shape: ModelShape, pipelines: Sequence[Pipeline], tokens: TokenStatistics, budget: Budget, hardware: HardwareProfile
) -> np.ndarray:
    """seconds_NT of `analytic_work` for many pipelines at once, which takes little more than for one."""
    import numpy as np

    batch_N1 = np.array([pipeline["batch_size"] for pipeline in pipelines], dtype=float)[:, None]
    columns = np.array(_many_counts(shape, pipelines), dtype=float).T[:, :, None]
    work = _work(shape, _Counts(*columns), batch_N1, tokens, budget, hardware.weight_bytes)
    return work.seconds(hardware)


def trainable_share(shape: ModelShape, pipelines: Sequence[Pipeline]) -> np.ndarray:
    """share_N: adapter weights / weights of all layers."""
    import numpy as np

    trainable_N = np.array([counts.trainable for counts in _many_counts(shape, pipelines)], dtype=float)
    return trainable_N / layer_weights(shape)


class _Counts(NamedTuple):
    """What the formulas need of a pipeline on a shape; numbers, or columns of them for several pipelines."""

    trainable: Any  # adapter weights
    step_flops: Any  # once a step: DoRA's norms
    token_flops: Any  # DoRA's second product with the weights, where there is dropout
    share: Any  # of the layers that the backward pass reaches
    full: Any  # 1 where the loss is on the prompt too


def _many_counts(shape: ModelShape, pipelines: Sequence[Pipeline]) -> list[_Counts]:
    """The same candidates are asked about again and again, so what was counted is kept."""
    known, found = _counted(shape), []
    if len(known) > _MAX_COUNTED:
        known.clear()
    for pipeline in pipelines:
        counts = known.get(pipeline.id)
        if counts is None:
            counts = known[pipeline.id] = _counts(shape, pipeline)
        found.append(counts)
    return found


@functools.lru_cache(maxsize=16)
def _counted(shape: ModelShape) -> dict[str, _Counts]:
    """Pipeline id -> its counts on this shape."""
    return {}


def _counts(shape: ModelShape, pipeline: Pipeline) -> _Counts:
    step_flops = token_flops = 0.0
    if pipeline.get("peft_method") == "dora":
        matrices = _target_matrices(shape, pipeline)
        adapted = adapted_layers(shape, pipeline) * sum(d_in * d_out for d_in, d_out in matrices)
        step_flops = (2 * float(pipeline["lora_rank"]) + 3) * adapted
        token_flops = 4.0 * adapted if pipeline.get("lora_dropout") else 0.0
    share = 0.5 if pipeline.get("adapted_layers") == "upper_half" else 1.0
    full = float(pipeline.get("loss_on") == "full")
    return _Counts(trainable_parameters(shape, pipeline), step_flops, token_flops, share, full)


def _work(
    shape: ModelShape, counts: _Counts, batch_size: Any, tokens: TokenStatistics, budget: Budget, weight_bytes: int
) -> Work:
    import numpy as np

    h, L, V = shape.hidden_size, shape.layers, shape.vocab_size
    prompt = min(tokens.prompt_tokens, shape.context_length)
    answer = min(tokens.answer_tokens, max(shape.context_length - prompt, 1))
    length = prompt + answer
    weights = layer_weights(shape)
    trainable, step_flops, token_flops, share, full = counts
    head_tokens = np.where(full, length, answer)  # an example

    forward = length * (2 * weights + 4 * L * length * h)
    backward = share * length * (2 * weights + 8 * L * length * h)
    example_flops = forward + backward + head_tokens * 4 * h * V + length * 6 * trainable + length * token_flops

    examples = min(tokens.train_examples, budget.max_train_examples or math.inf) * budget.epochs
    t_T = np.arange(budget.max_fidelity + 1) / budget.max_fidelity
    examples_T = examples * t_T
    steps_T = np.round(np.ceil(examples / batch_size) * t_T)

    evaluated_T = budget.eval_examples * np.arange(1, budget.max_fidelity + 2)
    passes_T = np.ceil(evaluated_T / EVALUATION_BATCH)
    evaluation_flops = forward + answer * 2 * h * V

    activation_bytes = length * L * 34 * h * weight_bytes / 2  # an example, written once
    step_bytes = (1 + share) * (weights + h * V) * weight_bytes + 28 * trainable
    return Work(
        flops=examples_T * example_flops + steps_T * step_flops + evaluated_T * evaluation_flops,
        bytes=examples_T * (1 + share) * activation_bytes
        + steps_T * step_bytes
        + passes_T * (weights + h * V) * weight_bytes
        + evaluated_T * activation_bytes,
        layer_passes=steps_T * L * (1 + 2 * share) + passes_T * L,
        steps=steps_T,
        tokens=examples_T * length,
    )


def _target_matrices(shape: ModelShape, pipeline: Pipeline) -> list[tuple[int, int]]:
    h, m = shape.hidden_size, shape.intermediate_size
    attention, mlp = [(h, 3 * h), (h, h)], [(h, 2 * m), (m, h)]
    return {"attention": attention, "mlp": mlp}.get(str(pipeline.get("target_modules", "all")), attention + mlp)


def usd(cost_s: float, hardware: str) -> float | None:
    """The price of `cost_s` device-seconds on the hardware of that name, in US dollars; None if it is unknown."""
    price = price_usd_per_hour(load_hardware(hardware).price_key)
    return None if price is None else cost_s / 3600 * price


def usd_of(cost_s: float, device: str) -> float | None:
    """The price of a run on the device that its row names; None where device or price is unknown."""
    profile = profile_of(device)
    return None if profile is None else usd(cost_s, profile.name)


def price_usd_per_hour(price_key: str) -> float | None:
    """From the file in $FTMETA_PRICES where it names the device, else from the shipped table. Raises ConfigError."""
    tables = (table.price_usd_per_hour for table in _price_tables())
    return next((prices[price_key] for prices in tables if price_key in prices), None)


def price_of(device: str) -> str | None:
    """What a run on that device is charged, from which table: `0.09 USD an hour (cpu-core, as of 2025-07-01)`; None
    where it is unknown."""
    profile = profile_of(device)
    if profile is None:
        return None
    tables = (table for table in _price_tables() if profile.price_key in table.price_usd_per_hour)
    first = next(tables, None)
    price = None if first is None else first.price_usd_per_hour[profile.price_key]
    if first is None or price is None:
        return None
    return f"{price:g} {CURRENCY} an hour ({profile.price_key}, as of {first.as_of})"


def usd_of_tokens(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What a language model behind an endpoint takes for so many tokens, by the tables that `price_usd_per_hour` reads;
    None where neither names the model. Raises ConfigError."""
    tables = (table.price_usd_per_million_tokens for table in _price_tables())
    price = next((prices[model] for prices in tables if model in prices), None)
    return None if price is None else (prompt_tokens * price.prompt + completion_tokens * price.completion) / 1e6


class _TokenPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class _PriceFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    currency: str
    as_of: object
    price_usd_per_hour: dict[str, float | None] = {}
    price_usd_per_million_tokens: dict[str, _TokenPrice | None] = {}


def _price_tables() -> list[_PriceFile]:
    """One's own table first."""
    own = os.environ.get("FTMETA_PRICES")
    return [_price_table(Path(path)) for path in (own, DATA / "prices.yaml") if path]


@functools.cache
def _price_table(path: Path) -> _PriceFile:
    try:
        file = _PriceFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"price table {path} cannot be read ({error.strerror}); correct $FTMETA_PRICES") from None
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ConfigError(f"price table {path}: {said}; see ftmeta/data/prices.yaml for the form") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"price table {path}: {said}; see ftmeta/data/prices.yaml for the form") from None
    if file.currency != CURRENCY:
        raise ConfigError(
            f"price table {path} is in {file.currency}; give prices in {CURRENCY}, which costs are reported in"
        )
    wrong = [name for name, price in file.price_usd_per_hour.items() if price is not None and not 0 <= price < math.inf]
    if wrong:
        raise ConfigError(f"price table {path}: the price of {wrong[0]} is not a number from 0 up")
    return file
