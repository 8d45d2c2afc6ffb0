"""Meta-training as a job: `python -m jobs.metatrain --config jobs/configs/metatrain.yaml [--metadata DIR] [--out DIR]`.

In: a YAML file with `metadata` (a meta-dataset: its folder, or the name of a bundled one), `out` (a new folder for the
selector), `seed` and `exclude_tasks`. Out: the selector in that folder, and its quality as JSON on standard output.
Relative folders are taken from the state folder of the cluster, where the sweep left its meta-dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftmeta.metadataset import bundled_metadatasets
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.shell import exit_codes, results_folder, state_dir
from ftmeta.surrogates import metatrain_to_folder
from ftmeta.tracking.works import log_metatraining


class MetatrainConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metadata: Path
    out: Path
    seed: int = 0
    exclude_tasks: list[str] = []


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.metatrain", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="as jobs/configs/metatrain-smoke.yaml")
    parser.add_argument("--metadata", type=Path, help="the meta-dataset, instead of the file's")
    parser.add_argument("--out", type=Path, help="the folder for the selector, instead of the file's")
    chosen = parser.parse_args(arguments)
    config = load_config(chosen.config, MetatrainConfig)
    metadata = chosen.metadata or config.metadata
    if chosen.metadata is None and str(metadata) not in bundled_metadatasets():
        metadata = state_dir() / metadata
    out = results_folder(chosen.out, str(config.out))
    document = metatrain_to_folder(metadata, out, exclude_tasks=tuple(config.exclude_tasks), seed=config.seed)
    log_metatraining(document)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    with exit_codes():
        main()
