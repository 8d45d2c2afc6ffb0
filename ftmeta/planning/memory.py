"""The memory of a finetuning step on one device, part by part, from first principles.

In: the sizes of a decoder, a pipeline, and a `Setting` (how the steps are computed). Out: `Memory`, in bytes. What is
counted is what autograd keeps from the forward pass, tensor by tensor; docs/planning.md has the tables and the measured
error (`make bench-plan`). Two forward passes exist, and they keep different things:

  eager  transformers' own, with PEFT's layers: half precision, activation checkpointing, ZeRO-3, and CUDA on the whole
  lean   ftmeta/finetune/decoder.py: float32 without any of these

Letters, after the array legends of the worker: h hidden size, m intermediate size, q and k the widths of all query
heads and of all key heads, r rank, P trainable weights, N padded tokens of a micro-batch, S positions with a label,
V vocabulary, w bytes of a number in the base model's type (2 or 4).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from typing import Any

from ftmeta.files import DATA
from ftmeta.models.architectures import Decoder, Matrix
from ftmeta.planning.activations import Adapted, Arithmetic, kept
from ftmeta.schema import Pipeline

GB = 1e9
_LEAN = ("phi3", "llama")  # what decoder.py computes


@dataclass(frozen=True)
class Setting:
    """How the steps of a run are computed on each of `devices` equal devices."""

    rows: int  # of a micro-batch on one device
    length: int  # tokens a row, padded
    labels: int  # positions of a micro-batch that have a label
    devices: int = 1
    zero_stage: int = 0
    checkpointing: bool = False
    dtype: str = "bfloat16"  # of the base model: bfloat16 or float32
    device_type: str = "cuda"
    framework_bytes: float = 0.0  # what the libraries take before the first tensor

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    weights: float  # the frozen base model, or this device's share of it
    adapter: float
    gradients: float
    optimizer: float
    activations: float  # kept for the backward pass
    workspace: float  # the largest temporary: the loss over the vocabulary, a layer's gradients, DoRA's weight norms
    communication: float  # ZeRO: gathered weights and reduction buffers
    framework: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def adapted_layers(decoder: Decoder, pipeline: Pipeline) -> range:
    """The layers that carry an adapter; of an odd depth the middle one belongs to the upper half."""
    depth = decoder.layers
    halves = {"lower_half": range(depth // 2), "upper_half": range(depth // 2, depth)}
    return halves.get(str(pipeline.get("adapted_layers", "all")), range(depth))


def adapted_matrices(decoder: Decoder, pipeline: Pipeline) -> list[Matrix]:
    """The linear layers of a block that carry an adapter."""
    which = pipeline.get("target_modules", "all")
    chosen = [matrix for matrix in decoder.matrices if which in ("all", matrix.block)]
    if pipeline.get("peft_method", "lora") == "ia3":
        scaled = ("qkv_proj", "k_proj", "v_proj", "down_proj")
        chosen = [matrix for matrix in chosen if matrix.name in scaled]
    return chosen


def trainable_parameters(decoder: Decoder, pipeline: Pipeline) -> int:
    """P, exactly: r (d_in + d_out) a matrix for LoRA, d_out more for DoRA's magnitudes; for (IA)3 one scale for each
    output of keys and values, and for each input of the last matrix of the MLP."""
    method, rank = pipeline.get("peft_method", "lora"), int(pipeline.get("lora_rank") or 0)
    count = 0
    for matrix in adapted_matrices(decoder, pipeline):
        if method == "ia3":
            count += matrix.d_in if matrix.block == "mlp" else matrix.d_out
        else:
            count += rank * (matrix.d_in + matrix.d_out) + (matrix.d_out if method == "dora" else 0)
    return count * len(adapted_layers(decoder, pipeline))


def is_lean(decoder: Decoder, setting: Setting) -> bool:
    """Whether the worker takes its own forward pass rather than transformers'."""
    window = decoder.sliding_window
    return (
        decoder.model_type in _LEAN
        and setting.dtype == "float32"
        and not setting.checkpointing
        and setting.zero_stage < 3
        and (window is None or setting.length <= window)
    )


def memory(decoder: Decoder, pipeline: Pipeline, setting: Setting) -> Memory:
    """The parts at the peak of a training step.

    The peak lies where the backward pass begins: all activations are there, and the loss over the vocabulary. Gradients
    are counted whole, as they are from the second micro-batch of a step on.
    """
    trainable = trainable_parameters(decoder, pipeline)
    how = arithmetic(decoder, setting)
    adapted = _adapted(decoder, pipeline)
    sharing = setting.devices if setting.zero_stage >= 2 else 1
    pieces = setting.devices if setting.zero_stage == 3 else 1
    half_adapter = how.adapter_width < 4  # then the optimizer keeps a float32 copy, and sums gradients in float32
    keeps_casts = how.width < how.adapter_width and adapted.method != "ia3" and not setting.checkpointing
    casts = how.width * trainable if keeps_casts else 0  # autocast's copies of LoRA's matrices
    step = kept(
        decoder,
        adapted,
        how,
        setting.tokens,
        setting.labels,
        mask_bytes=_mask_bytes(decoder, setting, how),
        checkpointing=setting.checkpointing,
    )
    return Memory(
        weights=decoder.parameters * how.width / pieces,
        adapter=how.adapter_width * trainable / pieces + casts,
        gradients=how.adapter_width * trainable + (4 * trainable / sharing if half_adapter else 0),
        optimizer=(12 if half_adapter else 8) * trainable / sharing,
        activations=step.activations,
        workspace=step.workspace,
        communication=_communication(decoder, setting, how),
        framework=setting.framework_bytes,
    )


def loading_bytes(decoder: Decoder, setting: Setting, nodes: int) -> float:
    """Host memory of a node, at most, while its workers load the model: each has the whole of it there before its
    device gets the weights, or its share of them."""
    return setting.devices / nodes * decoder.parameters * arithmetic(decoder, setting).width


def arithmetic(decoder: Decoder, setting: Setting) -> Arithmetic:
    half = setting.dtype == "bfloat16"
    return Arithmetic(
        width=2 if half else 4,
        adapter_width=2 if half and setting.devices > 1 else 4,  # DeepSpeed keeps it in the model's type
        mask=1 if setting.device_type == "cuda" else 4,
        lean=is_lean(decoder, setting),
    )


def _adapted(decoder: Decoder, pipeline: Pipeline) -> Adapted:
    layers, method = adapted_layers(decoder, pipeline), str(pipeline.get("peft_method", "lora"))
    return Adapted(
        method=method,
        rank=int(pipeline.get("lora_rank") or 0),
        dropout=method != "ia3" and bool(pipeline.get("lora_dropout", 0.0)),
        matrices=frozenset(matrix.name for matrix in adapted_matrices(decoder, pipeline)),
        first=layers[0],
        last=layers[-1],
    )


def _mask_bytes(decoder: Decoder, setting: Setting, how: Arithmetic) -> float:
    """Rows longer than the sliding window need a mask, and each block keeps one of its own: rows x length x length."""
    window = decoder.sliding_window
    if window is None or setting.length <= window:
        return 0.0
    return float(how.width * setting.rows * setting.length**2)


def _communication(decoder: Decoder, setting: Setting, how: Arithmetic) -> float:
    """DeepSpeed's buffers, as data/zero/ sets them: gradients on their way, and under ZeRO-3 the weights of others."""
    if setting.zero_stage == 0:
        return 0.0
    limits = zero_settings(setting.zero_stage)
    gathered = limits.get("stage3_max_live_parameters", 0) + limits.get("stage3_prefetch_bucket_size", 0)
    return how.adapter_width * limits["reduce_bucket_size"] + how.width * min(gathered, decoder.parameters)


@functools.cache
def zero_settings(stage: int) -> dict[str, Any]:
    """The `zero_optimization` part of the settings that the worker gives DeepSpeed for a stage."""
    document = json.loads((DATA / "zero" / f"stage{stage}.json").read_text(encoding="utf-8"))
    settings: dict[str, Any] = document["zero_optimization"]
    return settings
