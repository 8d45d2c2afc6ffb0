"""The benchmark's units on Ray, one core each: what is there already is kept, so an interrupted benchmark goes on.

In: a meta-dataset and settings (ftmeta/benchmark/units.py), a folder. Out: the folder with `parts/` (one JSON file a
unit, written as it comes), `benchmark.json`, `report.md` and plots.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftmeta.benchmark.report import document_of, write_report
from ftmeta.benchmark.units import Settings, Unit, compute, units_of
from ftmeta.errors import FtmetaError
from ftmeta.files import require_writable, write_json
from ftmeta.metadataset import MetaDataset, join, load
from ftmeta.orchestrate.connection import connected, on_signals
from ftmeta.orchestrate.progress import Display, time_left

log = logging.getLogger("ftmeta.benchmark")


def run_benchmark(
    metadata: Sequence[str | Path],
    settings: Settings,
    out: Path,
    *,
    address: str | None = None,
    slots: int | None = None,
) -> dict[str, Any]:
    """Computes what is missing and writes the report; returns the document of `ftmeta benchmark --json`.

    Raises UserError where there is nothing to compare, KeyboardInterrupt after a signal (finished units are kept).
    """
    started = time.perf_counter()
    meta = join([load(folder) for folder in metadata])
    units, left_out = units_of(meta, settings)
    parts = out / "parts"
    require_writable(parts / "x")
    parts.mkdir(parents=True, exist_ok=True)
    found = {unit.name: part for unit in units if (part := _kept(parts, unit, meta, settings)) is not None}
    missing = [unit for unit in units if unit.name not in found]
    if missing:
        with connected(address, slots):
            for part in _computed(meta, missing, settings, done=len(found), of=len(units)):
                found[part["unit"]] = part
                write_json(parts / f"{part['unit']}.json", part)
    document = document_of([found[unit.name] for unit in units], settings, meta, left_out)
    document["seconds"] = round(time.perf_counter() - started, 1)
    document["computed"] = len(missing)
    document["cores"] = slots or os.cpu_count()
    write_json(out / "benchmark.json", document)
    write_report(out, document, [found[unit.name] for unit in units])
    return document


def _kept(parts: Path, unit: Unit, meta: MetaDataset, settings: Settings) -> dict[str, Any] | None:
    """The unit's result of an earlier time, if it was made of the same."""
    try:
        part = json.loads((parts / f"{unit.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return part if isinstance(part, dict) and part.get("made_of") == unit.made_of(meta, settings) else None


def _computed(meta: MetaDataset, units: list[Unit], settings: Settings, *, done: int, of: int) -> Any:
    """Yields the parts as they come."""
    import ray

    began, stop = time.monotonic(), [False]
    shared = ray.put(meta)
    remote = ray.remote(num_cpus=1, max_retries=3)(compute)
    waiting = {remote.remote(shared, unit, settings): unit for unit in units}

    def request() -> None:
        stop[0] = True

    total = len(waiting)
    with on_signals(request), Display("benchmark", of, "units", f"{done} are there") as display:
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=0.5)
            for reference in ready:
                unit = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause if isinstance(error.cause, FtmetaError) else None
                    if cause is not None:
                        raise cause from None
                    said = " ".join(str(error).split())[-400:]
                    raise FtmetaError(f"unit {unit.name} failed: {said}; what is done is kept") from None
            display.update(of - len(waiting), time_left(total - len(waiting), total, began))
            if stop[0]:
                raise KeyboardInterrupt
    log.info("%d units in %.0f s", total, time.monotonic() - began)
