"""How a sweep stands, for any shell that sees its folder: `ftmeta collect --status OUT`.

In: the folder. Out: a document of plain values. The rows of the ledger are the truth; what its drivers have left in
`drivers/` (beacon.py) adds what is planned, under way, and how fast it goes. It works while drivers run, after they
were killed, and on a folder that has a ledger only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of
from ftmeta.errors import UserError
from ftmeta.metadataset.ledger import Brief, Ledger
from ftmeta.orchestrate.beacon import Driver, heard
from ftmeta.orchestrate.state import FAILED


@dataclass
class _Rows:
    """What the ledger adds up to."""

    tasks: dict[str, Counter[str]] = field(default_factory=dict)  # task -> status -> runs
    torn: int = 0
    cost_s: float = 0.0
    cost_usd: float | None = None

    @property
    def statuses(self) -> Counter[str]:
        return sum(self.tasks.values(), Counter[str]())


def sweep_status(out: Path) -> dict[str, Any]:
    """The keys of `ftmeta collect --status OUT --json`. Raises UserError where no sweep has been."""
    drivers = heard(out)
    if not drivers and not (out / "ledger").is_dir():
        raise UserError(f"{out} holds no sweep (neither ledger/ nor drivers/); give the --out of `ftmeta collect`")
    rows = _read(Ledger(out / "ledger"))
    running = [driver for driver in drivers if driver.state == "running"]
    said = drivers[0].said if drivers else {}  # of the one that spoke last
    planned, statuses = said.get("planned"), rows.statuses
    failed = sum(statuses[status] for status in FAILED)
    done = statuses.total() - failed
    per_hour = _per_hour(running)
    left = None if planned is None else max(0, planned - max(0, statuses.total() - said.get("foreign", 0)))
    return {
        "sweep": said.get("sweep"),
        "out": str(out),
        "running": bool(running),
        "drivers": [_driver(driver) for driver in drivers],
        "planned": planned,
        "done": done,
        "failed": failed,
        "left": left,
        "foreign": said.get("foreign"),
        "torn": rows.torn,
        "under_way": [_under_way(run) for driver in running for run in driver.said.get("under_way", [])],
        "runs_per_hour": per_hour,
        "time_left_s": 3600 * left / per_hour if per_hour and left is not None else None,
        "cost_s": rows.cost_s,
        "cost_usd": rows.cost_usd,
        "statuses": dict(statuses),
        "tasks": {
            task: {"planned": said.get("tasks", {}).get(task), **rows.tasks.get(task, {})}
            for task in sorted({*said.get("tasks", {}), *rows.tasks})
        },
    }


def _read(ledger: Ledger) -> _Rows:
    rows = _Rows()
    for one in ledger.briefs():
        if not isinstance(one, Brief):
            rows.torn += 1
            continue
        rows.tasks.setdefault(one.task, Counter())[one.status] += 1
        rows.cost_s += one.cost_s
        usd = usd_of(one.cost_s, one.device)
        if usd is not None:
            rows.cost_usd = (rows.cost_usd or 0.0) + usd
    return rows


def _per_hour(running: Sequence[Driver]) -> float | None:
    """Of all drivers together, each since its first slot was free; None before the first run is done."""
    rates = [3600 * d.said["done"] / d.said["wall_s"] for d in running if d.said.get("done") and d.said.get("wall_s")]
    return sum(rates) if rates else None


def _driver(driver: Driver) -> dict[str, Any]:
    told = ("began", "slots", "submitted", "done", "elsewhere", "wall_s", "busy_s", "ended")
    return {
        "host": driver.host,
        "pid": driver.pid,
        "state": driver.state,
        "seen_s_ago": driver.seen_s_ago,
        **{name: driver.said.get(name) for name in told},
    }


def _under_way(run: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in run.items() if name != "since"},
        "for_s": max(0.0, time.time() - run["since"]),
    }
