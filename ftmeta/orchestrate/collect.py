"""Sweeps: every planned run once, on Ray Tune, into a ledger and from there into Parquet and MLflow.

    summary = collect(load_sweep("jobs/configs/collect-smoke.yaml"), Path("/shared/smoke"))

In `out`: `ledger/` (a file a run, the truth), `sweep.yaml`, `drivers/` (what `ftmeta collect --status` reads), and the
meta-dataset that is written from the ledger at the end. Submitting the same sweep again goes on where it stopped.
Submitting it while it runs shares the work: the second driver starts from the other end, and no driver makes a run that
another has finished before its turn comes; where they meet, a few runs may be made twice, and the first row stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of
from ftmeta.errors import MetaDatasetError
from ftmeta.files import write_text
from ftmeta.hardware import profile_of
from ftmeta.metadataset import Ledger, find, write
from ftmeta.metadataset.folder import runs_in
from ftmeta.orchestrate.beacon import Beacon, earlier
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.execution import run_all, stopped_by_signals
from ftmeta.orchestrate.progress import Totals
from ftmeta.orchestrate.state import FAILED, State
from ftmeta.orchestrate.sweep import Plan, Sweep, load_sweep, make_plan
from ftmeta.schema import RunResult, RunSpec
from ftmeta.tracking import Dataset, Tracker, tracker
from ftmeta.tracking import Sweep as TrackedSweep

log = logging.getLogger("ftmeta.collect")


def collect_file(
    sweep: Path | str,
    out: Path | str,
    *,
    retry_failed: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    known: Sequence[str] = (),
) -> dict[str, Any]:
    """Collects the sweep of a YAML file; `tracking_uri` None takes `$MLFLOW_TRACKING_URI`, and none of both is off."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    return collect(
        load_sweep(sweep),
        Path(out),
        tracked=tracker(uri, "collect", usd=usd_of),
        retry_failed=retry_failed,
        address=address,
        known=known,
    )


def collect(
    sweep: Sweep,
    out: Path,
    *,
    tracked: Tracker | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    known: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs what is not in the ledger yet and returns the summary (the keys of `ftmeta collect --json`, and more).

    `address` is a Ray cluster's; None takes `$RAY_ADDRESS` (which a Ray job has), or starts Ray for this process only.
    `known` are meta-datasets (folders, or bundled names) whose runs count as made: those of the sweep go to the ledger.
    SIGINT and SIGTERM end the sweep with everything finished kept. Raises UserError for a sweep that cannot be planned,
    and FtmetaError when the workers die one after the other.
    """
    plan = make_plan(sweep)
    ledger = Ledger(out / "ledger")
    _adopt(known, plan, ledger)
    there = ledger.run_ids()  # once: what another driver finishes from here on is its own
    found = {result.run.run_id: result.run.status for result in _whole(plan, ledger, there, "it is run again now")}
    again = FAILED if retry_failed else frozenset()
    pending = [spec for spec in plan.runs if spec.run_id not in found or found[spec.run_id] in again]
    tracking = (tracked or Tracker(None, "")).sweep(
        sweep.name, sweep.fingerprint, _parameters(plan), _definition(sweep), datasets=_datasets(plan)
    )
    replaced = there & {spec.run_id for spec in pending}
    foreign = len(there) - len(found.keys() | replaced)
    state = State(ledger, tracking, Totals(len(pending), slots=1), again=frozenset(replaced))
    began = time.monotonic()
    write_text(out / "sweep.yaml", _definition(sweep))  # for `ftmeta metadata to-mlflow`
    try:
        with Beacon(out, _facts(plan, state, foreign)) as beacon:
            if pending:
                cpus = None if sweep.slots is None else max(1, math.ceil(sweep.slots * sweep.cpus_per_run))
                with connected(address, cpus), stopped_by_signals(state):
                    run_all(plan, _shared(pending, out), state)
            results = _compact(plan, ledger, out, tracking, untracked=state.elsewhere)
            beacon.ended = str(state.failure) if state.failure else "interrupted" if state.stop else "finished"
    except BaseException:
        tracking.close("error", {})
        raise
    summary = _summary(plan, results, state, skipped=len(plan.runs) - len(pending), wall_s=time.monotonic() - began)
    metrics = {f"runs.{name}": float(summary[name]) for name in ("planned", "done", "failed", "skipped")}
    costs = {"cost.device_seconds": summary["cost_s"], "cost.usd": summary["cost_usd"]}
    untracked = tracking.close(
        "stopped" if summary["interrupted"] else "ok",
        {**metrics, **costs, "wall_s": summary["wall_s"], "slot_efficiency": summary["slot_efficiency"]},
    )
    if state.failure is not None:
        raise state.failure
    return {**summary, "untracked": untracked}


def _adopt(known: Sequence[str], plan: Plan, ledger: Ledger) -> None:
    planned = {spec.run_id for spec in plan.runs}
    for name in known:
        results, problems = runs_in(find(name))
        for problem in problems:
            log.warning("%s %s; it is passed over", problem.path, problem.why)
        mine = [result for result in results if result.run.run_id in planned]
        written = sum(ledger.put(result) for result in mine)
        log.warning("%s: %d runs, %d of this sweep, %d new to its ledger", name, len(results), len(mine), written)


def _shared(pending: list[RunSpec], out: Path) -> list[RunSpec]:
    """The order in which this driver takes the runs: as planned where it is the first, from the other end where one is
    at work already, and from a place in between where several are."""
    others = earlier(out)
    if not others:
        return pending
    log.warning(
        "%s works on this sweep already; the work is shared",
        " and ".join(f"process {driver.pid} on {driver.host}" for driver in others),
    )
    first = len(pending) * len(others) // (len(others) + 1)
    return pending[::-1] if len(others) == 1 else [*pending[first:], *pending[:first]]


def _facts(plan: Plan, state: State, foreign: int) -> Callable[[], dict[str, Any]]:
    """What `--status` shows of this driver. `foreign`: runs in the ledger that are no part of the sweep."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    tasks = Counter(spec.task for spec in plan.runs)

    def facts() -> dict[str, Any]:
        totals = state.totals
        return {
            "sweep": plan.sweep.name,
            "began": began,
            "planned": len(plan.runs),
            "tasks": dict(tasks),
            "foreign": foreign,
            "slots": totals.slots,
            "submitted": totals.planned,
            "done": totals.done,
            "elsewhere": len(state.elsewhere),
            "wall_s": time.monotonic() - totals.began,
            "busy_s": totals.busy_s,
            "under_way": [asdict(run) for run in list(state.under_way.values())],
        }

    return facts


# --- what there is already, and what comes of it ----------------------------------------------------------------------


def _whole(plan: Plan, ledger: Ledger, there: Container[str], otherwise: str) -> Iterator[RunResult]:
    """Those planned runs that are there. A torn file counts as none, with a warning of what happens `otherwise`."""
    for spec in plan.runs:
        if spec.run_id in there:
            try:
                yield ledger.get(spec.run_id)
            except MetaDatasetError as error:
                log.warning("%s; %s", error, otherwise)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One driver at a time writes the tables: the last one to end has all rows, and no folder is a mixture."""
    path = out / "drivers" / ".tables.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        with contextlib.suppress(
            OSError
        ):  # a shared disk without locks: tables that mix are noticed when they are read
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compact(
    plan: Plan, ledger: Ledger, out: Path, tracking: TrackedSweep, untracked: Container[str] = ()
) -> list[RunResult]:
    """Writes the meta-dataset of the planned runs that the ledger has, and returns them. All but the `untracked` ones
    go to MLflow, where most are known to be: what an earlier submission could not send is sent now."""
    with _alone(out):
        results = list(_whole(plan, ledger, ledger.run_ids(), "the tables are without it"))
        for result in results:
            if result.run.run_id not in untracked:
                tracking.log(result)
        _write_tables(plan, results, out)
    return results


def _write_tables(plan: Plan, results: Sequence[RunResult], out: Path) -> None:
    from ftmeta.metafeatures import metafeatures
    from ftmeta.models import fast_tokenizer

    if results:
        tokenizer = fast_tokenizer(plan.base_model)
        write(
            out,
            results,
            space=plan.space,
            metafeatures={
                (name, plan.base_model.name): {**metafeatures(task, tokenizer), **_zero_shot(name, results)}
                for name, task in plan.tasks.items()
            },
            base_models={plan.base_model.name: plan.base_model},
            hardware={device: profile_of(device) for device in {result.run.device for result in results}},
            budget=plan.budget,
            name=plan.sweep.name,
        )


def _zero_shot(task: str, results: Sequence[RunResult]) -> dict[str, float]:
    """What the base model makes of the task, from fidelity 0 of its runs (ftmeta/finetune/zero_shot.py would measure
    the same once more); nothing where no run came that far. All runs agree, but for the rounding of different devices:
    the middle one counts."""
    from ftmeta.metafeatures import zero_shot

    points = [one.curve[0] for one in results if one.run.task == task and one.curve and one.curve[0].fidelity == 0]
    known = sorted(
        (point.val_nll, point.val_token_accuracy)
        for point in points
        if point.val_nll is not None and point.val_token_accuracy is not None
    )
    return zero_shot(*known[len(known) // 2]) if known else {}


def _summary(plan: Plan, results: list[RunResult], state: State, skipped: int, wall_s: float) -> dict[str, Any]:
    statuses = Counter(result.run.status for result in results)
    failed = sum(statuses[status] for status in FAILED)
    slot_s = state.totals.slots * state.tune_s
    return {
        "planned": len(plan.runs),
        "done": len(results) - failed,
        "failed": failed,
        "skipped": skipped,
        "elsewhere": len(state.elsewhere),
        "wall_s": wall_s,
        "busy_s": state.totals.busy_s,
        "slot_efficiency": state.totals.busy_s / slot_s if slot_s else 0.0,
        "slots": state.totals.slots,
        "statuses": dict(statuses),
        "interrupted": state.stop,
        "cost_s": state.totals.cost_s,
        "cost_usd": state.totals.cost_usd,
    }


def _parameters(plan: Plan) -> dict[str, Any]:
    pipelines = len({spec.pipeline.id for spec in plan.runs})
    return {
        "tasks": ", ".join(plan.tasks),
        "base_model": plan.base_model.name,
        "space": plan.space.name,
        "space_fingerprint": plan.space.fingerprint,
        "pipelines": pipelines,
        "seeds": ", ".join(map(str, plan.sweep.seeds)),
        "runs": len(plan.runs),
        **{f"budget.{name}": value for name, value in vars(plan.budget).items()},
    }


def _datasets(plan: Plan) -> list[Dataset]:
    return [Dataset(name, task.fingerprint) for name, task in plan.tasks.items()]


def _definition(sweep: Sweep) -> str:
    import yaml

    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False)
