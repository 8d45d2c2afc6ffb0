"""The planner's memory model against measured peaks: `make bench-plan`, or `python -m jobs.bench_plan`.

On the CPU: phi3-micro, smollm2-135m where it is installed, and two blocks of Phi-3-mini at full width, each case in
fresh processes (jobs/plan_measure.py). On a CUDA device, where there is one, also the whole Phi-3-mini architecture,
3.8 B parameters with random weights. And the peaks of docs/reports/gpu.json, measured before the model was made.

Out: docs/reports/plan.json after each case, and docs/reports/plan.md. Cases that the JSON file has already are kept, so
the command goes on where it was stopped; delete the file to measure all of them again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.files import write_json, write_text
from ftmeta.hardware import profile_of
from ftmeta.models import Decoder, decoder, local_folder
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.planning.memory import GB, Setting, arithmetic, is_lean, memory, trainable_parameters
from ftmeta.planning.throughput import Load, step_time
from jobs.bench_gpu import PHI3_MINI, random_phi3_mini
from jobs.plan_measure import MICRO_BATCHES, Case, in_a_process
from jobs.plan_page import page

HALF = "bfloat16"
TWO_BLOCKS = "Phi-3-mini, 2 of 32 blocks"
MICRO, SMOLLM2 = Case("phi3-micro", 64, 128, 8), Case("smollm2-135m", 4, 128, 16)
WIDE = Case(TWO_BLOCKS, 4, 64, 32, dtype=HALF)
FULL = Case(PHI3_MINI, 4, 512, 256, dtype=HALF, device="cuda")

CPU_CASES = (
    MICRO,
    replace(MICRO, rows=16),
    replace(MICRO, rows=16, length=512),
    replace(MICRO, lora_rank=64),
    replace(MICRO, lora_dropout=0.0),
    replace(MICRO, peft_method="dora"),
    replace(MICRO, peft_method="ia3"),
    replace(MICRO, target_modules="attention"),
    replace(MICRO, adapted_layers="upper_half"),
    replace(MICRO, full=True),
    replace(MICRO, checkpointing=True),
    replace(MICRO, dtype=HALF),
    replace(MICRO, dtype=HALF, peft_method="dora"),
    replace(MICRO, dtype=HALF, peft_method="ia3"),
    replace(MICRO, dtype=HALF, checkpointing=True),
    SMOLLM2,
    replace(SMOLLM2, rows=1, length=512),
    replace(SMOLLM2, peft_method="dora"),
    replace(SMOLLM2, peft_method="ia3"),
    replace(SMOLLM2, full=True),
    replace(SMOLLM2, checkpointing=True),
    replace(SMOLLM2, dtype=HALF),
    replace(SMOLLM2, dtype=HALF, checkpointing=True),
    WIDE,
    replace(WIDE, peft_method="dora"),
    replace(WIDE, checkpointing=True),
)
CUDA_CASES = (
    FULL,
    replace(FULL, full=True),
    replace(FULL, rows=8, lora_dropout=0.0),
    replace(FULL, peft_method="ia3"),
    replace(FULL, rows=2, peft_method="dora"),
    replace(FULL, rows=16, checkpointing=True),
    replace(FULL, rows=1, length=4096),  # longer than the sliding window
    replace(FULL, rows=4, length=4096, checkpointing=True),
)


def main(
    out: Annotated[Path, typer.Option(help="The results; the report stands beside them.")] = Path(
        "docs/reports/plan.json"
    ),
    repetitions: Annotated[int, typer.Option(min=1, help="How often each case is measured.")] = 2,
) -> None:
    """Measures what is missing and writes the report."""
    import torch

    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"cases": {}}
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        for case in (*CPU_CASES, *(CUDA_CASES if cuda else ())):
            if name_of(case) in results["cases"] or not _is_here(case):
                continue
            sys.stderr.write(f"{name_of(case)}\n")
            results["cases"][name_of(case)] = _measured(case, _on_disk(case, Path(scratch)), repetitions)
            if case.device == "cpu":
                results["machine"] = f"{results['cases'][name_of(case)]['device']}, {os.cpu_count()} cores"
            write_json(out, results)
    results["cases"] = {name: _modelled(one) for name, one in results["cases"].items()}
    results["earlier"] = list(_earlier(out.with_name("gpu.json")))
    write_json(out, results)
    write_text(out.with_suffix(".md"), page(results, waiting=0 if cuda else len(CUDA_CASES)))
    sys.stdout.write(f"{out.with_suffix('.md')}\n")


def name_of(case: Case) -> str:
    """What tells cases apart, in words."""
    usual = Case("", 0, 0, 0)
    words = [f"{case.rows} x {case.length}", case.peft_method]
    if case.peft_method != "ia3":
        words += [f"rank {case.lora_rank}"] if case.lora_rank != usual.lora_rank else []
        words += ["no dropout"] if not case.lora_dropout else []
    words += [case.target_modules] if case.target_modules != usual.target_modules else []
    words += [case.adapted_layers.replace("_", " ")] if case.adapted_layers != usual.adapted_layers else []
    words += ["loss on all" if case.full else f"{case.answer} labels a row"]
    words += ["checkpointing"] if case.checkpointing else []
    return f"{case.base_model}, {case.dtype}, {case.device}: {', '.join(words)}"


def setting_of(case: Case) -> Setting:
    return Setting(
        case.rows,
        case.length,
        case.labels,
        checkpointing=case.checkpointing,
        dtype=case.dtype,
        device_type="cuda" if case.device != "cpu" else "cpu",
    )


def _is_here(case: Case) -> bool:
    return case.base_model in (TWO_BLOCKS, PHI3_MINI) or local_folder(case.base_model) is not None


def _on_disk(case: Case, scratch: Path) -> Case:
    """The case with a folder of random weights in the place of what is only an architecture."""
    layers = {TWO_BLOCKS: 2, PHI3_MINI: None}
    if case.base_model not in layers:
        return case
    folder = scratch / case.base_model.replace("/", "-")
    if not folder.is_dir():
        random_phi3_mini(folder, layers[case.base_model], case.device)
    return replace(case, base_model=str(folder))


def _measured(case: Case, on_disk: Case, repetitions: int) -> dict[str, Any]:
    at_rest = _at_rest_gb(case)
    found = [in_a_process(on_disk, give_back=case.device == "cpu") for _ in range(repetitions)]
    libraries = [one["idle_gb"] - at_rest if case.device == "cpu" else 0.0 for one in found]
    result = {
        "case": asdict(case),
        "measured_gb": [round(one["peak_gb"] - library, 4) for one, library in zip(found, libraries, strict=True)],
        "libraries_gb": [round(value, 3) for value in libraries],
        "outside_torch_gb": found[0]["outside_gb"],
        "device": found[0]["device"],
        "versions": found[0]["libraries"],
    }
    if case.device == "cpu":  # and as the process is without our setting, which makes it slower
        found = [in_a_process(on_disk, give_back=False)]
        result["usual_peak_gb"] = round(found[0]["peak_gb"] - libraries[0], 4)
    return result | {"step_s": [round(one["step_s"], 3) for one in found]}


def _modelled(measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a case, and what the planner says of it now."""
    case = Case(**measured["case"])
    shape, setting = _shape(case), setting_of(case)
    model = memory(shape, case.pipeline, setting)
    mean, at_rest, total = sum(measured["measured_gb"]) / len(measured["measured_gb"]), _at_rest_gb(case), model.total
    load = Load(MICRO_BATCHES * case.rows, case.length, case.labels / case.rows)
    hardware = profile_of(measured["device"])
    known = hardware is not None and (case.device != "cpu" or case.dtype == "float32")  # cores are known in float32
    return measured | {
        "model_gb": {name: round(value / GB, 4) for name, value in asdict(model).items()},
        "error": round(total / GB / mean - 1, 4),
        "step_error": round((total / GB - at_rest) / (mean - at_rest) - 1, 4),
        "forward_pass": "ours" if is_lean(shape, setting) else "transformers'",
        "model_step_s": round(step_time(shape, case.pipeline, setting, load, hardware).step_s, 3)
        if known and hardware is not None
        else None,
    }


def _at_rest_gb(case: Case) -> float:
    """What is there between two steps: weights, adapter and the optimizer's moments."""
    shape = _shape(case)
    weights = shape.parameters * arithmetic(shape, setting_of(case)).width
    return (weights + (4 + 8) * trainable_parameters(shape, case.pipeline)) / GB


def _shape(case: Case) -> Decoder:
    return replace(decoder(PHI3_MINI), layers=2) if case.base_model == TWO_BLOCKS else decoder(case.base_model)


def _earlier(path: Path) -> Iterator[dict[str, Any]]:
    """The runs of `make bench-gpu`: the model's answer for the micro-batch that needs most, and the measured peak."""
    import numpy as np
    import torch

    from ftmeta.finetune.data import collate, fixed_subset, tokenize_task
    from ftmeta.models import load, resolve
    from ftmeta.tasks import load_task

    document = json.loads(path.read_text(encoding="utf-8"))
    tokenized = tokenize_task(load_task("world-facts"), load(resolve("phi3-micro"), "cpu"))
    rows = [tokenized.splits["train"][at] for at in fixed_subset(len(tokenized.splits["train"]), 512)]
    lengths = np.array([len(row) for row in rows])
    shape = decoder(PHI3_MINI)
    for name, run in document["cases"].items():
        if not name.startswith("phi3-mini, ") or run.get("tokens") != int(lengths.sum()):
            continue  # not a run, or one on other rows
        method, batch = name.removeprefix("phi3-mini, ").split(", batch ")
        best: tuple[float, Case] | None = None
        for indices in _batches_then(lengths, int(batch)):
            one = collate([rows[at] for at in indices], tokenized.pad_token, torch.device("cpu"))
            row_count, length = one.ids_BL.shape
            case = replace(FULL, rows=row_count, length=length, answer=0, peft_method=method)
            setting = Setting(row_count, length, len(one.targets_S))
            needed = memory(shape, case.pipeline, setting).total / GB
            best = max(best or (0.0, case), (needed, case), key=lambda pair: pair[0])
        assert best is not None
        yield {
            "run": name,
            "device": document["device"],
            "rows": best[1].rows,
            "length": best[1].length,
            "measured_gb": run["peak_memory_gb"],
            "model_gb": round(best[0], 2),
            "error": round(best[0] / run["peak_memory_gb"] - 1, 4),
        }


def _batches_then(lengths: Any, size: int) -> Iterator[Any]:
    """One epoch as the worker cut it when those runs were made: into chunks of 16 batches, sorted by length."""
    import numpy as np

    stream = np.random.default_rng(0).permutation(len(lengths))
    for begin in range(0, len(stream), size * 16):
        chunk = stream[begin : begin + size * 16]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        yield from (chunk[at : at + size] for at in range(0, len(chunk), size))


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
