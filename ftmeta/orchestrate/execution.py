"""Runs on Ray Tune: one trial a run, on actors that are used again and again, each result kept as it comes.

In: a plan and the runs of it that are to be made. Out: their rows, in the ledger and in MLflow, as they finish. A
searcher hands out the next run when a slot is free, unless another driver of the same sweep has finished it meanwhile.
Tune keeps every trial of an experiment in memory (34 KB) and in its snapshots, so a long sweep is a row of experiments
of RUNS_PER_EXPERIMENT runs each: the work per run does not grow. Between two of them all slots wait for the slowest
run, so there are few.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ConfigError
from ftmeta.files import canonical_json
from ftmeta.orchestrate.connection import on_signals
from ftmeta.orchestrate.progress import Display, Totals, UnderWay
from ftmeta.orchestrate.state import State
from ftmeta.orchestrate.sweep import Plan, Sweep, spec_from_json, spec_to_json
from ftmeta.schema import RunSpec

if TYPE_CHECKING:
    from ray.tune import Callback, Stopper
    from ray.tune.search import Searcher

RUNS_PER_EXPERIMENT = 5000
_LANE_DEATHS = 1000  # lanes that are begun at most; the sweep ends long before where they die one after the other
_WAITING = {"cpu": 0.0, "memory": 1.0}  # of a slot whose run is elsewhere: a byte, because Tune refuses nothing at all

log = logging.getLogger("ftmeta.collect")


def run_all(plan: Plan, pending: Sequence[RunSpec], state: State) -> None:
    """Runs `pending` on Tune, experiment after experiment."""
    os.environ.update(_TUNE_SETTINGS)
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are rows; Tune's own words are noise here
    sweep = plan.sweep
    state.totals = Totals(len(pending), slots=min(_slots(sweep), len(pending)))
    began = time.monotonic()
    with (
        Display(sweep.name, len(pending), f"runs on {state.totals.slots} slots", "starting workers") as display,
        tempfile.TemporaryDirectory(prefix="ftmeta-tune-") as scratch,
    ):
        totals = state.totals
        state.show = lambda: display.update(
            len(pending) - (totals.planned - totals.done), f"{totals.left()} · {totals.line()}"
        )
        for first in range(0, len(pending), RUNS_PER_EXPERIMENT):
            specs = [spec for spec in pending[first : first + RUNS_PER_EXPERIMENT] if state.wanted(spec)]
            if specs and not state.stop:
                run = _run_experiment if sweep.runs_per_slot is None else _run_lanes
                run(plan, specs, state, Path(scratch) / str(first))
    state.tune_s = time.monotonic() - began


# Loggers, snapshots and signal handling of Tune's own are off: the ledger is the truth, and resuming starts from it.
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # it speaks even when told not to
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a worker as in the driver
}


def _run_experiment(plan: Plan, specs: Sequence[RunSpec], state: State, scratch: Path) -> None:
    from ray import tune

    from ftmeta.orchestrate.distributed import make_worker
    from ftmeta.orchestrate.trainable import SweepSlot

    sweep = plan.sweep
    slot = tune.with_parameters(
        SweepSlot,
        tasks=dict(plan.tasks),
        make_worker=functools.partial(make_worker, sweep, state.ledger.directory.parent),
    )
    # With several workers a run, Ray Train asks for the workers' own.
    resources = _resources(sweep) if sweep.workers_per_run is None else _WAITING
    _fit(slot, resources, _searcher(specs, state), _rows(state), len(specs), state, scratch)


def _run_lanes(plan: Plan, specs: Sequence[RunSpec], state: State, scratch: Path) -> None:
    """Slots that train many runs at once (lanes.py)."""
    from ray import tune

    from ftmeta.orchestrate import lanes
    from ftmeta.orchestrate.distributed import make_worker
    from ftmeta.orchestrate.lane_plan import lane_plan

    sweep = plan.sweep
    assert sweep.runs_per_slot is not None
    fit_together = functools.partial(
        lane_plan,
        pipelines=lanes.side_by_side(specs),
        wanted=sweep.runs_per_slot,
        cpus=sweep.cpus_per_slot,
        gpus=sweep.gpus_per_slot,
    )
    with lanes.queue_of(specs, state.ledger.directory, state.again) as queue:
        slot = tune.with_parameters(
            lanes.LaneSlot,
            tasks=dict(plan.tasks),
            queue=queue.actor,
            make_worker=functools.partial(make_worker, sweep, state.ledger.directory.parent),
            plan=fit_together,
        )
        for attempt in range(_LANE_DEATHS):  # what a lane that died had is left for the next ones
            if state.stop or not queue.waiting():
                break
            rows = lanes.rows(state, queue)
            place = scratch / str(attempt)
            _fit(slot, _resources(sweep), searcher_of(queue.lane), rows, _LANE_DEATHS, state, place)
        state.skip(queue.take_skipped())


def _resources(sweep: Sweep) -> dict[str, float]:
    return {"cpu": sweep.cpus_per_slot, **({"gpu": sweep.gpus_per_slot} if sweep.gpus_per_slot else {})}


def _fit(
    slot: Any, resources: dict[str, float], searcher: Searcher, rows: Callback, trials: int, state: State, scratch: Path
) -> None:
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(slot, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=trials,
            max_concurrent_trials=state.totals.slots,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            callbacks=[rows],
            stop=_stopper(state),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()


def _searcher(specs: Sequence[RunSpec], state: State) -> Searcher:
    """Hands out the runs in their order."""
    left = filter(state.wanted, specs)

    def following() -> dict[str, Any] | None:
        spec = next(left, None)
        return None if spec is None else {"spec": canonical_json(spec_to_json(spec))}

    return searcher_of(following)


def searcher_of(following: Callable[[], dict[str, Any] | None]) -> Searcher:
    """Hands out what `following` gives, until it is None. It has nothing to save: what is finished is in the ledger."""
    from ray.tune.search import Searcher

    class Queue(Searcher):
        def __reduce__(self) -> Any:
            return Searcher, ()  # Tune pickles its parts to restore them, and here is nothing to restore

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:  # a configuration, or the word that there is none left
            found = following()
            return Searcher.FINISHED if found is None else found

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return Queue()


def _spec_of(trial: Any) -> RunSpec:
    return spec_from_json(json.loads(trial.config["spec"]))


def _rows(state: State) -> Callback:
    from ray.tune import Callback

    class Rows(Callback):
        """Takes finished runs out of Tune's results, so that Tune does not keep them."""

        def __reduce__(self) -> Any:
            return Callback, ()  # as above

        def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            spec = _spec_of(trial)
            state.under_way[spec.run_id] = UnderWay(spec.run_id, spec.task, spec.pipeline.id, spec.seed)

        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            finished = result.pop("finished", None)
            if finished is not None:
                state.deaths = 0
                state.take(finished)
            elif (run := state.under_way.get(result.get("run_id", ""))) is not None:
                run.fidelity = result["fidelity"]

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            if not state.stop and not trial.last_result.get("done"):
                state.died(_spec_of(trial), trial.get_pickled_error())

    return Rows()


def _stopper(state: State) -> Stopper:
    from ray.tune import Stopper
    from ray.tune.stopper import NoopStopper

    class OnRequest(Stopper):
        def __reduce__(self) -> Any:
            return NoopStopper, ()  # as above

        def __call__(self, trial_id: str, result: dict) -> bool:
            return False

        def stop_all(self) -> bool:
            return state.stop

    return OnRequest()


def _slots(sweep: Sweep) -> int:
    """As many as the sweep says, or as fit on what the cluster has free now."""
    import ray

    if sweep.slots is not None:
        return sweep.slots
    free = ray.available_resources()
    room = [int(free.get("CPU", 0) / sweep.cpus_per_run)]
    if sweep.gpus_per_slot:
        room.append(int(free.get("GPU", 0) / sweep.gpus_per_run))
    if min(room) < 1:
        wanted = f"{sweep.cpus_per_run:g} CPU and {sweep.gpus_per_run:g} GPU"
        raise ConfigError(
            f"the cluster has {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU free, a slot needs {wanted}; "
            "lower cpus_per_slot, gpus_per_slot or workers_per_run, or say `slots:` for a cluster that grows"
        )
    return min(room)


@contextlib.contextmanager
def stopped_by_signals(state: State) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the sweep at the next moment between two results, a second one at once."""

    def request() -> None:
        if state.stop:
            raise KeyboardInterrupt
        state.stop = True
        log.warning("stopping; what is finished is kept, and submitting the sweep again goes on from there")

    with on_signals(request):
        yield
