"""Where the checkpoints of a tuning lie, and which of them stay.

A run has at most two: the last, which it goes on from, and the best by validation score. Of paused runs only the `keep`
best keep theirs; a worse one that is asked for again is made again from the start (worker.py).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

Curve = Mapping[int, float]  # fidelity -> validation score


def folder_of(run: Path, fidelity: int) -> Path:
    return run / f"fidelity-{fidelity}"


def there(run: Path) -> set[int]:
    """The fidelities of which there are checkpoints."""
    found = set()
    for folder in run.glob("fidelity-*"):
        with contextlib.suppress(ValueError):
            found.add(int(folder.name.removeprefix("fidelity-")))
    return found


def best_of(curve: Curve, among: Collection[int]) -> int | None:
    """The fidelity with the highest score; the first of equals."""
    scored = [(-score, fidelity) for fidelity, score in curve.items() if fidelity in among]
    return min(scored)[1] if scored else None


def superfluous(curve: Curve, saved: Collection[int]) -> set[int]:
    """Checkpoints of one run that are neither its last nor its best."""
    if not saved:
        return set()
    return set(saved) - {max(saved), best_of(curve, saved)}


def dispensable(curves: Mapping[str, Curve], saved: Mapping[str, Collection[int]], keep: int) -> list[str]:
    """Runs, by id, whose checkpoints go: all but the `keep` best."""
    ranked = sorted(
        (run for run, fidelities in saved.items() if fidelities),
        key=lambda run: (-max((curves[run].get(fidelity, 0.0) for fidelity in saved[run]), default=0.0), run),
    )
    return ranked[keep:]


def remove(folder: Path) -> None:
    """What cannot be removed is left: it costs room and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
