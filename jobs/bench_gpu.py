"""What waits for a CUDA device, in one command of a few minutes: `make bench-gpu`, or `python -m jobs.bench_gpu`.

1. the tests marked `gpu`; 2. a run of phi3-micro; 3. runs of the real Phi-3-mini architecture (3.8 B parameters, random
weights, bfloat16) through the same worker: tokens per second, FLOP utilisation, memory. Random weights say nothing
about scores, and everything about names, shapes, memory and speed. Results are appended to a JSON file after each case.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.errors import MissingDependencyError
from ftmeta.files import DATA, write_json
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.schema import Budget, Value

PHI3_MINI = "microsoft/Phi-3-mini-4k-instruct"
H100_BF16_FLOPS = 989e12  # dense, by the data sheet; utilisation is stated against it


def main(
    out: Annotated[Path, typer.Option(help="The results, as JSON.")] = Path("docs/reports/gpu.json"),
    limit_s: Annotated[float, typer.Option(help="No case is started after this many seconds.")] = 420,
) -> None:
    """Runs every case and writes its result at once."""
    import torch

    if not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here; run this on a machine with one")
    began = time.monotonic()
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "command": "python -m jobs.bench_gpu",
        "cases": {},
    }

    def record(name: str, result: dict[str, Any]) -> None:
        results["cases"][name] = result
        write_json(out, results)
        sys.stderr.write(f"[{time.monotonic() - began:5.0f} s] {name}: {json.dumps(result)}\n")

    record("tests marked gpu", _tests())
    record("phi3-micro, world-facts, strong-default", _run(None, "strong-default", Budget()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "phi3-mini-random"
        record("phi3-mini, written with random weights", random_phi3_mini(folder))
        short = Budget(epochs=1, max_fidelity=1, max_train_examples=512, eval_examples=64)
        for method, batch in (("lora", 16), ("lora", 64), ("dora", 16), ("ia3", 16)):
            if time.monotonic() - began > limit_s:
                sys.stderr.write(f"no time left for {method}, batch {batch}\n")
                continue
            record(f"phi3-mini, {method}, batch {batch}", _run(folder, method, short, batch))


def _tests() -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "-m", "gpu", "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(done.stdout[-4000:])
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return {"exit_code": done.returncode, "summary": last}


def random_phi3_mini(folder: Path, layers: int | None = None, device: str = "cuda") -> dict[str, Any]:
    """A folder with the full-size architecture (or its first `layers`), as `random_model` writes it."""
    from ftmeta.models.architectures import published_config

    facts = published_config(PHI3_MINI)
    return random_model(folder, facts | {"num_hidden_layers": layers or facts["num_hidden_layers"]}, device)


def random_model(folder: Path, facts: Mapping[str, Any], device: str = "cuda") -> dict[str, Any]:
    """A folder with a model of this configuration, initialised on the device, and phi3-micro's tokenizer."""
    import shutil

    import torch
    import transformers

    begin = time.perf_counter()
    special = {"bos_token_id": None, "eos_token_id": 4, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(**{**facts, **special})
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DATA / "models" / "phi3-micro" / name, folder / name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"parameters": parameters, "seconds": round(time.perf_counter() - begin, 1)}


def _run(folder: Path | None, pipeline_name: str, budget: Budget, batch: int | None = None) -> dict[str, Any]:
    """One run on world-facts; `pipeline_name` is a named pipeline, or a method for the strong default."""
    import torch

    from ftmeta.finetune import finetune
    from ftmeta.models import load, resolve
    from ftmeta.space import NAMED_PIPELINES, load_pipeline, load_space
    from ftmeta.tasks import load_task

    space = load_space("lora-v1")
    if pipeline_name in NAMED_PIPELINES:
        pipeline = load_pipeline(pipeline_name, space)
    else:
        values: dict[str, Value] = {**space.default().values, "peft_method": pipeline_name, "batch_size": batch or 16}
        chosen = {name: value for name, value in values.items() if space.is_active(name, values)}
        pipeline = space.validate(chosen)
    base = load(resolve("phi3-micro" if folder is None else str(folder)), "cuda")
    task = load_task("world-facts")
    begin = time.perf_counter()
    with finetune(pipeline, task, base, seed=0, budget=budget) as run:
        points = list(run)
        result = run.result().run
    last = points[-1] if points else None
    train_s = last.cost_train_s if last else 0.0
    rate = last.tokens / train_s if last and train_s else 0.0
    parameters = base.info.shape.parameters
    outcome = {
        "status": result.status,
        "error": result.error,
        "score": last.score if last else None,
        "tokens": last.tokens if last else 0,
        "steps": last.step if last else 0,
        "train_s": round(train_s, 2),
        "cost_s": round(result.cost_s, 2),
        "wall_s": round(time.perf_counter() - begin, 2),
        "tokens_per_s": round(rate),
        "flop_utilisation": round(4 * parameters * rate / H100_BF16_FLOPS, 4),  # 4 N a token: the base is frozen
        "peak_memory_gb": round(result.peak_memory_gb, 2),
    }
    del base
    torch.cuda.empty_cache()
    return outcome


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
