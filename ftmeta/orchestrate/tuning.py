"""Live tuning on a Ray cluster: `ftmeta tune`, and the job.

    document = tune(Definition("my-data.jsonl", budget=600), Path("/shared/my-tuning"))

In `out`: `tune.json` (what it is of), `journal.jsonl` and `optimizer.jsonl` (what happened; from them it is taken up
again), `runs/` (checkpoints), and in the end `incumbent/` (adapter, pipeline, curve, test scores), `strong-default/`
for comparison, `result.json` and `report.html`.

Why actors of our own and not short trials of Ray Tune: docs/lab-log.md has both, measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of
from ftmeta.errors import ConfigError, UserError
from ftmeta.files import fingerprint, require_writable, write_json, write_text
from ftmeta.optimizers.state import Recorded
from ftmeta.orchestrate.connection import connected, on_signals
from ftmeta.orchestrate.slots import RaySlots, SlotSize
from ftmeta.orchestrate.tune_view import View
from ftmeta.schema import Status
from ftmeta.tracking import TUNING, Dataset, Sweep, Tracker, tracker
from ftmeta.tuning import checkpoints
from ftmeta.tuning.definition import DEFINITION, STRONG_DEFAULT, Definition, Prepared, optimizer_of, prepare, problem_of
from ftmeta.tuning.document import document_of, result_of
from ftmeta.tuning.ending import Finalist, concluded, finalists, is_worth_validating, seconds_to_validate, validated
from ftmeta.tuning.journal import Journal, Trial
from ftmeta.tuning.loop import INTERRUPTED, Loop, Settings
from ftmeta.tuning.report import page

RESULT = "result.json"

log = logging.getLogger("ftmeta.tune")


def tune(
    definition: Definition, out: Path, *, address: str | None = None, tracking_uri: str | None = None
) -> dict[str, Any]:
    """Spends the budget and returns the document of `ftmeta tune --json`.

    `out` is new, or the folder of this very tuning, which is then taken up where it stopped. The first SIGINT or
    SIGTERM lets the fidelities under way end and names the incumbent; a second one ends it at once, to be taken up
    later.
    Raises UserError for what cannot be tuned, FtmetaError when the workers die one after the other.
    """
    began = time.monotonic()  # the budget's clock runs from here: connecting and loading are inside
    out = out.absolute()
    ended = _ended(out)
    if ended is not None:
        log.warning("the tuning in %s has ended (%s); this is its result", out, ended["stopped"])
        return ended
    prepared = prepare(_place(definition, out))
    cpus = None if definition.slots is None else max(1, math.ceil(definition.slots * definition.cpus_per_slot))
    with connected(address, cpus), Journal(out / "journal.jsonl") as journal:
        size = SlotSize(definition.cpus_per_slot, definition.gpus_per_slot, definition.runs_per_slot or 1)
        prepared = prepared.with_slots(_room(size))
        prepared.definition.save(out)
        count = prepared.definition.slots
        assert count is not None
        with RaySlots(count, size, prepared.task, definition.base_model, prepared.base_model, out) as slots:
            return _tuned(prepared, out, slots, journal, tracker(tracking_uri, "tune", usd=usd_of), began)


def resumed(out: Path, **options: Any) -> dict[str, Any]:
    """Takes up the tuning in `out` with what is left of its budget. One that has ended gives its result."""
    return tune(Definition.load(out), out, **options)


def _ended(out: Path) -> dict[str, Any] | None:
    """The result of a tuning that came to its end; None: there is more to do."""
    try:
        document: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if document.get("stopped") == INTERRUPTED else document


def _place(definition: Definition, out: Path) -> Definition:
    """The definition, or that of `out` if it is the same tuning. Raises UserError where `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        require_writable(out)
        return definition
    if not (out / DEFINITION).is_file():
        raise UserError(f"{out} exists already and holds no tuning; name a new folder with --out")
    there = Definition.load(out)
    for field in dataclasses.fields(there):
        before, now = getattr(there, field.name), getattr(definition, field.name)
        if now and before != now:
            raise UserError(
                f"{out} holds another tuning ({field.name} was {before}, and now it is {now}); name a new folder, or "
                f"take that one up with --resume {out}"
            )
    return there


def _tuned(
    prepared: Prepared, out: Path, slots: RaySlots, journal: Journal, tracked: Tracker, began: float
) -> dict[str, Any]:
    children = _tracked(tracked, prepared, out)
    try:
        document = _search(prepared, out, slots, journal, children, began)
    except BaseException as error:
        children.close("stopped" if isinstance(error, KeyboardInterrupt) else "error", {})
        raise
    status: Status = "stopped" if document["stopped"] == INTERRUPTED else "ok"
    children.close(status, _totals(document), _artifacts(out))
    return document


def _search(
    prepared: Prepared, out: Path, slots: RaySlots, journal: Journal, children: Sweep, began: float
) -> dict[str, Any]:
    definition = prepared.definition
    problem, specs, warnings = problem_of(prepared, slots.size)
    runs, named = out / "runs", {spec.run_id: spec for spec in specs}
    task, examples = prepared.task, prepared.budget.eval_examples
    settings = Settings(
        definition.least_gain,
        definition.keep_paused,
        lambda journal: seconds_to_validate(journal, task, examples, definition.top, slots.size),
    )
    for warning in warnings:
        log.warning("%s", warning)

    def report(run_id: str, trial: Trial) -> None:
        children.log(result_of(trial, named[run_id]), has_ended=trial.status != "stopped")

    make = optimizer_of(prepared, problem)
    with Recorded(make, out / "optimizer.jsonl") as optimizer, View(prepared, specs, problem) as view:
        loop = Loop(
            *(problem, specs, optimizer, prepared.limit, slots, journal, runs, settings),
            show=view.update,
            report=report,
            began=began,
        )
        with _interrupted_by_signals(loop):
            why = loop.run()
            view.say(f"the search has ended: {why}")
            best = finalists(journal, runs, definition.top)
            if best and is_worth_validating(task, examples):
                view.say(f"scoring the best {len(best)} runs on the whole validation split")
                best = validated(slots, journal, best, named, runs)
            compared = _compared(best, journal, runs, problem.named, specs)
            if compared:
                view.say("scoring on the test split")
            scored = concluded(slots, compared, named, runs, out)
        inside = optimizer.inside
    document = document_of(prepared, problem, specs, journal, inside, slots.size, why, best, scored, warnings, out)
    for run_id, trial in journal.trials.items():
        if trial.status == "stopped":
            children.log(result_of(trial, named[run_id]))
    write_json(out / RESULT, document)
    write_text(out / "report.html", page(document))
    if why != INTERRUPTED:
        _tidy(runs, best)
    return document


def _tracked(tracked: Tracker, prepared: Prepared, out: Path) -> Sweep:
    """The parent run, whose children are the runs. Its key is what the tuning is of, and where."""
    definition = dataclasses.asdict(prepared.definition)
    name = f"{prepared.task.name} {prepared.definition.method}"
    key = fingerprint({**definition, "out": str(out)})
    params = {**definition, "task": prepared.task.name}
    datasets = [Dataset(prepared.task.name, prepared.task.fingerprint)]
    return tracked.sweep(name, key, params, kind=TUNING, datasets=datasets)


def _artifacts(out: Path) -> dict[str, Path]:
    """What goes to MLflow beside the runs; checkpoints do not."""
    named = {name: out / name for name in (RESULT, "report.html", "incumbent")}
    return {name: path for name, path in named.items() if path.exists()}


def _totals(document: Mapping[str, Any]) -> dict[str, float | None]:
    best, test, spent = document["incumbent"], document["test"], document["spent"]
    return {
        "runs.done": float(len(document["runs"])),
        "incumbent.score": None if best is None else best["score"],
        "incumbent.test_score": None if test is None else test["score"],
        "cost.device_seconds": spent["device_s"],
        "cost.usd": spent["usd"],
        "wall_s": spent["wall_s"],
        "slot_efficiency": document["slot_efficiency"],
    }


def _compared(
    best: list[Finalist], journal: Journal, runs: Path, named: Mapping[str, int], specs: Any
) -> dict[str, Finalist]:
    """What is scored on the test split: the incumbent, and the strong default where it is another and was run."""
    if not best:
        return {}
    found = {"incumbent": best[0]}
    n = named.get(STRONG_DEFAULT)
    trial = None if n is None else journal.trials.get(specs[n].run_id)
    if n is not None and trial is not None and specs[n].run_id != best[0].run_id:
        fidelity = checkpoints.best_of(trial.curve, trial.curve.keys())
        if fidelity is not None:
            found[STRONG_DEFAULT] = Finalist(specs[n].run_id, fidelity, trial.curve[fidelity])
    return found


def _tidy(runs: Path, best: list[Finalist]) -> None:
    """The finalists' checkpoints stay, at the fidelity that they are finalists with."""
    kept = {one.run_id: one.fidelity for one in best}
    for folder in runs.iterdir() if runs.is_dir() else ():
        for fidelity in checkpoints.there(folder):
            if kept.get(folder.name) != fidelity:
                checkpoints.remove(checkpoints.folder_of(folder, fidelity))
        if folder.name not in kept:
            checkpoints.remove(folder)


def _room(size: SlotSize) -> int:
    """As many slots as fit on what the cluster has free now."""
    import ray

    free = ray.available_resources()
    room = [int(free.get("CPU", 0) / size.cpus)]
    if size.gpus:
        room.append(int(free.get("GPU", 0) / size.gpus))
    if min(room) < 1:
        raise ConfigError(
            f"the cluster has {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU free, a slot needs "
            f"{size.cpus:g} CPU and {size.gpus:g} GPU; ask for smaller slots, or say --slots for a cluster that grows"
        )
    return min(room)


@contextlib.contextmanager
def _interrupted_by_signals(loop: Loop) -> Iterator[None]:
    def request() -> None:
        if loop.is_interrupted:
            raise KeyboardInterrupt
        loop.interrupt()
        log.warning("stopping after the fidelities under way; once more ends it at once, to be taken up with --resume")

    with on_signals(request):
        yield
