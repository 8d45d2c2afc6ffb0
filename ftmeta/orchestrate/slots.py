"""The slots of a live tuning on a Ray cluster: one actor each, kept as long as the tuning lasts.

Work goes to an actor as one call and comes back as one answer. An actor that dies is replaced when work is next started
on its slot; where the cluster has no room for it within `wait_s`, that work comes back as never begun.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ConfigError, FtmetaError, UserError
from ftmeta.schema import BaseModelInfo, Task
from ftmeta.tuning.work import Answer, Lost, Work

if TYPE_CHECKING:
    from ftmeta.tuning.worker import TuneWorker


@dataclass(frozen=True)
class SlotSize:
    cpus: float = 1
    gpus: float = 0
    wait_s: float = 60.0  # for room on the cluster


class RaySlots:
    """Connect to Ray before. `base_model` is the name that the user gave; `out` a folder that all nodes see."""

    def __init__(self, count: int, size: SlotSize, task: Task, base_model: str, info: BaseModelInfo, out: Path) -> None:
        import ray

        self._size, self._count = size, count
        self._shared = ray.put((task, base_model, info.fingerprint, str(out)))
        self._class: Any = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_restarts=0)(_SlotActor)
        self._actors: dict[int, Any] = {}
        self._ready: dict[int, Any] = {}  # by slot: the answer to its first call, until it came
        self._asked_at: dict[int, float] = {}
        self._answers: dict[Any, int] = {}  # object reference -> slot
        for slot in range(count):
            self._open(slot)

    @property
    def size(self) -> int:
        return self._count

    def start(self, slot: int, work: Work) -> None:
        if slot not in self._actors:
            self._open(slot)
        self._answers[self._actors[slot].do.remote(work)] = slot

    def wait(self, timeout_s: float) -> Sequence[tuple[int, Answer]]:
        import ray

        deadline = time.monotonic() + timeout_s
        while self._answers:
            pause_s = max(min(deadline - time.monotonic(), 1.0), 0.0)
            done, _ = ray.wait(list(self._answers), num_returns=1, timeout=pause_s)
            if done:
                more, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0)
                return [(self._answers[one], self._answer(one, self._answers.pop(one))) for one in more or done]
            lacking = self._without_room()
            if lacking or time.monotonic() >= deadline:
                return lacking
        time.sleep(timeout_s)
        return []

    def close(self) -> None:
        for slot in list(self._actors):
            self._drop(slot)
        self._answers.clear()

    def __enter__(self) -> RaySlots:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, slot: int) -> None:
        actor = self._class.remote(self._size.cpus, self._size.gpus)
        self._actors[slot], self._asked_at[slot] = actor, time.monotonic()
        self._ready[slot] = actor.load.remote([self._shared])

    def _drop(self, slot: int) -> None:
        import ray

        actor = self._actors.pop(slot, None)
        self._ready.pop(slot, None)
        if actor is not None:
            ray.kill(actor)

    def _answer(self, reference: Any, slot: int) -> Answer:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer: Answer = ray.get(reference)
            self._ready.pop(slot, None)
            return answer
        except RayTaskError as error:  # the work's own error: the actor lives, but its run may be in any state
            cause = error.cause
            self._drop(slot)
            said = " ".join(str(cause).split())[:400]
            why = said if isinstance(cause, FtmetaError) else f"{type(cause).__name__}: {said}"
            return Lost(why, fatal=isinstance(cause, UserError))
        except RayError as error:
            self._drop(slot)
            return Lost(f"the worker of slot {slot + 1} is gone ({_first_line(error)})")

    def _without_room(self) -> list[tuple[int, Answer]]:
        """Work on slots whose actor could not even be started."""
        import ray

        found: list[tuple[int, Answer]] = []
        for reference, slot in list(self._answers.items()):
            ready = self._ready.get(slot)
            if ready is None:
                continue
            if ray.wait([ready], timeout=0)[0]:
                del self._ready[slot]
            elif time.monotonic() - self._asked_at[slot] > self._size.wait_s:
                del self._answers[reference]
                self._drop(slot)
                why = f"the cluster had no room for slot {slot + 1} within {self._size.wait_s:g} s"
                found.append((slot, Lost(why, never_began=True)))
        return found


class _SlotActor:
    """What runs in the slot's process. It loads when it is first asked to, so that what goes wrong is an answer."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._cpus, self._gpus = cpus, gpus
        self._worker: TuneWorker | None = None

    def load(self, shared: list[Any]) -> None:
        self._shared = shared
        self._loaded()

    def do(self, work: Work) -> Answer:
        return self._loaded().do(work)

    def _loaded(self) -> TuneWorker:
        if self._worker is None:
            import ray
            import torch

            from ftmeta.models import load, resolve
            from ftmeta.tuning.definition import DEFINITION
            from ftmeta.tuning.worker import TuneWorker

            task, base_model, fingerprint, out = ray.get(self._shared[0])
            node = ray.util.get_node_ip_address()
            if not (Path(out) / DEFINITION).exists():
                raise ConfigError(f"node {node} does not see {out}; give --out a folder that all nodes share")
            torch.set_num_threads(max(1, int(self._cpus)))
            info = resolve(base_model)
            if info.fingerprint != fingerprint:
                raise ConfigError(
                    f"base model '{base_model}' has fingerprint {info.fingerprint} on node {node}, and {fingerprint} "
                    "where the tuning was started; give every node the same files"
                )
            self._worker = TuneWorker(task, load(info, "cuda" if self._gpus else "cpu"))
        return self._worker


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
