"""Many adapters on one base: runs per hour of the vectorised worker against one run at a time.

`python -m jobs.bench_sweep` (`make bench-sweep`), or with `--device cuda`, where it takes at most eight minutes.

The same runs (LoRA and rsLoRA with other ranks, rates, batch sizes, dropout; a part of an epoch on a bundled task) by
our own worker one after the other, and by a cohort of 1, 4, 16 and 64 places, in turns in one process that has the base
model and the tokens in memory. Out: docs/reports/sweep-throughput.json after each case, and the page beside it. Against
one process of trl a run: `make bench-collection`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from ftmeta.errors import MissingDependencyError, ModelError
from ftmeta.files import write_json, write_text
from ftmeta.finetune import finetune, tokenize_task
from ftmeta.finetune.data import TokenizedTask
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.vectorized import Cohort
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.schema import Budget, Pipeline, RunSpec
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task

PLACES = (1, 4, 16, 64)
_COMMAND = "python -m jobs.bench_sweep"
_CHANGES = {
    "lora_rank": (4, 16, 64),
    "lr_multiplier": (0.3, 1.0),
    "batch_size": (4, 16),
    "peft_method": ("lora", "rslora"),
    "lora_dropout": (0.0, 0.1),
}


def main(
    out: Annotated[Path, typer.Option(help="The results, as JSON; the page lies beside it.")] = Path(
        "docs/reports/sweep-throughput.json"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    base_model: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    task: str = "world-facts",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    limit_s: Annotated[float, typer.Option(help="No case is started after this many seconds.")] = 420,
) -> None:
    """Measures, writing after each case."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here; run this on a machine with one")
    torch.set_num_threads(1)
    began = time.monotonic()
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"cases": {}}
    models = base_model or (["phi3-micro"] if device == "cpu" else ["phi3-micro", "smollm2-135m"])
    for name in models:
        try:
            base = load(resolve(name), device, "float32")
            tokenized = tokenize_task(load_task(task), base)
        except ModelError as error:
            sys.stderr.write(f"{name}: {error}\n")
            continue
        for number in range(rounds):
            for places in (None, *PLACES):
                if time.monotonic() - began > limit_s:
                    sys.stderr.write("no time left\n")
                    break
                result = _measured(base, tokenized, places, device)
                key = f"{name} on {device_name(base.device)}"
                cases = found["cases"].setdefault(key, {"task": task, "device": device, "sides": {}})
                side = "one at a time" if places is None else f"{places} places"
                cases["sides"].setdefault(side, []).append(result)
                sys.stderr.write(f"[{time.monotonic() - began:4.0f} s] round {number + 1}, {key}, {side}: {result}\n")
                found["command"], found["cores"] = _COMMAND, os.cpu_count()
                write_json(out, found)
                write_text(out.with_suffix(".md"), page(found))


def _specs(base: LoadedModel, tokenized: TokenizedTask, count: int, budget: Budget) -> list[RunSpec]:
    space = load_space("lora-v1")
    plain = load_pipeline("strong-default", space)
    drawn = itertools.islice(itertools.cycle(itertools.product(*_CHANGES.values())), count)
    pipelines = [Pipeline(space.name, {**plain.values, **dict(zip(_CHANGES, values, strict=True))}) for values in drawn]
    named = (tokenized.task.name, tokenized.task.fingerprint, base.info.name, base.info.fingerprint)
    return [RunSpec(*named, pipeline, seed, budget) for seed, pipeline in enumerate(pipelines)]


def _measured(base: LoadedModel, tokenized: TokenizedTask, places: int | None, device: str) -> dict[str, float]:
    """Runs per hour and training tokens per second of wall time, evaluation included."""
    count = 24 if device == "cpu" else 128
    budget = Budget(epochs=0.25, max_fidelity=2, eval_examples=64)
    specs = _specs(base, tokenized, count, budget)
    run: Callable[[Sequence[RunSpec]], int]

    def one_at_a_time(specs: Sequence[RunSpec]) -> int:
        tokens = 0
        for spec in specs:
            with finetune(
                spec.pipeline, tokenized.task, base, spec.seed, budget=spec.budget, tokenized=tokenized
            ) as run:
                tokens += list(run)[-1].tokens
        return tokens

    def together(specs: Sequence[RunSpec]) -> int:
        cohort, waiting, tokens = Cohort(base, places or 1, generate=False), list(specs), 0
        while waiting or cohort.is_busy:
            while waiting and cohort.free:
                cohort.open(waiting.pop(0), tokenized)
            tokens += sum(event.ended.curve[-1].tokens for event in cohort.tick() if event.ended is not None)
        return tokens

    run = one_at_a_time if places is None else together
    run(specs[: places or 1])  # warm
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began, cpu_began = time.perf_counter(), time.process_time()
    tokens = run(specs)
    if device == "cuda":
        torch.cuda.synchronize()
    took_s = time.perf_counter() - began
    busy_s = took_s if device == "cuda" else time.process_time() - cpu_began
    memory = {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {}
    return {
        "runs_per_hour": 3600 * count / took_s,
        "tokens_per_s": tokens / took_s,
        "device_s_per_run": busy_s / count,
        **memory,
    }


def page(found: dict[str, Any]) -> str:
    """The report, from what `main` wrote."""
    parts = [
        "# Throughput of sweeps: many adapters on one base",
        f"`{found['command']}` (`make bench-sweep`). The same runs, in turns: by our worker one at a time, and by the "
        "vectorised worker (ftmeta/finetune/vectorized.py) with so many places. Medians of the rounds, smallest and "
        "largest beside them; runs per hour of one process, evaluation included. Device-seconds are CPU-seconds on a "
        "CPU, which other load moves less than wall time.",
    ]
    for name, case in found["cases"].items():
        alone = median(one["device_s_per_run"] for one in case["sides"]["one at a time"])
        rows = [
            f"## {name}, {case['task']}",
            "| | runs/h | training tokens/s | device-seconds a run | against one at a time |\n|---|---|---|---|---|",
        ]
        lines = []
        for side, results in case["sides"].items():
            cells = [_spread([one[key] for one in results], digits) for key, digits in _COLUMNS]
            ratio = alone / median(one["device_s_per_run"] for one in results)
            lines.append(f"| {side} | " + " | ".join([*cells, f"{ratio:.2f} x"]) + " |")
        parts += [rows[0], rows[1] + "\n" + "\n".join(lines)]
    if not any(case["device"] == "cuda" for case in found["cases"].values()):
        parts.append(
            "On a GPU nothing is measured yet: the products of the adapters are computed one after the other, so a "
            "cohort saves what the base model's layers cost to launch, and not yet what the adapters' do. "
            f"`{_COMMAND} --device cuda` measures it."
        )
    return "\n\n".join(parts) + "\n"


_COLUMNS = (("runs_per_hour", 0), ("tokens_per_s", 0), ("device_s_per_run", 2))


def _spread(values: Sequence[float], digits: int) -> str:
    low, mid, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{mid} ({low} to {high})"


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
