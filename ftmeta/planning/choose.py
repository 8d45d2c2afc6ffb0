"""How to run a pipeline on given devices: micro-batch, ZeRO stage and activation checkpointing, or why it cannot be.

In: the sizes of a decoder, a pipeline, the devices and the longest rows. Out: a `Plan`, or None and what would help.

The order of preference, first to last, is that of the time that a choice costs:
1. the lowest ZeRO stage: 0 on one device, 2 on several. Stage 3 sends the weights of the whole model around in each
   pass, so it is taken only where the weights do not fit otherwise;
2. no activation checkpointing, which computes half as much again (6 N FLOPs a token instead of 4 N);
3. the largest micro-batch, up to the device's share of the batch.
A setting fits if its peak (memory.py) leaves `headroom` of the device's memory free (data/planning.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ftmeta.models.architectures import Decoder
from ftmeta.planning.assumptions import assumptions
from ftmeta.planning.memory import GB, Memory, Setting, memory
from ftmeta.schema import Pipeline

MOST_DEVICES = 64  # how far advice goes


@dataclass(frozen=True)
class Devices:
    """Equal devices, evenly spread over the nodes."""

    count: int
    memory_gb: float
    nodes: int = 1
    device_type: str = "cuda"

    @property
    def dtype(self) -> str:
        return "float32" if self.device_type == "cpu" else "bfloat16"  # as ftmeta.models.load chooses

    @property
    def usable(self) -> float:
        """The share of the memory that a plan may fill."""
        return 1 - assumptions().headroom[self.device_type]

    @property
    def usable_gb(self) -> float:
        return self.memory_gb * self.usable


@dataclass(frozen=True)
class Rows:
    """The longest row, and how much of a row may be labels, at most."""

    length: int
    label_share: float = 1.0


@dataclass(frozen=True)
class Plan:
    setting: Setting
    memory: Memory
    accumulation_steps: int  # micro-batches of a device in an optimizer step, all rows being of full length

    @property
    def micro_batch_tokens(self) -> int:
        """What `ftmeta finetune --micro-batch-tokens` takes: shorter rows share a pass in greater number."""
        return self.setting.tokens


def settings(devices: Devices, rows: Rows, batch_size: int) -> Iterator[Setting]:
    """All ways to run, the best first."""
    share = math.ceil(batch_size / devices.count)
    numbers = sorted({math.ceil(share / parts) for parts in range(1, share + 1)}, reverse=True)
    for stage in (0,) if devices.count == 1 else (2, 3):
        for checkpointing in (False, True):
            for number in numbers:
                yield Setting(
                    rows=number,
                    length=rows.length,
                    labels=math.ceil(number * rows.length * rows.label_share),
                    devices=devices.count,
                    zero_stage=stage,
                    checkpointing=checkpointing,
                    dtype=devices.dtype,
                    device_type=devices.device_type,
                    framework_bytes=assumptions().framework_bytes(devices.device_type, devices.count),
                )


def choose(decoder: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows, batch_size: int) -> Plan | None:
    """The first setting that fits; None where none does."""
    share = math.ceil(batch_size / devices.count)
    for setting in settings(devices, rows, batch_size):
        needed = memory(decoder, pipeline, setting)
        if needed.total <= devices.usable_gb * GB:
            return Plan(setting, needed, math.ceil(share / setting.rows))
    return None


def smallest(decoder: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows) -> Plan:
    """What needs least memory: one row at a time."""
    tried = [(memory(decoder, pipeline, setting), setting) for setting in settings(devices, rows, 1)]
    needed, setting = min(tried, key=lambda pair: pair[0].total)
    return Plan(setting, needed, 1)


def reasons(
    decoder: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows, batch_size: int, plan: Plan
) -> list[str]:
    """Why it is this plan: for each thing that was given up, what it would have taken."""
    limit = f"of the {devices.usable_gb:.1f} GB that may be used"
    chosen, found = plan.setting, []
    before = [one for one in settings(devices, rows, batch_size) if one != chosen]

    def least(stage: int, checkpointing: bool) -> float:
        tried = [one for one in before if (one.zero_stage, one.checkpointing) == (stage, checkpointing)]
        return memory(decoder, pipeline, min(tried, key=lambda one: one.rows)).total / GB

    if chosen.zero_stage == 3:
        found.append(f"ZeRO-3: under ZeRO-2 one row with checkpointing needs {least(2, True):.1f} GB {limit}")
    elif chosen.zero_stage == 2:
        found.append("ZeRO-2: the whole model fits on each device, and ZeRO-3 would send its weights around")
    if chosen.checkpointing:
        found.append(
            f"activation checkpointing: without it one row needs {least(chosen.zero_stage, False):.1f} GB {limit}"
        )
    if plan.accumulation_steps > 1:
        more = math.ceil(math.ceil(batch_size / devices.count) / (plan.accumulation_steps - 1))
        labels = math.ceil(more * rows.length * rows.label_share)
        total = memory(decoder, pipeline, replace(chosen, rows=more, labels=labels)).total / GB
        found.append(f"micro-batches of {chosen.rows}: with {more} rows they need {total:.1f} GB {limit}")
    if batch_size < devices.count:
        found.append(f"a batch of {batch_size} keeps {devices.count - batch_size} of {devices.count} devices idle")
    return found


def number_of(count: int, what: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{count} {what}{'s' * (count != 1)}"


def advice(decoder: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows, batch_size: int) -> list[str]:
    """What would make it fit, each thing by itself."""
    found = []
    length = _longest(decoder, pipeline, devices, rows)
    if length is not None:
        found.append(f"rows of at most {length} tokens fit; cut or split longer ones")
    count = devices.count * 2
    while count <= MOST_DEVICES:
        more = replace(devices, count=count, nodes=devices.nodes * count // devices.count)
        if choose(decoder, pipeline, more, rows, max(batch_size, count)) is not None:
            found.append(f"{number_of(count, 'device')} of {devices.memory_gb:g} GB fit")
            break
        count *= 2
    needed = smallest(decoder, pipeline, devices, rows).memory.total / GB / devices.usable
    fit = "fits" if devices.count == 1 else "fit"
    found.append(f"{number_of(devices.count, 'device')} of at least {math.ceil(needed)} GB {fit}")
    if pipeline.get("peft_method") == "dora":
        plain = replace(pipeline, values={**pipeline.values, "peft_method": "lora"})
        if choose(decoder, plain, devices, rows, batch_size) is not None:
            found.append("peft_method lora fits; DoRA keeps copies of the weights")
    rank = int(pipeline.get("lora_rank") or 0)
    while rank > 1:
        rank //= 2
        smaller = replace(pipeline, values={**pipeline.values, "lora_rank": rank})
        if choose(decoder, smaller, devices, rows, batch_size) is not None:
            found.append(f"lora_rank {rank} fits")
            break
    return found


def _longest(decoder: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows) -> int | None:
    """The longest row that fits, to a multiple of 16; None if not even 16 tokens do."""
    low, high = 0, rows.length // 16  # in units of 16 tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = choose(decoder, pipeline, devices, replace(rows, length=16 * middle), 1) is not None
        low, high = (middle, high) if fits else (low, middle - 1)
    return 16 * low or None
