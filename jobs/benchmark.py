"""The benchmark as a job: `python -m jobs.benchmark --config jobs/configs/benchmark.yaml [--metadata DIR] [--out DIR]`.

In: a YAML file with `metadata` (meta-datasets: names of bundled ones, or folders), `methods` (names, `all`,
`ablations`), `seeds`, `budget_fraction` and `out`. Out: the report, plots and numbers in that folder, and the document
as JSON on standard output. Submitted again, it goes on from where it was stopped. Relative folders are taken from the
state folder of the cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftmeta.benchmark.units import Settings, methods_of
from ftmeta.metadataset import bundled_metadatasets
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.replays import run_benchmark
from ftmeta.orchestrate.shell import exit_codes, results_folder, state_dir
from ftmeta.tracking.works import log_benchmark


class BenchmarkConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metadata: list[str]
    out: Path
    methods: list[str] = ["all"]
    seeds: int = 20
    budget_fraction: float = 0.1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmark", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="as jobs/configs/benchmark-smoke.yaml")
    parser.add_argument("--metadata", action="append", help="a meta-dataset, instead of the file's; may be repeated")
    parser.add_argument("--out", type=Path, help="the folder for the report, instead of the file's")
    chosen = parser.parse_args(arguments)
    config = load_config(chosen.config, BenchmarkConfig)
    bundled = bundled_metadatasets()
    metadata = chosen.metadata or [name if name in bundled else str(state_dir() / name) for name in config.metadata]
    settings = Settings(methods_of(config.methods), config.seeds, config.budget_fraction)
    out = results_folder(chosen.out, str(config.out))
    document = run_benchmark(metadata, settings, out)
    log_benchmark(document, out)
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    with exit_codes():
        main()
