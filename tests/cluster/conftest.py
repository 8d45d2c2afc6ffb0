"""One real local cluster for all tests of this folder, in a state folder of its own; nothing of it may be left over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    state = tmp_path_factory.mktemp("state")
    command = [sys.executable, "-m", "ftmeta.orchestrate.local"]
    options = ["--state", str(state)]
    subprocess.run([*command, "up", "--num-cpus", "2", *options], cwd=ROOT, check=True, timeout=180)
    found = local.find(state)
    assert found is not None
    yield found
    subprocess.run([*command, "stop", *options], cwd=ROOT, check=True, timeout=60)
    assert local.processes(found) == []
    assert local.find(state) is None
    assert not Path(found.temp_dir).exists()


@pytest.fixture(scope="session")
def client(cluster: LocalCluster) -> dict[str, str]:
    """The environment of a client of the cluster: addresses and token."""
    program = str(Path(sys.executable).parent)
    path = f"{program}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**cluster.client_environment(), "PATH": path}
