"""What a slot can be asked to do, and what it answers.

A slot is one place where one finetuning run is at work at a time; `Slots` are all of them. Work is started on a free
slot and answered later; work that is lost (the process or the node died) is answered with `Lost`, and its slot is free
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftmeta.schema import CurvePoint, RunSpec, Status


@dataclass(frozen=True)
class Advance:
    """Train `spec` from fidelity `start` (0: from the base model) to `start + 1`, with checkpoints in `folder`."""

    spec: RunSpec
    start: int
    folder: Path

    @property
    def fidelity(self) -> int:
        return self.start + 1


@dataclass(frozen=True)
class Validate:
    """Score the checkpoint at `fidelity` on the whole validation split."""

    spec: RunSpec
    fidelity: int
    folder: Path


@dataclass(frozen=True)
class Conclude:
    """Score the checkpoint at `fidelity` on the test split and write its adapter to `out`."""

    spec: RunSpec
    fidelity: int
    folder: Path
    out: Path


Work = Advance | Validate | Conclude


@dataclass(frozen=True)
class Advanced:
    """What came of an `Advance`.

    `points`: those up to the fidelity asked for that were computed now; more than one where the run began (fidelity 0
    first), or where its checkpoint was unusable and it was run again from the start. `status` as of runs: `stopped`
    can go on. `unsaved`: why there is no checkpoint of the last point; None: there is one.
    """

    points: tuple[CurvePoint, ...]
    status: Status
    error: str | None
    device_s: float  # device-seconds of this work alone
    device: str
    peak_memory_gb: float
    wall_s: float  # of the slot
    busy_s: float  # of those, in training and evaluation: not in reading and writing checkpoints
    unsaved: str | None = None


@dataclass(frozen=True)
class Validated:
    nll: float  # nats per answer token on the whole validation split
    examples: int
    device_s: float


@dataclass(frozen=True)
class Concluded:
    document: Mapping[str, Any]  # as `ftmeta finetune --json`


@dataclass(frozen=True)
class Lost:
    """The slot died, or could not do it; the work was not done."""

    why: str
    fatal: bool = False  # nothing would be different the next time
    never_began: bool = False  # there was no room for the slot's process, so it is not the work's fault


Answer = Advanced | Validated | Concluded | Lost


class Slots(Protocol):
    @property
    def size(self) -> int: ...

    def start(self, slot: int, work: Work) -> None:
        """On a free slot, numbered from 0."""

    def wait(self, timeout_s: float) -> Sequence[tuple[int, Answer]]:
        """What was answered since, at least one unless `timeout_s` passes before."""
