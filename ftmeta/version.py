"""Which code made a row: the package's version and the commit that it stood at."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import ftmeta

VARIABLE = "FTMETA_CODE_VERSION"  # for copies of the code without their history, as a job or a container has


def code_version() -> str:
    """`$FTMETA_CODE_VERSION`, or the package's version, with the commit when it runs from a git checkout:
    `0.1.0+g1a2b3c4` (`.dirty`: edited since)."""
    return os.environ.get(VARIABLE) or _of_this_folder()


@functools.cache
def _of_this_folder() -> str:
    root = Path(ftmeta.__file__).parent.parent
    if not (root / ".git").exists():
        return ftmeta.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ftmeta.__version__
    return f"{ftmeta.__version__}+g{done.stdout.strip()}"
