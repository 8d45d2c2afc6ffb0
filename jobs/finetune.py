"""One pipeline on one task as a job: `python -m jobs.finetune --config jobs/configs/finetune-smoke.yaml [--out DIR]`.

In: a YAML file with `data`, and if wanted `pipeline`, `base_model`, `seed`, `fidelity`, `budget` and `cpus`. Out: the
folder DIR with the adapter, the pipeline and `run.json`, a run in MLflow, and the document of `ftmeta finetune --json`
on standard output. DIR is an absolute path that every node sees, and new; without one it is a folder of the run's task
and id under `finetune/` in the state folder of the cluster, where the same run submitted again replaces it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ftmeta.costs import usd_of
from ftmeta.errors import FtmetaError
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.execution import connected
from ftmeta.orchestrate.shell import exit_codes, results_folder
from ftmeta.orchestrate.sweep import BudgetChanges
from ftmeta.schema import BaseModelInfo, CurvePoint, RunResult, RunRow, RunSpec
from ftmeta.tracking import tracker


class Finetune(BaseModel):
    """The content of the YAML file; names mean what they mean in `ftmeta finetune`."""

    model_config = ConfigDict(extra="forbid")
    data: str
    space: str = "lora-v1"
    pipeline: str = "strong-default"
    base_model: str = "phi3-micro"
    seed: int = 0
    fidelity: int | None = Field(default=None, ge=1)
    budget: BudgetChanges = BudgetChanges()
    cpus: int = Field(default=1, ge=1)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 for a run that ended well, 1 for one that diverged, ran out of memory or failed."""
    parser = argparse.ArgumentParser(prog="python -m jobs.finetune", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML, as jobs/configs/finetune-smoke.yaml")
    parser.add_argument("--out", type=Path, help="a new folder for the adapter; default: in the state folder")
    parser.add_argument("--tracking-uri", help="where MLflow keeps the run; default: $MLFLOW_TRACKING_URI, else off")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own words belong
        document = run(
            load_config(chosen.config, Finetune),
            chosen.out,
            chosen.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"),
        )
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0 if document["status"] in ("ok", "stopped") else 1


def run(config: Finetune, out: Path | None, tracking_uri: str | None) -> dict[str, Any]:
    """Finetunes on a node of the cluster that has room, reports to MLflow, and returns the document."""
    from ftmeta.finetune.single import finetune_to_folder
    from ftmeta.models import resolve
    from ftmeta.space import load_pipeline, load_space
    from ftmeta.tasks import load_task

    space = load_space(config.space)
    budget = space.budget(**config.budget.model_dump(exclude_none=True))
    pipeline, task, info = load_pipeline(config.pipeline, space), load_task(config.data), resolve(config.base_model)
    spec = RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, pipeline, config.seed, budget)
    folder = results_folder(out, f"finetune/{task.name}-{spec.run_id}")
    tracked = tracker(tracking_uri, "finetune", usd=usd_of).single()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with connected():
        import ray
        from ray.exceptions import RayTaskError

        on_a_node: Any = ray.remote(num_cpus=config.cpus)
        place = {"out": folder, "replace": out is None}  # the default folder is of this very run
        options = {"budget": budget, **place, "until": config.fidelity, "threads": config.cpus}
        try:
            document = ray.get(on_a_node(finetune_to_folder).remote(pipeline, task, info, config.seed, **options))
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, FtmetaError) else error from None
    tracked.log(_result(document, spec, info, started_at))
    tracked.close("ok", {})
    return document


def _result(document: dict[str, Any], spec: RunSpec, info: BaseModelInfo, started_at: str) -> RunResult:
    curve = tuple(
        CurvePoint(**{name: value for name, value in point.items() if name != "nll"}) for point in document["curve"]
    )
    test = document["test"] or {}
    same = ("run_id", "status", "error", "cost_s", "wall_s", "peak_memory_gb", "device", "code_version", "libraries")
    row = RunRow(
        **{name: document[name] for name in same},
        task=spec.task,
        base_model=info.name,
        seed=spec.seed,
        max_fidelity=spec.budget.max_fidelity,
        fidelity=curve[-1].fidelity if curve else 0,
        task_fingerprint=spec.task_fingerprint,
        base_model_fingerprint=info.fingerprint,
        space=spec.pipeline.space,
        started_at=started_at,
        pipeline=spec.pipeline,
        generation={name: test[name] for name in ("exact_match", "f1", "rouge_l") if name in test} or None,
    )
    return RunResult(row, curve)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
