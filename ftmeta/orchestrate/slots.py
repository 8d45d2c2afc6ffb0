"""The slots of a live tuning on a Ray cluster: an actor for each, or for so many of them, kept as long as the tuning
lasts.

Work goes to an actor as one call and comes back as one answer. An actor that dies is replaced when work is next started
on its slot; where the cluster has no room for it within `wait_s`, that work comes back as never begun.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ConfigError, FtmetaError, UserError
from ftmeta.schema import BaseModelInfo, Task
from ftmeta.tuning.work import Answer, Lost, Work

if TYPE_CHECKING:
    from ftmeta.tuning.shared import SharedWorker
    from ftmeta.tuning.worker import TuneWorker


@dataclass(frozen=True)
class SlotSize:
    cpus: float = 1
    gpus: float = 0
    runs: int = 1  # slots of one process, whose runs train side by side
    wait_s: float = 60.0  # for room on the cluster


class RaySlots:
    """`count` processes of `size`. Connect to Ray before. `base_model` is the name that the user gave; `out` a folder
    that all nodes see."""

    def __init__(self, count: int, size: SlotSize, task: Task, base_model: str, info: BaseModelInfo, out: Path) -> None:
        import ray

        self._size, self._count = size, count * size.runs
        self._shared = ray.put((task, base_model, info.fingerprint, str(out)))
        made: Any = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_restarts=0)(_SlotActor)
        self._class = made.options(max_concurrency=size.runs)
        self._actors: dict[int, Any] = {}  # by process, as all of these
        self._ready: dict[int, Any] = {}  # the answer to its first call, until it came
        self._asked_at: dict[int, float] = {}
        self._answers: dict[Any, tuple[int, Any]] = {}  # object reference -> slot and its actor
        for process in range(count):
            self._open(process)

    @property
    def size(self) -> int:
        return self._count

    def start(self, slot: int, work: Work) -> None:
        process = slot // self._size.runs
        if process not in self._actors:
            self._open(process)
        actor = self._actors[process]
        self._answers[actor.do.remote(work)] = slot, actor

    def wait(self, timeout_s: float) -> Sequence[tuple[int, Answer]]:
        import ray

        deadline = time.monotonic() + timeout_s
        while self._answers:
            pause_s = max(min(deadline - time.monotonic(), 1.0), 0.0)
            done, _ = ray.wait(list(self._answers), num_returns=1, timeout=pause_s)
            if done:
                more, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0)
                return [self._answer(one, *self._answers.pop(one)) for one in more or done]
            lacking = self._without_room()
            if lacking or time.monotonic() >= deadline:
                return lacking
        time.sleep(timeout_s)
        return []

    def close(self) -> None:
        for process in list(self._actors):
            self._drop(process, self._actors[process])
        self._answers.clear()

    def __enter__(self) -> RaySlots:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, process: int) -> None:
        actor = self._class.remote(self._size, [self._shared])
        self._actors[process], self._asked_at[process] = actor, time.monotonic()
        self._ready[process] = actor.load.remote()

    def _drop(self, process: int, actor: Any) -> None:
        """Another slot of the process may have had the actor replaced already."""
        import ray

        if process in self._actors and self._actors[process] is actor:
            del self._actors[process]
            self._ready.pop(process, None)
            ray.kill(actor)

    def _answer(self, reference: Any, slot: int, actor: Any) -> tuple[int, Answer]:
        return slot, self._answer_of(reference, slot, actor)

    def _answer_of(self, reference: Any, slot: int, actor: Any) -> Answer:
        import ray
        from ray.exceptions import RayError, RayTaskError

        process = slot // self._size.runs
        try:
            answer: Answer = ray.get(reference)
            self._ready.pop(process, None)
            return answer
        except RayTaskError as error:  # the work's own error: the actor lives, but its run may be in any state
            cause = error.cause
            self._drop(process, actor)
            said = " ".join(str(cause).split())[:400]
            why = said if isinstance(cause, FtmetaError) else f"{type(cause).__name__}: {said}"
            return Lost(why, fatal=isinstance(cause, UserError))
        except RayError as error:
            self._drop(process, actor)
            return Lost(f"the worker of slot {slot + 1} is gone ({_first_line(error)})")

    def _without_room(self) -> list[tuple[int, Answer]]:
        """Work on slots whose actor could not even be started."""
        import ray

        lacking, now = [], time.monotonic()
        for process, ready in list(self._ready.items()):
            if ray.wait([ready], timeout=0)[0]:
                del self._ready[process]
            elif now - self._asked_at[process] > self._size.wait_s:
                lacking.append(self._actors[process])
                self._drop(process, lacking[-1])
        found: list[tuple[int, Answer]] = []
        for reference, (slot, actor) in list(self._answers.items()):
            if any(actor is one for one in lacking):
                del self._answers[reference]
                why = f"the cluster had no room for slot {slot + 1} within {self._size.wait_s:g} s"
                found.append((slot, Lost(why, never_began=True)))
        return found


class _SlotActor:
    """What runs in the slot's process. It loads when it is first asked to, so that what goes wrong is an answer."""

    def __init__(self, size: SlotSize, shared: list[Any]) -> None:
        self._size, self._shared = size, shared
        self._worker: TuneWorker | SharedWorker | None = None
        self._loading = threading.Lock()

    def load(self) -> None:
        self._loaded()

    def do(self, work: Work) -> Answer:
        return self._loaded().do(work)

    def _loaded(self) -> TuneWorker | SharedWorker:
        with self._loading:
            if self._worker is None:
                self._worker = self._load()
            return self._worker

    def _load(self) -> TuneWorker | SharedWorker:
        import ray
        import torch

        from ftmeta.models import load, resolve
        from ftmeta.tuning.definition import DEFINITION
        from ftmeta.tuning.shared import SharedWorker
        from ftmeta.tuning.worker import TuneWorker

        task, base_model, fingerprint, out = ray.get(self._shared[0])
        node = ray.util.get_node_ip_address()
        if not (Path(out) / DEFINITION).exists():
            raise ConfigError(f"node {node} does not see {out}; give --out a folder that all nodes share")
        torch.set_num_threads(max(1, int(self._size.cpus)))
        info = resolve(base_model)
        if info.fingerprint != fingerprint:
            raise ConfigError(
                f"base model '{base_model}' has fingerprint {info.fingerprint} on node {node}, and {fingerprint} "
                "where the tuning was started; give every node the same files"
            )
        base = load(info, "cuda" if self._size.gpus else "cpu")
        return TuneWorker(task, base) if self._size.runs == 1 else SharedWorker(task, base, self._size.runs)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
