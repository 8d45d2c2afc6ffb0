"""Many adapters on one base: runs per hour of the vectorised worker against one run at a time, and against trl.

`python -m jobs.bench_sweep` (`make bench-sweep`), or with `--device cuda`, where it takes at most eight minutes.

The same sixteen runs (LoRA and rsLoRA with other ranks, batch sizes, dropout; a part of an epoch on a bundled task), in
turns in one process that has the base model and the tokens in memory: by our worker one after the other, by cohorts of
1, 4 and 16 places, four times over by one of 64; and once a few of them by a process of trl's SFTTrainer each. Then,
apart from throughput, how long it takes to know the best of them when the worse half is stopped at each fidelity. On a
GPU smollm2-135m and Phi-3-mini are their architectures with random weights in bfloat16: that says nothing about scores,
and everything about speed. Out: docs/reports/sweep-throughput.json after each case, and the page beside it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from ftmeta.errors import MissingDependencyError
from ftmeta.files import write_json, write_text
from ftmeta.finetune import finetune, tokenize_task
from ftmeta.finetune.data import TokenizedTask
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.vectorized import Cohort
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.models.architectures import published_config
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.schema import Budget, Pipeline, RunSpec, Value
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task
from jobs.bench_collection_trl import TrlRun, in_its_process
from jobs.bench_gpu import PHI3_MINI, random_model
from jobs.bench_sweep_page import ALONE, TRL, page

_LIMIT_S = {"cpu": 1200.0, "cuda": 420.0}
_COMMAND = "python -m jobs.bench_sweep"
_TASK = "world-facts"
_EVAL_EXAMPLES = 64
_MIX = 16  # runs: every side makes all of these, or a multiple
_CHANGES: dict[str, tuple[Value, ...]] = {
    "batch_size": (4, 16),
    "lora_rank": (4, 16),
    "peft_method": ("lora", "rslora"),
    "lora_dropout": (0.0, 0.1),
}
# huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json
_SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Case:
    """`facts`: the configuration of a model with random weights; None: the bundled model of this name."""

    name: str
    dtype: str
    places: tuple[int, ...]
    epochs: float = 0.25
    facts: dict[str, Any] | None = None
    trl: int = 0  # processes of trl

    @property
    def budget(self) -> Budget:
        return Budget(epochs=self.epochs, max_fidelity=2, eval_examples=_EVAL_EXAMPLES)


_CASES = {
    "cpu": (Case("phi3-micro", "float32", places=(1, 4, 16, 64), trl=4),),
    "cuda": (
        Case("smollm2-135m", "bfloat16", places=(1, 4, 16, 64), facts=_SMOLLM2),
        Case("phi3-micro", "float32", places=(1, 4, 16, 64), trl=2),
        Case("phi3-mini", "bfloat16", places=(1, 4, 16), epochs=0.05, facts=published_config(PHI3_MINI)),
    ),
}


def main(
    out: Annotated[Path, typer.Option(help="The results, as JSON; the page lies beside it.")] = Path(
        "docs/reports/sweep-throughput.json"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    limit_s: Annotated[float | None, typer.Option(help="Nothing is begun after this many seconds.")] = None,
    beside: Annotated[str | None, typer.Option(help="What else the machine does meanwhile.")] = None,
) -> None:
    """Measures, writing after each side of each case."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here; run this on a machine with one")
    torch.set_num_threads(1)
    began, limit_s = time.monotonic(), limit_s or _LIMIT_S[device]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"cases": {}}
    cases = _CASES[device]
    for number, case in enumerate(cases, start=1):
        until = began + limit_s * number / len(cases)  # a slow case leaves the others their time
        with tempfile.TemporaryDirectory() as scratch:
            base = _loaded(case, device, Path(scratch))
            tokenized = tokenize_task(load_task(_TASK), base)
            key = f"{case.name} on {device_name(base.device)}"
            sides: dict[str, list[dict[str, float]]] = {}
            found["cases"][key] = {
                "task": _TASK,
                "device": device,
                "dtype": case.dtype,
                "beside": beside,
                "sides": sides,
            }
            for side, result in _results(case, base, tokenized, rounds, until):
                sides.setdefault(side, []).append(result)
                sys.stderr.write(f"[{time.monotonic() - began:4.0f} s] {key}, {side}: {result}\n")
                found["command"], found["cores"] = _COMMAND, os.cpu_count()
                write_json(out, found)
                write_text(out.with_suffix(".md"), page(found))
            del base


def _loaded(case: Case, device: str, scratch: Path) -> LoadedModel:
    if case.facts is None:
        return load(resolve(case.name), device, case.dtype)
    random_model(scratch / case.name, case.facts, device)
    return load(resolve(str(scratch / case.name)), device, case.dtype)


def _results(
    case: Case, base: LoadedModel, tokenized: TokenizedTask, rounds: int, until: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """The sides in turns, as long as there is time: what is measured of each, once a round."""

    def sides() -> Iterator[tuple[str, dict[str, float]]]:
        for number in range(rounds):
            yield ALONE, _alone(case, base, tokenized)
            for places in case.places:
                yield f"{places} places", _together(case, base, tokenized, places)
            if number == 0 and case.trl:
                yield TRL, _trl(case, base)
            if number == 0:
                most = 16 if base.device.type == "cpu" else case.places[-1]
                yield f"{most} places, all to the end", _decided(case, base, tokenized, most, stop=False)
                yield f"{most} places, the worse half stopped", _decided(case, base, tokenized, most, stop=True)

    for result in sides():
        yield result
        if time.monotonic() > until:
            sys.stderr.write(f"{case.name}: no time left\n")
            return


def _specs(base: LoadedModel, tokenized: TokenizedTask, count: int, budget: Budget) -> list[RunSpec]:
    space = load_space("lora-v1")
    plain = load_pipeline("strong-default", space)
    drawn = itertools.islice(itertools.cycle(itertools.product(*_CHANGES.values())), count)
    pipelines = [Pipeline(space.name, {**plain.values, **dict(zip(_CHANGES, values, strict=True))}) for values in drawn]
    named = (tokenized.task.name, tokenized.task.fingerprint, base.info.name, base.info.fingerprint)
    return [RunSpec(*named, pipeline, seed, budget) for seed, pipeline in enumerate(pipelines)]


class _Watch:
    """Wall and device time of a block, and its peak of device memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> _Watch:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.wall_s = time.perf_counter() - self._began
        self.device_s = self.wall_s if self._device.type == "cuda" else time.process_time() - self._cpu_began

    def said(self, runs: int, tokens: int) -> dict[str, float]:
        is_cuda = self._device.type == "cuda"
        memory = {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9} if is_cuda else {}
        rates = {"runs_per_hour": 3600 * runs / self.wall_s, "tokens_per_s": tokens / self.wall_s}
        return {"runs": runs, **rates, "device_s_per_run": self.device_s / runs, **memory}


def _alone(case: Case, base: LoadedModel, tokenized: TokenizedTask) -> dict[str, float]:
    specs, tokens = _specs(base, tokenized, _MIX, case.budget), 0
    with _Watch(base.device) as watch:
        for spec in specs:
            with finetune(
                spec.pipeline, tokenized.task, base, spec.seed, budget=spec.budget, tokenized=tokenized
            ) as run:
                tokens += list(run)[-1].tokens
    return watch.said(len(specs), tokens)


def _together(case: Case, base: LoadedModel, tokenized: TokenizedTask, places: int) -> dict[str, float]:
    specs = _specs(base, tokenized, max(_MIX, places), case.budget)
    waiting, tokens, cohort = list(specs), 0, Cohort(base, places, generate=False)
    with _Watch(base.device) as watch:
        while waiting or cohort.is_busy:
            while waiting and cohort.free:
                cohort.open(waiting.pop(0), tokenized)
            tokens += sum(event.ended.curve[-1].tokens for event in cohort.tick() if event.ended is not None)
    return {**watch.said(len(specs), tokens), "padding": cohort.padding.share}


def _trl(case: Case, base: LoadedModel) -> dict[str, float]:
    """One process after the other, so that each has the device for itself, as a run of ours has."""
    tokenized = tokenize_task(load_task(_TASK), base)
    specs = _specs(base, tokenized, case.trl, case.budget)
    began = time.perf_counter()
    for spec in specs:
        in_its_process(
            TrlRun(
                *(case.name, _TASK, dict(spec.pipeline.values), spec.seed),
                epochs=case.budget.epochs,
                fidelities=case.budget.max_fidelity,
                eval_examples=_EVAL_EXAMPLES,
                device=base.device.type,
            )
        )
    return {"runs": len(specs), "runs_per_hour": 3600 * len(specs) / (time.perf_counter() - began)}


def _decided(case: Case, base: LoadedModel, tokenized: TokenizedTask, places: int, *, stop: bool) -> dict[str, float]:
    """Seconds until the best of the runs is known. With `stop` a run ends at a fidelity at which it is worse than the
    median of those seen there so far (the median rule of Google Vizier, Golovin et al. 2017)."""
    budget = Budget(epochs=2 * case.epochs, max_fidelity=4, eval_examples=_EVAL_EXAMPLES)
    specs = _specs(base, tokenized, places, budget)
    waiting, seen, cohort = list(specs), dict[int, list[float]](), Cohort(base, places, generate=False)
    with _Watch(base.device) as watch:
        while waiting or cohort.is_busy:
            while waiting and cohort.free:
                cohort.open(waiting.pop(0), tokenized)
            for event in cohort.tick():
                if event.point is None or event.point.val_nll is None or event.point.fidelity == 0:
                    continue
                at = seen.setdefault(event.point.fidelity, [])
                at.append(event.point.val_nll)
                is_open = event.slot not in cohort.free and event.point.fidelity < budget.max_fidelity
                if stop and is_open and event.point.val_nll > median(at):
                    cohort.close(event.slot)
    last = seen[budget.max_fidelity]
    return {"decision_s": watch.wall_s, "device_s": watch.device_s, "runs": len(specs), "best_val_nll": min(last)}


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
