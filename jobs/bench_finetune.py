"""Our worker against trl's SFTTrainer: `make bench-finetune`, or `python -m jobs.bench_finetune`.

Tokens of real text per second (both sides in turns within one process), peak memory (each side in a fresh process) and
the losses at each step (same order, no dropout), for phi3-micro and, where it is installed, smollm2-135m. `--device
cuda` measures the Phi-3-mini architecture with random weights in bfloat16 instead. jobs/finetune_measure.py says what
is compared.

Out: docs/reports/finetune.json (finetune-cuda.json) after each measurement and docs/reports/finetune.md, which is made
of both and of what other commands wrote beside them (finetune-startup.json, finetune-faults.json). Exit code 1 if a
target is missed. What the JSON file has already is kept, so the command goes on where it was stopped; `--again`
measures everything anew, and `--page` only writes the report.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ftmeta.files import write_json, write_text
from ftmeta.models import local_folder
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.version import code_version
from jobs.bench_gpu import random_phi3_mini
from jobs.finetune_measure import SIDES, Setup, in_a_process
from jobs.finetune_page import page, verdicts

MICRO = Setup("phi3-micro", examples=512, repetitions=5)
SMOLLM2 = Setup("smollm2-135m", examples=64, repetitions=3)  # 4 steps
SPEED = (MICRO, SMOLLM2, replace(MICRO, threads=1, repetitions=2))
PHI3_MINI_SETUPS = tuple(
    Setup("", examples=768, batch_size=batch, repetitions=3, device="cuda", dtype="bfloat16") for batch in (16, 64, 256)
)


def main(
    out: Annotated[Path, typer.Option(help="The numbers; the report stands beside them.")] = Path(
        "docs/reports/finetune.json"
    ),
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What to measure on.")] = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Measure what was measured before, too.")] = False,
    page_only: Annotated[bool, typer.Option("--page", help="Measure nothing, write the report.")] = False,
) -> None:
    """Measures what is missing and writes the report."""
    if not page_only:
        numbers = out if device == "cpu" else beside(out, "cuda")
        (measure if device == "cpu" else measure_cuda)({} if again else read(numbers), numbers)
    results = read(out)
    write_text(out.with_suffix(".md"), page(results, sections_beside(out)))
    sys.stdout.write(f"{out.with_suffix('.md')}\n")
    raise typer.Exit(int(not all(verdicts(results))))


def read(numbers: Path) -> dict[str, Any]:
    """What was measured before."""
    return dict(json.loads(numbers.read_text(encoding="utf-8"))) if numbers.is_file() else {}


def measure(results: dict[str, Any], out: Path) -> None:
    """Fills in what `results` lacks, and writes it after each measurement."""
    record = functools.partial(_record, results, out)
    here = [setup for setup in SPEED if local_folder(setup.base_model) is not None]
    for setup in here:
        record("speed", setup, "speed")
    for setup in here:
        if setup.threads == 2:
            for side in SIDES:
                record("peak", setup, "peak", side)
            record("parity", setup, "parity")


def measure_cuda(results: dict[str, Any], out: Path) -> None:
    """The same for the Phi-3-mini architecture on a CUDA device."""
    with tempfile.TemporaryDirectory() as scratch:
        random_phi3_mini(Path(scratch) / "phi3-mini")
        for setup in PHI3_MINI_SETUPS:
            _record(results, out, "cases", replace(setup, base_model=str(Path(scratch) / "phi3-mini")), "speed")


def _record(results: dict[str, Any], out: Path, part: str, setup: Setup, *what: str) -> None:
    cases = results.setdefault(part, {})
    name = " ".join([name_of(setup), *what[1:]])
    if name not in cases:
        sys.stderr.write(f"{part}: {name}\n")
        cases[name] = {"setup": asdict(setup), "ftmeta": code_version(), **in_a_process(setup, *what)}
        results.update(_circumstances(setup.device))
        write_json(out, results)


def name_of(setup: Setup) -> str:
    model = setup.base_model if setup.device == "cpu" else "Phi-3-mini"
    return f"{model}, batch {setup.batch_size}, {setup.threads} thread{'s' * (setup.threads > 1)}"


def sections_beside(out: Path) -> dict[str, Any]:
    """What else was measured for the same report, by the name of the file's part: `startup`, `faults`, `cuda`."""
    files = {part: beside(out, part) for part in ("startup", "faults", "cuda")}
    return {part: json.loads(path.read_text(encoding="utf-8")) for part, path in files.items() if path.is_file()}


def beside(out: Path, part: str) -> Path:
    return out.with_name(f"{out.stem}-{part}.json")


def _circumstances(on: str) -> dict[str, Any]:
    import torch

    from ftmeta.finetune.provenance import device_name, library_versions

    device = torch.device(on)
    cpu = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores"
    return {
        "command": "python -m jobs.bench_finetune" + (" --device cuda" if on == "cuda" else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": cpu if device.type == "cpu" else f"{cpu}; {device_name(device)}",
        "vector_width": torch.backends.cpu.get_cpu_capability(),
        "versions": {**library_versions(), "trl": version("trl")},
    }


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
