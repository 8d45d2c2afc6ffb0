"""What the driver of a sweep keeps while its runs are made: the ledger, what is under way, and what has gone wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ftmeta.costs import usd_of
from ftmeta.errors import FtmetaError
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.progress import Totals, UnderWay
from ftmeta.orchestrate.workers import failed_result
from ftmeta.schema import RunResult, RunSpec, Status
from ftmeta.tracking import Sweep as TrackedSweep

FAILED: frozenset[Status] = frozenset({"error", "oom"})  # what --retry-failed runs again; diverging is a result


@dataclass
class State:
    """What the driver keeps while Tune runs; it does not grow with the number of runs that it makes."""

    ledger: Ledger
    tracking: TrackedSweep
    totals: Totals
    again: frozenset[str] = frozenset()  # runs that replace what the ledger has
    show: Callable[[], None] = lambda: None
    tune_s: float = 0.0  # wall seconds in which there were slots
    stop: bool = False
    deaths: int = 0  # runs in a row whose worker died
    failure: Exception | None = None
    under_way: dict[str, UnderWay] = field(default_factory=dict)  # by run id
    elsewhere: set[str] = field(default_factory=set)  # runs that another driver finished while this one was at work

    def take(self, result: RunResult, *, busy_s: float | None = None) -> None:
        """Keeps a finished run, for which a slot was at work for `busy_s` (None: as long as the run took). A failure to
        write it ends the sweep: rows come before everything else."""
        totals, run = self.totals, result.run
        self.under_way.pop(run.run_id, None)
        try:
            first = self.ledger.put(result, replace=run.run_id in self.again)
        except OSError as error:
            self.failure = FtmetaError(f"run {run.run_id} cannot be written to {self.ledger.directory}: {error}")
            self.stop = True
            return
        if first:
            self.tracking.log(result)
        else:
            self.elsewhere.add(run.run_id)  # whoever wrote its row sends it to MLflow
        totals.done += 1
        totals.failed += run.status in FAILED
        totals.busy_s += run.wall_s if busy_s is None else busy_s
        totals.cost_s += run.cost_s
        cost_usd = usd_of(run.cost_s, run.device)
        if cost_usd is not None:
            totals.cost_usd = (totals.cost_usd or 0.0) + cost_usd
        self.show()

    def wanted(self, spec: RunSpec) -> bool:
        """Whether a run whose turn has come is to be made: nobody has finished it meanwhile."""
        if spec.run_id in self.again or not self.ledger.has(spec.run_id):
            return True
        self.skip([spec.run_id])
        return False

    def skip(self, run_ids: Sequence[str]) -> None:
        """Runs that somebody else has finished."""
        self.elsewhere.update(run_ids)
        self.totals.planned -= len(run_ids)

    def died(self, spec: RunSpec, error: Exception | None) -> None:
        """A worker's process is gone; its run is a row too."""
        from ray.exceptions import OutOfMemoryError

        reason = " ".join(str(error).split()) if error is not None else "no reason known"
        status: Status = "oom" if isinstance(error, OutOfMemoryError) else "error"
        self.take(failed_result(spec, status, f"the worker died: {reason}"[:500]))
        self.count_death(reason)

    def count_death(self, reason: str) -> None:
        """Ends the sweep where one worker dies after the other."""
        self.deaths += 1
        if self.deaths >= max(3, 2 * self.totals.slots) and self.failure is None:
            self.failure = FtmetaError(f"{self.deaths} workers died one after the other; the last: {reason[-1000:]}")
            self.stop = True
