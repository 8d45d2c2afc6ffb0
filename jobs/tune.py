"""Live tuning as a job: `python -m jobs.tune --config jobs/configs/tune-smoke.yaml [--out DIR]`.

In: a YAML file with `data`, one of `budget`, `budget_device` (as 10m) and `budget_usd`, and if wanted `base_model`,
`method`, `seed`, `slots`, `cpus_per_slot`, `gpus_per_slot`, `runs_per_slot`, `top`, `least_gain`, `keep_paused`,
`selector`, `metadata`, which mean what they mean in `ftmeta tune`. Out: the folder DIR with the adapter, the report and
everything that it is taken up again from, runs in MLflow, and the document of `ftmeta tune --json` on standard output.
DIR is an absolute path that every node sees; without one it is a folder of the dataset's name under `tune/` in the
state folder of the cluster.

A job that was stopped or killed goes on when it is submitted again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ftmeta.cli.tuning import limit_of
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.shell import exit_codes, results_folder
from ftmeta.orchestrate.tuning import tune
from ftmeta.tuning.definition import Definition


class Tune(BaseModel):
    """The content of the YAML file; what is left out is as in `ftmeta tune`."""

    model_config = ConfigDict(extra="forbid")
    data: str
    budget: str | None = None
    budget_device: str | None = None
    budget_usd: float | None = Field(default=None, gt=0)
    base_model: str = Definition.base_model
    method: str = Definition.method
    seed: int = Field(default=0, ge=0, strict=True)
    slots: int | None = Field(default=None, ge=1, strict=True)
    cpus_per_slot: float = Field(default=1, gt=0)
    gpus_per_slot: float = Field(default=0, ge=0)
    runs_per_slot: int | None = Field(default=None, ge=1, strict=True)
    top: int = Field(default=Definition.top, ge=1, strict=True)
    least_gain: float = Field(default=Definition.least_gain, ge=0)
    keep_paused: int = Field(default=Definition.keep_paused, ge=1, strict=True)
    selector: str | None = None
    metadata: str = Definition.metadata


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.tune", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML, as jobs/configs/tune-smoke.yaml")
    parser.add_argument("--out", type=Path, help="a folder that all nodes see; default: in the state folder")
    parser.add_argument("--tracking-uri", help="where MLflow keeps the runs; default: $MLFLOW_TRACKING_URI, else off")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = load_config(chosen.config, Tune)
    kind, amount = limit_of(config.budget, config.budget_device, config.budget_usd)
    rest: dict[str, Any] = config.model_dump(exclude={"budget", "budget_device", "budget_usd"})
    out = results_folder(chosen.out, f"tune/{Path(config.data).stem}")
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own words belong
        uri = chosen.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        document = tune(Definition(budget=amount, kind=kind, **rest), out, tracking_uri=uri or None)
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    with exit_codes():
        main()
