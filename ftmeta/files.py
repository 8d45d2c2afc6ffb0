"""Files: atomic writes, fingerprints, the cache folder and the data that ships with the package.

Nothing is ever half-written: outputs are written beside their place and appear there by one atomic rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ftmeta.errors import UserError

DATA = Path(__file__).parent / "data"


def cache_dir() -> Path:
    """The folder for what can be fetched or computed again: `$FTMETA_CACHE`, or ftmeta under `$XDG_CACHE_HOME`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FTMETA_CACHE") or Path(base) / "ftmeta")


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `target` that becomes `target` when the block ends without an error.

    The caller may write a file or make a folder there. An existing file is replaced; an existing folder is replaced
    too (moved aside, then removed). If the block raises, nothing of it remains.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    fresh = holder / target.name
    try:
        yield fresh
        if fresh.is_dir() and target.exists():
            target.rename(holder / "replaced")  # a folder cannot be renamed over one that is not empty
        os.replace(fresh, target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def require_writable(target: Path) -> None:
    """Raises UserError unless a file or folder can be made at `target`: better at once than after an hour of work."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent):
            pass
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); choose another place") from None


def require_new(target: Path, *, replace: bool = False) -> None:
    """Raises UserError where a result cannot be left at `target`: it is taken (unless it is to be replaced), or cannot
    be written. Worth asking before anything is started for it."""
    if target.exists() and not replace:
        raise UserError(f"{target} exists already; name a new folder with --out, or remove it")
    require_writable(target)


def write_text(target: Path | str, text: str) -> None:
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def whole_lines(content: bytes) -> Iterator[bytes]:
    """The lines with their ends, but for a last one without: a killed writer leaves it torn."""
    return (line for line in content.splitlines(keepends=True) if line.endswith(b"\n"))


def append_line(file: IO[bytes], value: Any) -> None:
    """Writes `value` as a line of JSON, which is on disk when this returns."""
    file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def canonical_json(value: Any) -> str:
    """The one spelling of `value` that fingerprints are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """A 16-digit hexadecimal SHA-256 of a JSON value, equal on every machine."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()[:16]


def fingerprint_files(paths: list[Path]) -> str:
    """A 16-digit hexadecimal SHA-256 over the names and contents of `paths`, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode("utf-8") + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()[:16]
