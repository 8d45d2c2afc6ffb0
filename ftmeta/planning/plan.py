"""A base model, a pipeline and devices -> the document of `ftmeta plan --json`.

    plan("microsoft/Phi-3-mini-4k-instruct", load_pipeline("strong-default", load_space()), gpus=4, gpu_memory_gb=24)

Neither weights nor torch are touched; a dataset is read and counted if one is given.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from ftmeta.errors import UserError
from ftmeta.hardware import HardwareProfile, detect, list_hardware, load_hardware
from ftmeta.models import Decoder, decoder
from ftmeta.planning.choose import Devices, Plan, Rows, advice, choose, reasons, smallest
from ftmeta.planning.lengths import Lengths, counter_of, lengths_of
from ftmeta.planning.memory import GB, is_lean, loading_bytes, trainable_parameters
from ftmeta.planning.throughput import Load, Time, step_time
from ftmeta.schema import Pipeline, Task

SEQUENCE_LENGTH = 512  # of the rows, where neither a dataset nor a length is given


def plan(
    base_model: str,
    pipeline: Pipeline,
    *,
    gpus: int = 1,
    gpu_memory_gb: float | None = None,
    nodes: int = 1,
    hardware: str | None = None,
    sequence_length: int | None = None,
    batch_size: int | None = None,
    task: Task | None = None,
    epochs: float = 1.0,
) -> dict[str, Any]:
    """The document. `gpus` are those of all nodes together. A dataset (`task`) says how long the rows are; else
    `sequence_length` does. Raises UserError for what cannot be planned."""
    if gpus % nodes:
        raise UserError(
            f"--gpus {gpus} on --nodes {nodes}: a plan is for nodes with equally many GPUs; give a multiple"
        )
    if gpu_memory_gb is not None and not (math.isfinite(gpu_memory_gb) and gpu_memory_gb > 0):
        raise UserError(f"--gpu-memory is {gpu_memory_gb}; give the GB of one GPU, as 24")
    shape = decoder(base_model)
    profile, notes = _hardware(hardware, gpu_memory_gb)
    memory_gb = profile.memory_gb if gpu_memory_gb is None else gpu_memory_gb
    devices = Devices(gpus, memory_gb, nodes, "cpu" if profile.name.startswith("cpu") else "cuda")
    batch = int(pipeline.get("batch_size", 16)) if batch_size is None else batch_size
    full = pipeline.get("loss_on") == "full"
    if task is not None:
        counter = counter_of(base_model)
        lengths = lengths_of(task, counter, shape.context_length, full=full)
        if not counter.is_own:
            notes.append(
                f"the tokenizer of {base_model} is not on this machine; lengths are counted with phi3-micro's, which "
                "makes more tokens of a text"
            )
        if lengths.cut:
            notes.append(
                f"{lengths.cut} of {lengths.examples} training examples are longer than the context of "
                f"{shape.context_length} tokens and lose text"
            )
    else:
        lengths = _assumed(shape, sequence_length, notes)
    rows = Rows(lengths.longest, lengths.label_share)
    chosen = choose(shape, pipeline, devices, rows, batch)
    shown = chosen or smallest(shape, pipeline, devices, rows)
    if shown.setting.zero_stage == 3:
        notes.append("what ZeRO-3 needs is computed from DeepSpeed's code and settings; it was never measured on GPUs")
    time = None
    if chosen is not None:
        load = Load(batch, lengths.mean, lengths.labels_mean)
        step = step_time(shape, pipeline, chosen.setting, load, profile, nodes)
        time = _time_document(step, load, lengths, profile, None if task is None else epochs)
    return {
        "base_model": {"name": base_model, "parameters": shape.parameters},
        "trainable_parameters": trainable_parameters(shape, pipeline),
        "pipeline": pipeline.to_json(),
        "gpus": gpus,
        "nodes": nodes,
        "gpu_memory_gb": memory_gb,
        "usable_gb": round(devices.usable_gb, 3),
        "device_type": devices.device_type,
        "batch_size": batch,
        "sequence_length": lengths.longest,
        "task": None if task is None else {"name": task.name, **asdict(lengths)},
        "fits": chosen is not None,
        "plan": None if chosen is None else _plan_document(chosen),
        "memory_gb": {name: round(value / GB, 3) for name, value in asdict(shown.memory).items()}
        | {"total": round(shown.memory.total / GB, 3)},
        "host_memory_gb": None
        if devices.device_type == "cpu"
        else round(loading_bytes(shape, shown.setting, nodes) / GB, 3),
        "forward_pass": "ftmeta's own" if is_lean(shape, shown.setting) else "transformers'",
        "time": time,
        "reasons": _why(shape, pipeline, devices, rows, batch, chosen, shown),
        "advice": [] if chosen is not None else advice(shape, pipeline, devices, rows, batch),
        "notes": notes,
    }


def _hardware(name: str | None, memory_gb: float | None) -> tuple[HardwareProfile, list[str]]:
    """The profile that times rest on, and what there is to say about it. Where only the memory is known, the slowest
    GPU with as much or the next more."""
    if name is None and memory_gb is None:
        profile = load_hardware(detect())
        cpu = "no GPU was found here, so this is a plan for CPU cores; --gpu-memory or --hardware plans for GPUs"
        return profile, [cpu] if profile.name.startswith("cpu") else []
    if name is not None:
        profile = load_hardware(name)
        apart = f"{name} has {profile.memory_gb:g} GB, and the plan is for {memory_gb} GB; times are those of {name}"
        return profile, [] if memory_gb in (None, profile.memory_gb) else [apart]
    assert memory_gb is not None
    known = [load_hardware(one) for one in list_hardware() if not one.startswith("cpu")]
    enough = [one.memory_gb for one in known if one.memory_gb >= memory_gb]
    size = min(enough) if enough else max(one.memory_gb for one in known)
    slowest = min((one for one in known if one.memory_gb == size), key=lambda one: one.flops_per_s)
    whose = f"times are those of {slowest.name}, the slowest known GPU of {size:g} GB; --hardware names yours"
    return slowest, [whose if enough else f"no known GPU has {memory_gb:g} GB; {whose}"]


def _assumed(shape: Decoder, sequence_length: int | None, notes: list[str]) -> Lengths:
    length = min(SEQUENCE_LENGTH, shape.context_length) if sequence_length is None else sequence_length
    if not 2 <= length <= shape.context_length:
        raise UserError(f"--sequence-length is {length}; {shape.name} reads rows of 2 to {shape.context_length} tokens")
    notes.append(f"every row is taken to have {length} tokens, all of them labels; a dataset says how long they are")
    return Lengths(0, length, float(length), float(length - 1), 1.0)


def _plan_document(chosen: Plan) -> dict[str, Any]:
    setting = chosen.setting
    return {
        "micro_batch": setting.rows,
        "accumulation_steps": chosen.accumulation_steps,
        "micro_batch_tokens": chosen.micro_batch_tokens,
        "zero_stage": setting.zero_stage,
        "activation_checkpointing": setting.checkpointing,
        "dtype": setting.dtype,
    }


def _time_document(
    step: Time, load: Load, lengths: Lengths, profile: HardwareProfile, epochs: float | None
) -> dict[str, Any]:
    per_example_s = step.step_s / load.examples
    return {
        "hardware": profile.name,
        "source": profile.source,
        "tokens_per_s": round(step.tokens_per_s, 1),
        "step_s": round(step.step_s, 4),
        "compute_s": round(step.compute_s, 4),
        "communication_s": round(step.communication_s, 4),
        "per_1000_examples_s": round(1000 * per_example_s, 2),
        "epochs": epochs,
        "run_s": None if epochs is None else round(epochs * lengths.examples * per_example_s, 1),
    }


def _why(
    shape: Decoder, pipeline: Pipeline, devices: Devices, rows: Rows, batch: int, chosen: Plan | None, shown: Plan
) -> list[str]:
    if chosen is not None:
        return reasons(shape, pipeline, devices, rows, batch, chosen)
    parts = sorted(asdict(shown.memory).items(), key=lambda part: -part[1])
    largest = " and ".join(f"{value / GB:.1f} GB of {name}" for name, value in parts[:2])
    free = f"{1 - devices.usable:.0%} of the memory stay free"
    return [
        f"a row of {rows.length} tokens at a time, with all that saves memory, needs {shown.memory.total / GB:.1f} GB "
        f"on each device, and {devices.usable_gb:.1f} GB are there ({free}); the most are {largest}"
    ]
