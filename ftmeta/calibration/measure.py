"""The workloads through the real worker, within a time.

In: a base model in memory and a number of seconds. Out: what each workload had to do and how long each repeat took, in
the device-seconds that runs are charged (ftmeta/finetune/clock.py).

Every workload runs once before anything counts: devices and libraries prepare what they meet for the first time, and
the time of that first run says how many units (optimizer steps, evaluations) of each fit. Then all take turns, so that
a machine whose speed changes shows as repeats that differ. On the CPU there is one thread: profiles are of a core.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ftmeta.calibration.fit import Measured
from ftmeta.calibration.workloads import Workload
from ftmeta.errors import FtmetaError, ModelError
from ftmeta.finetune import finetune
from ftmeta.models import LoadedModel

REPEATS = (2, 3)  # at least, and where time allows
_MOST_UNITS = 500
_LARGEST_SHARE = 0.08  # of the time, for one unit of a workload: at least three are computed
_SHORT = 0.02  # of the time
_FORWARD = 3  # a pass forward and back takes so many forward passes
_ENOUGH = 0.8


@dataclass(frozen=True)
class _Run:
    cost_s: float  # device-seconds of the units
    wall_s: float  # with what is around them


def measure(
    base: LoadedModel,
    candidates: Sequence[Workload],
    *,
    seconds: float,
    weight_bytes: int,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Measured]:
    """By name, in about `seconds`; those of `candidates` that are needed take longer if they have to.

    `say` is told what is going on. Raises ModelError if the needed ones do not fit into the device's memory.
    """
    began_s = time.perf_counter()
    shape = base.info.shape
    with _one_thread(base.device):
        first = _first_runs(base, candidates, seconds, say)
        left_s = seconds - (time.perf_counter() - began_s)
        repeats = REPEATS[1] if REPEATS[1] * sum(run.wall_s for _, run in first) <= left_s else REPEATS[0]
        planned = [(one, _units(run, left_s / repeats / len(first))) for one, run in first]
        turns: list[list[float]] = []
        while len(turns) < repeats:
            say(f"measuring {len(planned)} workloads, turn {len(turns) + 1}")
            turns.append([_run(base, one, units).cost_s for one, units in planned])
            if len(turns) >= REPEATS[0] and time.perf_counter() - began_s > seconds * _ENOUGH:
                break  # this machine has other work as well, and turns take longer than they should
    return {
        one.name: Measured(one.work(shape, units, weight_bytes), seconds)
        for (one, units), seconds in zip(planned, zip(*turns, strict=True), strict=True)
    }


def _first_runs(
    base: LoadedModel, candidates: Sequence[Workload], seconds: float, say: Callable[[str], None]
) -> list[tuple[Workload, _Run]]:
    """A run of one unit of each workload that there is time for."""
    began_s = time.perf_counter()
    found: list[tuple[Workload, _Run]] = []
    per_token_s = 0.0
    for one in sorted(candidates, key=lambda candidate: not candidate.needed):
        if not one.needed:
            alone_s = per_token_s * one.tokens / (1 if one.trains else _FORWARD)
            others_s = time.perf_counter() - began_s + REPEATS[0] * sum(run.wall_s for _, run in found)
            if alone_s > _LARGEST_SHARE * seconds or others_s + (1 + REPEATS[0]) * alone_s > seconds:
                say(f"no time for '{one.name}'")
                continue
        say(f"warming up: {one.name}")
        try:
            run = _run(base, one, 1)
            if run.wall_s < _SHORT * seconds:  # what is done at the first time alone may be most of it
                run = _run(base, one, 1)
        except torch.OutOfMemoryError:
            if one.needed:
                raise ModelError(
                    f"base model '{base.info.name}' and a workload as small as '{one.name}' do not fit into the memory "
                    f"of '{base.device}'; calibrate with a smaller --base-model"
                ) from None
            say(f"no memory for '{one.name}'")
            continue
        found.append((one, run))
        if one.trains:
            per_token_s = run.wall_s / one.tokens
    return found


def _units(first: _Run, share_s: float) -> int:
    """How many fit into a share of the time."""
    around_s = first.wall_s - first.cost_s
    return max(1, min(_MOST_UNITS, int((share_s - around_s) / first.cost_s)))


def _run(base: LoadedModel, one: Workload, units: int) -> _Run:
    """Raises OutOfMemoryError, and FtmetaError for a run that ended badly for another reason."""
    began_s = time.perf_counter()
    with finetune(
        one.pipeline,
        (tokenized := one.tokenized(base.info.shape, units)).task,
        base,
        seed=0,
        budget=one.budget(units),
        until=None if one.trains else 0,
        tokenized=tokenized,
    ) as run:
        points = list(run)
    if run.status == "oom":
        torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(run.error)
    if run.status not in ("ok", "stopped"):
        raise FtmetaError(f"the workload '{one.name}' ended with {run.status}: {run.error}")
    cost_s = points[-1].cost_train_s if one.trains else points[-1].cost_eval_s
    return _Run(cost_s, time.perf_counter() - began_s)


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
