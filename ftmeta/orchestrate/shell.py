"""What the entry points share: exit codes, and where results may go.

Errors become one message on standard error and an exit code. Results never go into a job's working directory.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ftmeta.errors import ConfigError, FtmetaError


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the process with 2 for a user's mistake, 1 for a failure of the system and 130 for Ctrl-C: one line, and no
    traceback, which $FTMETA_DEBUG shows."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("FTMETA_DEBUG"):
            raise
        if isinstance(error, FtmetaError):
            sys.stderr.write(f"error: {error}\n")
            sys.exit(error.exit_code)
        said = " ".join(str(error).split())[:1000]
        sys.stderr.write(f"error: {type(error).__name__}: {said}\nFTMETA_DEBUG=1 shows where it happened.\n")
        sys.exit(1)


def in_ray_job() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def state_dir() -> Path:
    """The folder that a cluster's token, logs, database and results lie in, absolute: `$FTMETA_STATE` or `.ftmeta`."""
    return Path(os.environ.get("FTMETA_STATE") or ".ftmeta").absolute()


def results_folder(out: Path | None, default: str) -> Path:
    """`out` as an absolute path; None means `default` in the state folder of the cluster.

    Raises ConfigError in a Ray job for a relative path, and for none when the cluster names no state folder: a job's
    working directory is a copy of the submitted one, and Ray removes it with all that was written there.
    """
    if in_ray_job() and out is not None and not out.is_absolute():
        raise ConfigError(
            f"--out {out} is relative, and a job's working directory is a copy that Ray removes; give an absolute path "
            "that every node sees"
        )
    if in_ray_job() and out is None and "FTMETA_STATE" not in os.environ:
        raise ConfigError("this cluster has no FTMETA_STATE folder for results; give --out, an absolute shared path")
    return (state_dir() / default) if out is None else out.absolute()
