"""What each worker of a distributed run does: a Ray Train worker is a rank of one run (ftmeta/orchestrate/train.py).

In: an order (the run, the folder, the ZeRO stage) and the driver's inbox. Out: curve points and the document to the
inbox, checkpoints and at last the adapter in the folder. A worker group that starts again goes on from the newest whole
checkpoint, with whatever number of workers it has now.

After each step the ranks agree whether to write a checkpoint (time has passed) or to stop (the job is asked to, or one
of them is being preempted): they add up what each of them wants.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ftmeta.errors import ConfigError, DataError, UserError
from ftmeta.finetune import Finetuning
from ftmeta.finetune.engine import Execution
from ftmeta.orchestrate import preemption
from ftmeta.orchestrate.checkpoints import Checkpoints
from ftmeta.schema import RunSpec, Task

_LOOK_S = 2.0  # between two looks at what Ray knows of nodes that are about to go

Tell = Callable[[str, Any], None]


@dataclass(frozen=True)
class Order:
    """A run for several workers, as it is sent to them. `folder` is what will be there in the end; until then
    `unfinished`, beside it, holds the checkpoints. Every node has to see both."""

    spec: RunSpec
    task: Task
    base_model: str
    until: int | None
    folder: Path
    zero_stage: int
    execution: Execution
    threads: int
    checkpoint_interval_s: float
    owner: str  # the mark of the command that asks for the run

    @property
    def unfinished(self) -> Path:
        return self.folder.with_name(self.folder.name + ".unfinished")

    @property
    def stop(self) -> Path:
        """While this file is there, the workers put the run aside after the next step."""
        return self.unfinished / f"stop-{self.owner}"


def train_rank(config: Mapping[str, Any]) -> None:
    """The train function of Ray Train. What starting again would not mend is told to the inbox, which ends the run."""
    import ray
    import torch

    inbox = config["inbox"]

    def tell(kind: str, value: Any) -> None:
        ray.get(inbox.put.remote(kind, value))

    if ray.get(inbox.is_settled.remote()):
        return  # a failure that would only happen again
    order = config["order"]
    torch.set_num_threads(order.threads)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        _train(order, tell)
    except UserError as error:
        tell("mistake", str(error))
        raise
    except _ToldError:
        raise
    except Exception as error:
        tell("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise


class _ToldError(RuntimeError):
    """A failure that the inbox has heard of."""


def _train(order: Order, tell: Tell) -> None:
    import ray.train
    import torch.distributed as dist

    from ftmeta.finetune import finetune
    from ftmeta.finetune.single import as_document, conclude
    from ftmeta.finetune.zero import ZeroEngine, load_base
    from ftmeta.models import resolve
    from ftmeta.orchestrate.workers import require_planned

    context, spec = ray.train.get_context(), order.spec
    rank = context.get_world_rank()
    if not order.unfinished.is_dir():
        raise ConfigError(
            f"worker {rank} on node {os.uname().nodename} does not see {order.unfinished}; give --out on a file system "
            "that all nodes share"
        )
    store = Checkpoints(order.unfinished, order.owner, functools.partial(tell, "note"))
    base = load_base(resolve(order.base_model), str(ray.train.torch.get_device()), order.zero_stage)
    require_planned(base, spec)
    if rank == 0:
        store.claim()
    chosen = [store.newest(spec.run_id) if rank == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    start = functools.partial(
        finetune,
        spec.pipeline,
        order.task,
        base,
        spec.seed,
        budget=spec.budget,
        until=order.until,
        checkpoint=chosen[0],
        engine=functools.partial(ZeroEngine, stage=order.zero_stage, device=base.device),
        execution=order.execution,
        after_step=_Watch(order, store),
    )
    try:
        run = start()
    except DataError as error:  # the first rank has just read it well: a mistake of the file system, not of the user
        raise RuntimeError(f"worker {rank} cannot read {chosen[0]}: {error}") from None
    with run:
        if rank == 0:
            points = list(run.curve)
            tell("start", {"workers": run.ranks.size, "step": run.step, "of": run.total_steps, "points": points})
        for point in run:
            store.save(run)
            if rank == 0:
                tell("point", point)
            ray.train.report({"fidelity": point.fidelity, "score": point.score, "cost_s": point.cost_s})
        if run.status in ("oom", "error"):
            tell(run.status, run.error)
            raise _ToldError(f"worker {rank}: {run.error}")
        if run.was_stopped:
            store.save(run)
            result = run.result()
            if rank == 0:
                document = as_document(result, learning_rate=run.learning_rate, workers=run.ranks.size)
                tell("aside", {"step": run.step, "document": {**document, "zero_stage": order.zero_stage}})
            return
        if rank == 0:
            store.require_mine()
        document, write = conclude(run, order.folder)
        if rank == 0:
            try:
                write()
            except (OSError, SafetensorError) as error:
                tell("unwritable", " ".join(str(error).split())[:200])
                return
            tell("document", {**document, "zero_stage": order.zero_stage})


class _Watch:
    """Called after each step, by all ranks: True to stop there."""

    def __init__(self, order: Order, store: Checkpoints) -> None:
        self._order, self._store = order, store
        self._saved = self._looked = time.monotonic()

    def __call__(self, run: Finetuning) -> bool:
        import ray.train

        now, first = time.monotonic(), run.ranks.rank == 0
        look = first and now - self._looked > _LOOK_S
        save = first and now - self._saved > self._order.checkpoint_interval_s
        wanted = [preemption.is_noticed() or (first and self._order.stop.exists()), look, save]
        stop, look, save = (total > 0 for total in run.ranks.sum([float(one) for one in wanted]))
        if look:
            self._looked = now
            if first:
                self._store.require_mine()
            stop = ray.train.get_preemption_info() is not None or stop
        if save and not stop:
            self._saved = now
            self._store.save(run)
        return stop
