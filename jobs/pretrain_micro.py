"""Pretrains phi3-micro from scratch: `python -m jobs.pretrain_micro --config jobs/configs/pretrain-micro.yaml`.

In: a YAML configuration. Out: the model folder with its card; the stages' files in the configured work folder.
`--stage train` reads only the tokens folder and the configuration, so it can run on a machine without a network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ftmeta.errors import FtmetaError
from ftmeta.pretraining.config import load_config
from ftmeta.pretraining.stages import STAGES, pretrain


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 a user's mistake, 1 a failure."""
    parser = argparse.ArgumentParser(prog="python -m jobs.pretrain_micro", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML, as jobs/configs/pretrain-micro.yaml")
    parser.add_argument(
        "--stage", choices=STAGES, help="this stage only, even if it is done; default: all that are not"
    )
    parser.add_argument("--out", type=Path, help="where the model goes; default: `out` of the configuration")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        pretrain(load_config(chosen.config), chosen.stage, chosen.out, lambda line: console.print(line, markup=False))
    except FtmetaError as error:
        console.print(f"error: {error}", markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
