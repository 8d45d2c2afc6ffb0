"""One pipeline on one task as a job: `python -m jobs.finetune --config jobs/configs/finetune-smoke.yaml [--out DIR]`.

In: a YAML file with `data`, and if wanted `pipeline`, `base_model`, `seed`, `fidelity`, `budget`; and how it is run:
`workers` (Ray Train with DeepSpeed on so many workers; left out: one process on a node with `cpus` cores and, with
`gpus: 1`, a GPU), `gpus_per_worker`, `cpus_per_worker`, `zero`, `micro_batch_tokens`, `activation_checkpointing`.
Out: the folder DIR with the adapter, the pipeline and `run.json`, a run in MLflow, and the document of `ftmeta finetune
--json` on standard output. DIR is an absolute path that every node sees, and new; without one it is a folder of the
run's task and id under `finetune/` in the state folder of the cluster, where the same run submitted again replaces it.

A job with `workers` that was stopped or killed goes on when it is submitted again: DIR.unfinished has its checkpoints.
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
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.files import require_new
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.shell import exit_codes, results_folder
from ftmeta.orchestrate.sweep import BudgetChanges
from ftmeta.schema import BaseModelInfo, RunSpec, Task
from ftmeta.tracking.works import log_finetuning

if TYPE_CHECKING:
    from ftmeta.finetune.engine import Execution


class Finetune(BaseModel):
    """The content of the YAML file; names mean what they mean in `ftmeta finetune`."""

    model_config = ConfigDict(extra="forbid")
    data: str
    space: str = "lora-v1"
    pipeline: str = "strong-default"
    base_model: str = "phi3-micro"
    seed: int = Field(default=0, ge=0, strict=True)
    fidelity: int | None = Field(default=None, ge=1, strict=True)
    budget: BudgetChanges = BudgetChanges()
    cpus: int = Field(default=1, ge=1, strict=True)
    gpus: Literal[0, 1] = 0
    workers: int | None = Field(default=None, ge=1, strict=True)
    gpus_per_worker: Literal[0, 1] = 0
    cpus_per_worker: float = Field(default=1, gt=0)
    min_workers: int | None = Field(default=None, ge=1)  # after a failure the run goes on with as few as these
    placement: Literal["PACK", "SPREAD"] = "PACK"
    zero: Literal[0, 2, 3] = 2
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    activation_checkpointing: bool = False
    wait_s: float = Field(default=60, gt=0)  # for nodes to come, before the run is given up
    checkpoint_interval_s: float = Field(default=300, gt=0)  # and at each fidelity

    @model_validator(mode="after")
    def _fits_together(self) -> Finetune:
        of_workers = {"gpus_per_worker", "cpus_per_worker", "min_workers", "placement", "zero"}
        given = sorted(of_workers & self.model_fields_set)
        if self.workers is None and given:
            raise ValueError(f"{given[0]} belongs to a run on several workers; give workers too")
        of_one = sorted({"cpus", "gpus"} & self.model_fields_set)
        if self.workers is not None and of_one:
            raise ValueError(f"{of_one[0]} belongs to a run in one process; with workers give {of_one[0]}_per_worker")
        if self.workers is not None and self.workers < (self.min_workers or 1):
            raise ValueError(f"min_workers is {self.min_workers}, more than the {self.workers} workers")
        return self


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 for a run that left an adapter; 1 for one that diverged, ran out of memory, failed, or
    was stopped on the way."""
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
    return 0 if document["adapter"] is not None else 1


def run(config: Finetune, out: Path | None, tracking_uri: str | None) -> dict[str, Any]:
    """Finetunes on a node of the cluster that has room, reports to MLflow, and returns the document."""
    from ftmeta.finetune.single import result_of
    from ftmeta.models import resolve
    from ftmeta.space import load_pipeline, load_space
    from ftmeta.tasks import load_task

    space = load_space(config.space)
    budget = space.budget(**config.budget.model_dump(exclude_none=True))
    if config.fidelity is not None and config.fidelity > budget.max_fidelity:
        raise ConfigError(f"fidelity is {config.fidelity}; a run ends at {budget.max_fidelity}, so give at most that")
    pipeline, task, info = load_pipeline(config.pipeline, space), load_task(config.data), resolve(config.base_model)
    spec = RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, pipeline, config.seed, budget)
    folder = results_folder(out, f"finetune/{task.name}-{spec.run_id}")
    require_new(folder, replace=out is None)  # before Ray is started for nothing; the default folder is of this run
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with connected():
        on_workers = _on_one_node if config.workers is None else _on_workers
        document = on_workers(config, spec, task, info, folder, replace=out is None)
    log_finetuning(result_of(document, spec, started_at), folder if document["adapter"] else None, uri=tracking_uri)
    return document


def _on_one_node(
    config: Finetune, spec: RunSpec, task: Task, info: BaseModelInfo, folder: Path, *, replace: bool
) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayTaskError

    from ftmeta.finetune.single import finetune_to_folder
    from ftmeta.orchestrate.room import Workers, require_room

    require_room(Workers(1, config.cpus, config.gpus, config.wait_s))  # Ray itself would wait for ever
    on_a_node: Any = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus)
    place = {"out": folder, "replace": replace}
    options = {"budget": spec.budget, **place, "until": config.fidelity, "threads": config.cpus}
    options |= {"device": "cuda" if config.gpus else "cpu", "execution": _execution(config)}
    try:
        return dict(ray.get(on_a_node(finetune_to_folder).remote(spec.pipeline, task, info, config.seed, **options)))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, FtmetaError) else error from None


def _on_workers(
    config: Finetune, spec: RunSpec, task: Task, info: BaseModelInfo, folder: Path, *, replace: bool
) -> dict[str, Any]:
    from ftmeta.orchestrate.room import Workers
    from ftmeta.orchestrate.train import train

    assert config.workers is not None
    return train(
        spec,
        task,
        config.base_model,
        folder,
        Workers(
            config.workers,
            config.cpus_per_worker,
            config.gpus_per_worker,
            config.wait_s,
            config.min_workers,
            config.placement,
        ),
        until=config.fidelity,
        zero_stage=config.zero,
        execution=_execution(config),
        checkpoint_interval_s=config.checkpoint_interval_s,
        replace=replace,
    )


def _execution(config: Finetune) -> Execution:
    from ftmeta.finetune.engine import Execution

    return Execution(config.micro_batch_tokens, config.activation_checkpointing)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
