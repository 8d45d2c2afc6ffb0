"""A meta-dataset from anyone's history: CSV tables in, a meta-dataset folder out.

    document = import_tables(load_space("space.yaml"), "runs.csv", "curves.csv", Path("my-history"))

`runs.csv` has `run_id, task, status` and one column a hyperparameter of the space; `curves.csv` has `run_id, fidelity,
score, cost_s`. Everything else that the Parquet tables have may be there too (docs/own-history.md). Rows that cannot be
used are listed, with their number and the reason; the rest is kept. Runs from MLflow come the same way
(ftmeta/tracking/history.py): what differs is where the text comes from.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftmeta.errors import DataError, MetaDatasetError
from ftmeta.files import atomic_path, require_writable
from ftmeta.hardware import HardwareProfile, list_hardware, load_hardware, profile_of
from ftmeta.metadataset.admission import Admitted, Key, Rules, admit
from ftmeta.metadataset.given import Rejected, read_csv
from ftmeta.schema import BaseModelInfo, Budget
from ftmeta.space import Space

REJECTED = "rejected.csv"
_SHOWN = 5  # reasons in the message when nothing is left


@dataclass(frozen=True)
class Origin:
    """Where imported runs come from, and what is known of them beside their rows."""

    source: str  # as the card says it
    budget: Budget
    base_models: Mapping[str, BaseModelInfo] = field(default_factory=dict)  # those that are known
    hardware: Mapping[str, HardwareProfile | None] = field(default_factory=dict)  # device -> profile
    metafeatures: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)  # beside those in the rows
    notes: Sequence[str] = ()  # sentences for the card


def import_tables(
    space: Space,
    runs: Path | str,
    curves: Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    one_scale: bool = False,
) -> dict[str, Any]:
    """Imports two CSV files into the folder `out`; the document of `ftmeta metadata import --json`.

    Raises DataError for files that cannot be read as a whole and when no run is left, MetaDatasetError when `out` holds
    something else.
    """
    require_place(Path(out))
    given_runs, given_curves = read_csv(runs, "runs", space), read_csv(curves, "curves", space)
    admitted = admit(given_runs.rows, given_curves.rows, space, Rules(space.max_fidelity))
    devices = {row["device"] for row in admitted.runs if row["device"] is not None}
    origin = Origin(
        source=f"the tables {Path(runs).name} and {Path(curves).name}",
        budget=space.budget(),
        hardware={device: _profile(device) for device in sorted(devices)},
    )
    document = keep(admitted, space, origin, out, name=name, one_scale=one_scale)
    return {**document, "ignored_columns": [*given_runs.ignored, *given_curves.ignored]}


def keep(
    admitted: Admitted, space: Space, origin: Origin, out: Path | str, *, name: str | None, one_scale: bool
) -> dict[str, Any]:
    """Scales what was admitted, writes the meta-dataset and the list of what was rejected. Raises DataError when
    nothing is left, and then writes nothing."""
    from ftmeta.metadataset.store import write_imported

    if not admitted.runs:
        raise DataError(_nothing_left(admitted.rejected))
    scales = _rescale(admitted, one_scale=one_scale)
    facts = {
        "source": origin.source,
        "scales": None if scales is None else {task: asdict(scale) for task, scale in scales.items()},
        "rejected": dict(Counter(one.table for one in admitted.rejected)),
        "notes": list(origin.notes),
    }
    manifest = write_imported(
        out,
        admitted.runs,
        admitted.curves,
        space=space,
        metafeatures=_joined(admitted.metafeatures, origin.metafeatures),
        base_models=origin.base_models,
        hardware=origin.hardware,
        budget=origin.budget,
        imported=facts,
        name=name,
    )
    _write_rejected(Path(out), admitted.rejected)
    return {
        "runs": len(admitted.runs),
        "tasks": len({row["task"] for row in admitted.runs}),
        "rejected": [one.to_json() for one in admitted.rejected],
        "curve_rows": len(admitted.curves),
        "statuses": manifest["statuses"],
        "scales": facts["scales"],
        "fingerprint": manifest["fingerprint"],
        "out": str(out),
    }


def require_place(out: Path) -> None:
    """Raises MetaDatasetError unless `out` is new, or an import that may be made again: collected runs are dear."""
    from ftmeta.metadataset.store import is_imported

    if (out / "ledger").exists() or ((out / "manifest.json").exists() and not is_imported(out)):
        raise MetaDatasetError(f"{out} holds a meta-dataset that was not imported; choose a new folder")
    if out.exists() and not out.is_dir():
        raise MetaDatasetError(f"{out} is a file; choose a new folder")
    require_writable(out)


def _rescale(admitted: Admitted, *, one_scale: bool) -> dict[str, Any] | None:
    """Puts the scores of the curves onto [0, 1], in place. Gives each task's scale; None: all as they were."""
    import numpy as np

    from ftmeta.metadataset.scaling import scaled, scales_of

    curves = admitted.curves
    task_of = {row["run_id"]: row["task"] for row in admitted.runs}
    if not curves:
        return None
    task_N = np.array([task_of[point["run_id"]] for point in curves])
    given_N, test_N = (np.array([point[column] for point in curves], dtype=float) for column in ("score", "test_score"))
    following = [*(point["run_id"] for point in curves[1:]), None]
    is_last_N = np.array([point["run_id"] != after for point, after in zip(curves, following, strict=True)])
    scales = scales_of(task_N, given_N, test_N, is_last_N, one_scale=one_scale)
    for column, values_N in (("score", given_N), ("test_score", test_N)):
        for point, value in zip(curves, scaled(task_N, values_N, scales).tolist(), strict=True):
            point[column] = None if point[column] is None else value
    return scales


def _profile(device: str) -> HardwareProfile | None:
    """Foreign tables may also name a profile instead of a device."""
    return load_hardware(device) if device in list_hardware() else profile_of(device)


def _joined(given: Mapping[Key, Mapping[str, float]], known: Mapping[Key, Mapping[str, float]]) -> dict[Key, Any]:
    return {key: {**known.get(key, {}), **features} for key, features in given.items()}


def _write_rejected(folder: Path, rejected: Sequence[Rejected]) -> None:
    if not rejected:
        (folder / REJECTED).unlink(missing_ok=True)
        return
    with atomic_path(folder / REJECTED) as path, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "why"])
        writer.writerows([one.table, one.row, one.why] for one in rejected)


def _nothing_left(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return "there are no runs in the tables; give at least one"
    first = "; ".join(f"{one.table} row {one.row}: {one.why}" for one in rejected[:_SHOWN])
    more = f"; and {len(rejected) - _SHOWN} more" if len(rejected) > _SHOWN else ""
    return f"no run is left, nothing is written: all {len(rejected)} rows were rejected. {first}{more}"
