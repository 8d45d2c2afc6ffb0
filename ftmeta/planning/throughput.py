"""Seconds of an optimizer step, from its operations and a hardware profile.

In: the sizes of a decoder, a pipeline, how the steps are computed, and what a step holds on the average. Out: `Time`.

FLOPs of a token (a multiply-add is 2; W: weights of the blocks' matrices, W' and L' from the lowest adapted block up):
  forward    2 W + 4 L s q      attention over rows of s tokens (Kaplan et al. 2020, arXiv 2001.08361, table 1)
  backward   2 W' + 8 L' s q    gradients of activations alone: the base model is frozen, so LoRA takes about 4 N a
                                token where full training takes 6 N
  again      2 W' + 4 L' s q    activation checkpointing repeats the forward pass: about 6 N (Chen et al. 2016,
                                arXiv 1604.06174)
  head       4 h V              at labels only
  adapters   6 P, and 8 P with checkpointing
DoRA as in ftmeta/costs.py. Bytes: the weights once a pass, and 34 h a token and block for activations at two bytes a
number (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1). A device takes the longer of computing and moving bytes
(Williams et al. 2009); on CUDA the host launches meanwhile, and is what counts where a pass is short.

Communication (Rajbhandari et al. 2020, arXiv 1910.02054, section 7): gradients of the adapter are summed and its new
values collected once a step; under ZeRO-3 each pass over the weights collects them, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftmeta.hardware import HardwareProfile
from ftmeta.models.architectures import Decoder
from ftmeta.planning.assumptions import assumptions
from ftmeta.planning.memory import Setting, adapted_layers, adapted_matrices, arithmetic, trainable_parameters
from ftmeta.schema import Pipeline


@dataclass(frozen=True)
class Load:
    """What an optimizer step holds on the average, over all devices."""

    examples: float
    tokens: float  # an example
    labels: float  # an example


@dataclass(frozen=True)
class Time:
    """Of one optimizer step."""

    step_s: float
    compute_s: float  # on each device, waiting for memory and for the host included
    communication_s: float
    tokens_per_s: float  # over all devices


def step_time(
    decoder: Decoder, pipeline: Pipeline, setting: Setting, load: Load, hardware: HardwareProfile, nodes: int = 1
) -> Time:
    """The seconds of a step whose examples are shared out among `setting.devices`, in micro-batches of at most
    `setting.tokens` tokens."""
    examples = math.ceil(load.examples / setting.devices)  # of the device that has most
    passes = max(1, math.ceil(examples * load.tokens / setting.tokens))
    flops = examples * _flops(decoder, pipeline, setting, load) + passes * _dora_norms(decoder, pipeline)
    moved = _bytes(decoder, pipeline, setting, passes, examples * load.tokens)
    busy_s = max(flops / hardware.flops_per_s, moved / hardware.bytes_per_s)
    block_passes = passes * (decoder.layers + (3 if setting.checkpointing else 2) * _reached(decoder, pipeline))
    if setting.device_type == "cuda":
        compute_s = max(busy_s, block_passes * assumptions().launch_s[str(pipeline.get("peft_method", "lora"))])
    else:
        compute_s = busy_s + block_passes * hardware.overhead_s
    communication_s = _communication_s(decoder, pipeline, setting, passes, nodes)
    step_s = compute_s + communication_s
    return Time(step_s, compute_s, communication_s, load.examples * load.tokens / step_s)


def _reached(decoder: Decoder, pipeline: Pipeline) -> int:
    """The blocks that the backward pass goes through."""
    return decoder.layers - adapted_layers(decoder, pipeline)[0]


def _flops(decoder: Decoder, pipeline: Pipeline, setting: Setting, load: Load) -> float:
    """Of one example."""
    weights = sum(matrix.weights for matrix in decoder.matrices)
    attention = load.tokens * decoder.queries
    forward = 2 * weights + 4 * attention  # a block
    backward = 2 * weights + 8 * attention + (forward if setting.checkpointing else 0)
    adapters = (8 if setting.checkpointing else 6) * trainable_parameters(decoder, pipeline)
    token = decoder.layers * forward + _reached(decoder, pipeline) * backward + adapters
    if pipeline.get("peft_method") == "dora" and pipeline.get("lora_dropout"):
        token += 4 * _adapted_weights(decoder, pipeline)
    return load.tokens * token + load.labels * 4 * decoder.hidden_size * decoder.vocab_size


def _dora_norms(decoder: Decoder, pipeline: Pipeline) -> float:
    """Of a micro-batch: DoRA's norms of W + B A."""
    if pipeline.get("peft_method") != "dora":
        return 0.0
    return (2 * float(pipeline["lora_rank"]) + 3) * _adapted_weights(decoder, pipeline)


def _adapted_weights(decoder: Decoder, pipeline: Pipeline) -> int:
    of_a_block = sum(matrix.weights for matrix in adapted_matrices(decoder, pipeline))
    return of_a_block * len(adapted_layers(decoder, pipeline))


def _bytes(decoder: Decoder, pipeline: Pipeline, setting: Setting, passes: int, tokens: float) -> float:
    width = arithmetic(decoder, setting).width
    reached = _reached(decoder, pipeline)
    block_passes = decoder.layers + (2 if setting.checkpointing else 1) * reached
    weights = sum(matrix.weights for matrix in decoder.matrices)
    activations = 17 * width * decoder.hidden_size
    return block_passes * (passes * weights * width + tokens * activations)


def _communication_s(decoder: Decoder, pipeline: Pipeline, setting: Setting, passes: int, nodes: int) -> float:
    if setting.devices == 1:
        return 0.0
    how = arithmetic(decoder, setting)
    moved = 2.0 * how.adapter_width * trainable_parameters(decoder, pipeline)
    if setting.zero_stage == 3:
        moved += passes * (3 if setting.checkpointing else 2) * decoder.parameters * how.width
    known = assumptions()
    bytes_per_s = known.node_bytes_per_s if nodes == 1 else min(known.node_bytes_per_s, known.network_bytes_per_s)
    return moved * (setting.devices - 1) / setting.devices / bytes_per_s
