"""Our sweep against one process of trl's SFTTrainer a run, on the same cores: `python -m jobs.bench_collection trl`.

In: how many runs, and their budget. Out: the wall time of each side, from the first command to the last exit, and runs
per hour. The same pipelines (the strong default with other learning rates, ranks and batch sizes) on the same tasks,
base model, token lists and epochs; both score the same validation and test examples before training and at each of ten
fidelities.

Ours: `python -m jobs.collect` with a slot a core, Ray's start included. It also generates answers at the end of each
run, which the other side does not.
Theirs: a process a run, as many at a time as there are cores, one thread each, which is faster than one after the other
with all threads. Each imports, loads, tokenises, trains and evaluates, with SFTTrainer's activation checkpointing off,
because it costs time and the memory is not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftmeta.orchestrate.sweep import load_sweep, make_plan
from ftmeta.schema import Pipeline, RunSpec
from jobs.measuring import in_a_process
from jobs.trl_terms import sft_arguments, sft_dataset

if TYPE_CHECKING:
    from ftmeta.finetune.data import Tokens

TASKS = ("elements", "world-facts")
CHANGES = {"lr_multiplier": (0.3, 1.0, 3.0), "lora_rank": (4, 16), "batch_size": (8, 16)}
TARGET = 4.0


@dataclass(frozen=True)
class Setup:
    runs: int = 24
    slots: int = 2
    epochs: float = 1.0
    fidelities: int = 10
    eval_examples: int = 128


@dataclass(frozen=True)
class TrlRun:
    """What the process of one run gets."""

    base_model: str
    task: str
    values: dict[str, Any]
    seed: int
    epochs: float
    fidelities: int
    eval_examples: int
    device: str = "cpu"


def measure(setup: Setup) -> dict[str, Any]:
    """Ours, then theirs."""
    with tempfile.TemporaryDirectory(prefix="ftmeta-trl-") as folder:
        sweep = _sweep_file(Path(folder), setup)
        specs = make_plan(load_sweep(sweep)).runs
        load = [os.getloadavg()[0]]
        ours = _ours(sweep, Path(folder) / "out")
        load.append(os.getloadavg()[0])
        theirs = _theirs(specs, setup)
        load.append(os.getloadavg()[0])
    per_hour = {name: 3600 * len(specs) / side["wall_s"] for name, side in (("ours", ours), ("trl", theirs))}
    return {
        "setup": asdict(setup),
        "runs": len(specs),
        "ours": ours,
        "trl": theirs,
        "runs_per_hour": per_hour,
        "ratio": per_hour["ours"] / per_hour["trl"],
        "load": load,
    }


def _sweep_file(folder: Path, setup: Setup) -> Path:
    changed = [dict(zip(CHANGES, values, strict=True)) for values in product(*CHANGES.values())]
    document = {
        "name": "against-trl",
        "tasks": list(TASKS),
        "base_model": "phi3-micro",
        "pipelines": {
            "include": [{"like": "strong-default", "but": but} for but in changed[: setup.runs // len(TASKS)]]
        },
        "budget": {"epochs": setup.epochs, "max_fidelity": setup.fidelities, "eval_examples": setup.eval_examples},
        "slots": setup.slots,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _ours(sweep: Path, out: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "jobs.collect", "--config", str(sweep), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    wall_s = time.perf_counter() - began_s
    if done.returncode:
        raise RuntimeError(f"our sweep ended with {done.returncode}: {done.stderr[-2000:]}")
    summary = json.loads(done.stdout)
    if summary["statuses"] != {"ok": summary["planned"]}:
        raise RuntimeError(f"of our runs not all went well: {summary['statuses']}")
    return {
        "wall_s": wall_s,
        "busy_s": summary["busy_s"],
        "slot_efficiency": summary["slot_efficiency"],
        "validation_nll": _our_losses(out),
    }


def _our_losses(out: Path) -> list[float]:
    from ftmeta.metadataset import read

    curves = read(out).curves
    return sorted(curves[curves["fidelity"] == curves["fidelity"].max()]["val_nll"].tolist())


def _theirs(specs: Sequence[RunSpec], setup: Setup) -> dict[str, Any]:
    from ftmeta.models import resolve

    runs = [
        TrlRun(
            resolve(spec.base_model).name,
            spec.task,
            dict(spec.pipeline.values),
            spec.seed,
            setup.epochs,
            setup.fidelities,
            setup.eval_examples,
        )
        for spec in specs
    ]
    began_s = time.perf_counter()
    with ThreadPoolExecutor(setup.slots) as pool:
        done = list(pool.map(in_its_process, runs))
    wall_s = time.perf_counter() - began_s
    return {
        "wall_s": wall_s,
        "trainer_s": sum(one["trainer_s"] for one in done),
        "evaluations": done[0]["evaluations"],
        "validation_nll": sorted(one["validation_nll"] for one in done),
    }


def in_its_process(run: TrlRun) -> dict[str, Any]:
    """What `sft` says of the run."""
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return in_a_process("jobs.bench_collection_trl", json.dumps(asdict(run)), environment=environment)


def sft(run: TrlRun) -> dict[str, Any]:
    """What a script with trl does: load, tokenise, train, evaluate."""
    import datasets
    import torch
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    from ftmeta.finetune import tokenize_task
    from ftmeta.finetune.adapters import adapter_config
    from ftmeta.finetune.settings import settings_of
    from ftmeta.models import load, resolve
    from ftmeta.tasks import load_task

    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    base, values = load(resolve(run.base_model)), run.values
    splits = tokenize_task(load_task(run.task), base).splits
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            **sft_arguments(values, base.info.reference_lr),
            seed=run.seed,
            per_device_eval_batch_size=64,
            num_train_epochs=run.epochs,
            activation_checkpointing=False,
            eval_strategy="steps",
            eval_steps=1 / run.fidelities,  # a share of all steps
            eval_on_start=True,
            use_cpu=run.device == "cpu",
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            base.model,
            args=arguments,
            train_dataset=_rows(splits["train"], None),
            eval_dataset={
                "validation": _rows(splits["validation"], run.eval_examples),
                "test": _rows(splits["test"], run.eval_examples),
            },
            processing_class=base.tokenizer,
            peft_config=adapter_config(settings_of(Pipeline("lora-v1", values)), base.model.config),
        )
        trainer.remove_callback(PrinterCallback)
        began_s = time.perf_counter()
        trainer.train()
        trainer_s = time.perf_counter() - began_s
    scores = [entry for entry in trainer.state.log_history if "eval_validation_loss" in entry]
    tested = [entry for entry in trainer.state.log_history if "eval_test_loss" in entry]
    return {
        "trainer_s": trainer_s,
        "evaluations": len(scores) + len(tested),
        "validation_nll": scores[-1]["eval_validation_loss"],
    }


def _rows(tokens: Sequence[Tokens], most: int | None) -> Any:
    """The examples as trl takes them; `most`: the same fixed subset that our worker scores."""
    from ftmeta.finetune.data import fixed_subset

    return sft_dataset(tokens[index] for index in fixed_subset(len(tokens), most))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(sft(TrlRun(**json.loads(sys.argv[1])))) + "\n")
