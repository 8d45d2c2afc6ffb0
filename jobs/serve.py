"""The selector service on a cluster: `python -m jobs.serve [--config FILE] [--selector DIR] [--port 8000]`.

In: a selector made by `ftmeta metatrain` (absolute, on storage that every node sees), or the bundled one. Out: the
service, which goes on when this ends; its address is printed when it answers. Doing it again replaces the selector. In
a Ray job the cluster is the job's; elsewhere it is the one of the state folder, as `ray job submit`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ftmeta.errors import ConfigError
from ftmeta.orchestrate import local
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.shell import exit_codes, in_ray_job, state_dir
from ftmeta.serving.local import deploy
from ftmeta.tracking.registry import is_reference


class Serve(BaseModel):
    """The content of the YAML file; the command line's options win over it."""

    model_config = ConfigDict(extra="forbid")
    selector: str | None = None
    host: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=1, le=65535)
    tokens_file: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code 0 once the service answers."""
    parser = argparse.ArgumentParser(prog="python -m jobs.serve", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML, as jobs/configs/serve.yaml")
    parser.add_argument("--selector", help="a folder of `ftmeta metatrain`, or models:/NAME@ALIAS; default: bundled")
    parser.add_argument("--host", help="default: 127.0.0.1; beyond loopback only with --tokens-file")
    parser.add_argument("--port", type=int, help="default: the one that the local cluster keeps free, or 8000")
    parser.add_argument("--tokens-file", type=Path, help="hashes of the tokens that clients must send")
    chosen = parser.parse_args(arguments)
    file = Serve() if chosen.config is None else load_config(chosen.config, Serve)
    given = {name: value for name, value in vars(chosen).items() if name != "config" and value is not None}
    config = file.model_copy(update=given)
    is_folder = config.selector is not None and not is_reference(config.selector)
    if in_ray_job() and is_folder and not Path(str(config.selector)).is_absolute():
        raise ConfigError(
            f"selector {config.selector} is relative; a job's working directory is removed: give an absolute path"
        )
    address = _address()  # it also sets the environment of the local cluster
    port = config.port or int(os.environ.get("FTMETA_SERVE_PORT", "8000"))
    url = deploy(address, config.host, port, config.selector, tokens_file=config.tokens_file)
    sys.stdout.write(f"{url}\n")
    return 0


def _address() -> str:
    """The cluster's: `$RAY_ADDRESS`, which a job has, or the local cluster's with its token."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    cluster = local.find()
    if cluster is None or not cluster.alive:
        raise ConfigError(f"no cluster runs in {state_dir()}; start it with: make up")
    for name in local.OF_ANOTHER_CLUSTER:
        os.environ.pop(name, None)
    os.environ.update(cluster.environment)
    return cluster.gcs_address


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
