"""How long a two-worker trainer takes to start: `python -m jobs.bench_startup`, a part of `make bench-finetune`.

From the call to the first point of the curve (workers placed and joined, model loaded, DeepSpeed ready, zero-shot
measured), on Ray of this process alone, which is started before. The first trainer of a cluster is stated apart from
the later ones: it starts Ray Train's own actors too.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from ftmeta.files import write_json
from ftmeta.finetune.provenance import device_name
from ftmeta.models import resolve
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.room import Workers
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.orchestrate.train import train
from ftmeta.schema import Budget, RunSpec
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task


def main(
    out: Annotated[Path, typer.Option(help="The result, as JSON.")] = Path("docs/reports/finetune-startup.json"),
    repeats: Annotated[int, typer.Option(min=2)] = 4,
) -> None:
    """Measures and writes the file."""
    task, info = load_task("elements"), resolve("phi3-micro")
    pipeline = load_pipeline("strong-default", load_space("lora-v1"))
    budget = Budget(epochs=0.1, max_fidelity=1, max_train_examples=64, eval_examples=8)
    to_first_point_s: list[float] = []
    with connected(), tempfile.TemporaryDirectory() as folder:
        for seed in range(repeats):
            spec = RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, pipeline, seed, budget)
            began = time.monotonic()
            points: list[float] = []
            train(
                spec,
                task,
                "phi3-micro",
                Path(folder) / str(seed),
                Workers(2),
                on_point=lambda point, points=points: points.append(time.monotonic()),  # type: ignore[misc]
            )
            to_first_point_s.append(points[0] - began)
    write_json(
        out,
        {
            "command": "python -m jobs.bench_startup",
            "hardware": f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores",
            "target_s": 25,
            "first_s": to_first_point_s[0],
            "later_s": {
                "median": median(to_first_point_s[1:]),
                "min": min(to_first_point_s[1:]),
                "max": max(to_first_point_s[1:]),
            },
            "repeats": repeats,
        },
    )


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
