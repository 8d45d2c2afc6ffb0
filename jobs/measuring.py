"""Measurements that want a process of their own: a module of jobs/ is run, and what it prints is the result.

    in_a_process("jobs.plan_measure", case_as_json, environment={"OMP_NUM_THREADS": "1"})

In: the module, its arguments, what its environment has besides ours. Out: the JSON object of its last line of output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def in_a_process(module: str, *arguments: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs `python -m MODULE ARGUMENTS`. Raises RuntimeError with the end of what it said if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    surroundings = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
