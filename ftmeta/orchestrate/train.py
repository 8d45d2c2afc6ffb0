"""One run on several workers of a Ray cluster: Ray Train around the worker's own loop, DeepSpeed inside.

    with connected():
        document = train(spec, task, "phi3-micro", Path("/shared/out"), Workers(count=2))

In: what `finetune_to_folder` takes, and how many workers of what size. Out: the same document and folder. A worker or a
node that dies is replaced, and the run goes on from its newest whole checkpoint; so it does when it is submitted again
with the same folder. The folder lies on a file system that all nodes share.

Who does what: Ray Train places the workers, joins them into a process group and starts them again after a failure. The
ranks (rank.py) tell an inbox, an actor beside the driver, what happens; the driver (here) reads it and decides.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import require_new, write_text
from ftmeta.finetune.engine import Execution
from ftmeta.orchestrate.checkpoints import checkpoints_in
from ftmeta.orchestrate.connection import on_signals
from ftmeta.orchestrate.rank import Order, train_rank
from ftmeta.orchestrate.room import Workers, require_room
from ftmeta.schema import CurvePoint, RunSpec, Task

_TRY_S = 5.0  # of waiting for places, after which they are counted again
RETRIES = 3  # worker failures of a run that are mended by starting its workers again

log = logging.getLogger("ftmeta.train")

# Ray Train looks after its workers this often; its own default of 2 s holds up each point of a short run.
_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a worker as in the driver
}


@dataclass
class Outcome:
    """What the inbox has heard so far."""

    document: dict[str, Any] | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)  # workers and first step of each start
    notes: list[str] = field(default_factory=list)
    aside: int | None = None  # the step at which the workers put the run aside
    so_far: dict[str, Any] | None = None  # the document of then
    mistake: str | None = None
    unwritable: str | None = None  # why the folder of the finished run could not be written
    oom: str | None = None  # what ran out of memory, and would again


class Inbox:
    """An actor without a core. `put` is called by the ranks, the rest by the driver."""

    def __init__(self) -> None:
        self._items: list[tuple[str, Any]] = []
        self._settled = False

    def put(self, kind: str, value: Any) -> None:
        self._items.append((kind, value))
        self._settled = self._settled or kind in ("document", "mistake", "oom", "unwritable")

    def take(self) -> list[tuple[str, Any]]:
        taken, self._items = self._items, []
        return taken

    def is_settled(self) -> bool:
        """Whether there is nothing more to do for the ranks."""
        return self._settled


def train(
    spec: RunSpec,
    task: Task,
    base_model: str,
    folder: Path,
    workers: Workers,
    *,
    until: int | None = None,
    zero_stage: int = 2,
    execution: Execution = Execution(),  # noqa: B008  # frozen
    checkpoint_interval_s: float = 300.0,
    replace: bool = False,
    stop: threading.Event | None = None,
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> dict[str, Any]:
    """Runs to the end, to fidelity `until`, or until `stop` is set or SIGTERM comes, and returns the document of
    `ftmeta finetune --json`, with `starts` and `notes`: how often the workers were started, from which step, and what
    went wrong on the way.

    Needs a connection to Ray. Raises UserError for what cannot be run, and FtmetaError when the workers fail more than
    RETRIES times or find no place; the checkpoints stay, and the same call goes on from them.
    """
    folder = folder.absolute()
    require_new(folder, replace=replace)
    require_room(workers)
    order = Order(
        spec=spec,
        task=task,
        base_model=base_model,
        until=until,
        folder=folder,
        zero_stage=zero_stage,
        execution=execution,
        threads=max(1, int(workers.cpus_each)),
        checkpoint_interval_s=checkpoint_interval_s,
        owner=secrets.token_hex(8),
    )
    os.environ.update(_TRAIN_SETTINGS, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=str(workers.wait_s / _tries(workers)))
    _take_over(order)
    outcome = Outcome()
    with _inbox() as inbox, _stopped_by_signals(order):
        while outcome.document is None:
            outcome.aside = None
            failure = _fit(order, workers, inbox, outcome, stop or threading.Event(), on_point)
            if outcome.mistake is not None:
                raise UserError(outcome.mistake)
            if outcome.unwritable is not None:
                raise FtmetaError(
                    f"the run has come to its end, but {folder} could not be written ({outcome.unwritable}); make room "
                    f"there: {_resume(order)}"
                )
            if outcome.oom is not None or (outcome.aside is not None and order.stop.exists()):
                break
            if failure is not None:
                raise _explained(failure, workers, order)
            if outcome.document is None and outcome.aside is None:
                raise FtmetaError(f"the workers ended without a word; {_resume(order)}")
            if outcome.document is None:
                _note(
                    outcome,
                    f"put aside at step {outcome.aside}, because a worker or its node is about to be taken away",
                )
    document = outcome.document or _unfinished(order, outcome, workers)
    if outcome.document is not None:
        try:
            shutil.rmtree(order.unfinished)
        except OSError as error:
            _note(outcome, f"{order.unfinished} could not be removed ({error.strerror}); it is not needed any more")
    return {**document, "starts": outcome.starts, "notes": outcome.notes}


def _take_over(order: Order) -> None:
    """Makes this command the one that the workers of the run obey; those of another one end when they next write."""
    order.unfinished.mkdir(exist_ok=True)
    of_run = order.unfinished / "run"
    there = of_run.read_text(encoding="utf-8") if of_run.is_file() else order.spec.run_id
    if there != order.spec.run_id:
        raise UserError(
            f"{order.unfinished} holds the checkpoints of another run ({there}, and this one is {order.spec.run_id}); "
            "name another --out, or remove it"
        )
    write_text(of_run, order.spec.run_id)
    write_text(order.unfinished / "owner", order.owner)


def _fit(
    order: Order,
    workers: Workers,
    inbox: Any,
    outcome: Outcome,
    stop: threading.Event,
    on_point: Callable[[CurvePoint], None],
) -> Exception | None:
    """Runs Ray Train until the workers have ended for good; returns why, if they failed."""
    failures: list[Exception] = []

    def fit() -> None:
        try:
            _trainer(order, workers, inbox).fit()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
        if stop.is_set():
            order.stop.touch()
        _listen(inbox, outcome, on_point)
    _listen(inbox, outcome, on_point)
    return failures[0] if failures else None


def _trainer(order: Order, workers: Workers, inbox: Any) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ftmeta.orchestrate.preemption import PreemptibleTorch

    return TorchTrainer(
        train_rank,
        train_loop_config={"order": order, "inbox": inbox},
        torch_config=PreemptibleTorch(backend="nccl" if workers.gpus_each else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count if workers.fewest is None else (workers.fewest, workers.count),  # type: ignore[arg-type]
            use_gpu=workers.gpus_each > 0,
            resources_per_worker=workers.each,
            placement_strategy=workers.placement,
        ),
        run_config=RunConfig(
            name=f"{order.spec.task}-{order.spec.run_id}",
            storage_path=str(order.unfinished / "ray"),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=_tries(workers) - 1),  # type: ignore[call-arg]
        ),
    )


def _tries(workers: Workers) -> int:
    """How often Ray Train looks for places within `wait_s`. Where the run may go on with fewer workers it decides their
    number before each try, and just after a node has died it still counts on that node."""
    return 1 if workers.fewest is None else max(1, math.ceil(workers.wait_s / _TRY_S))


def _listen(inbox: Any, outcome: Outcome, on_point: Callable[[CurvePoint], None]) -> None:
    import ray

    for kind, value in ray.get(inbox.take.remote()):
        match kind:
            case "start":
                outcome.starts.append({"workers": value["workers"], "step": value["step"]})
                if value["step"]:
                    log.warning("%d workers go on from step %d of %d", value["workers"], value["step"], value["of"])
                for point in value["points"]:
                    _take_point(point, outcome, on_point)
            case "point":
                _take_point(value, outcome, on_point)
            case "note":
                _note(outcome, value)
            case "aside":
                outcome.aside, outcome.so_far = value["step"], value["document"]
            case "mistake":
                outcome.mistake = outcome.mistake or value
            case "unwritable":
                outcome.unwritable = value
            case "document":
                outcome.document = value
            case "oom":
                outcome.oom = outcome.oom or value
            case _:  # an error of a rank; those of the others often follow from it
                _note(outcome, f"a worker failed: {value}")


def _note(outcome: Outcome, line: str) -> None:
    outcome.notes.append(line)
    log.warning("%s", line)


def _take_point(point: CurvePoint, outcome: Outcome, on_point: Callable[[CurvePoint], None]) -> None:
    """Each fidelity once: workers that start again measure the last ones again."""
    if point.fidelity == len(outcome.curve):
        outcome.curve.append(point)
        on_point(point)


def _unfinished(order: Order, outcome: Outcome, workers: Workers) -> dict[str, Any]:
    """The document of a run that was put aside, or that ran out of memory: of that one the cost since its last point is
    not known."""
    from ftmeta.finetune.settings import settings_of
    from ftmeta.finetune.single import as_document
    from ftmeta.models import resolve
    from ftmeta.orchestrate.workers import failed_result

    if outcome.oom is None:
        assert outcome.so_far is not None
        return {**outcome.so_far, "error": f"put aside at step {outcome.aside}; {_resume(order)}"}
    rate = settings_of(order.spec.pipeline).lr_multiplier * resolve(order.base_model).reference_lr
    result = failed_result(order.spec, "oom", outcome.oom, tuple(outcome.curve))
    return {**as_document(result, learning_rate=rate, workers=workers.count), "zero_stage": order.zero_stage}


def _explained(failure: Exception, workers: Workers, order: Order) -> FtmetaError:
    """Ray Train's failure in a line, with what to do."""
    import ray
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(failure, ControllerError):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return FtmetaError(
            f"the workers found no place within {workers.wait_s:g} s: {workers} were asked for, and the cluster has "
            f"{len(nodes)} nodes ({ray.available_resources().get('CPU', 0):g} CPU free); {_resume(order)}"
        )
    if not isinstance(failure, WorkerGroupError):
        said = " ".join(str(failure).split())[-600:]
        return FtmetaError(f"Ray Train failed: {type(failure).__name__}: {said}; {_resume(order)}")
    rank, cause = next(iter(failure.worker_failures.items()), (None, failure))
    said = " ".join(str(cause).split())[-600:]
    return FtmetaError(f"the workers failed {RETRIES + 1} times; worker {rank} last: {said}; {_resume(order)}")


def _resume(order: Order) -> str:
    if not checkpoints_in(order.unfinished):
        return "no checkpoint was written yet, so the same command starts anew"
    return f"what is done is kept in {order.unfinished}, and the same command goes on from there"


@contextlib.contextmanager
def _inbox() -> Iterator[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(Inbox).options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    try:
        yield actor
    finally:
        ray.kill(actor)


@contextlib.contextmanager
def _stopped_by_signals(order: Order) -> Iterator[None]:
    """The first SIGINT or SIGTERM has the run put aside at the next step, a second one ends it at once."""

    def request() -> None:
        if order.stop.exists():
            raise KeyboardInterrupt
        order.stop.touch()
        log.warning("putting the run aside at the next step; the same command goes on from there")

    with on_signals(request):
        yield
