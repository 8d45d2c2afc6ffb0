"""A run put aside: everything needed to continue it with a bit-identical curve. No pickle.

In a folder: `state.safetensors` (adapter, optimizer moments, random states of each process) and `run.json` (which run,
how far, its curve so far, the checksum of the other file). The base model is not in it, and the order of the data
follows from the seed. The tensors are whole, however many processes wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftmeta.errors import DataError
from ftmeta.files import atomic_path, fingerprint_files, write_json
from ftmeta.schema import CurvePoint

_FORMAT = 2


def try_to_save(write: Callable[[Path], None], folder: Path) -> str | None:
    """Calls `write(folder)`. Returns why it cannot be written, where the disk is at fault: the run itself is well, and
    goes on as long as its process keeps it. Other errors are raised."""
    try:
        write(folder)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"
    except Exception as error:  # safetensors has an error of its own for a full disk
        if "space" not in str(error).lower():
            raise
        return f"{folder} cannot be written ({error})"
    return None


@dataclass(frozen=True)
class Progress:
    """How far a run has come, besides its tensors. Costs are device-seconds."""

    run_id: str
    step: int
    examples: int
    tokens: int
    cost_train_s: float
    cost_eval_s: float
    wall_s: float
    peak_memory_gb: float
    started_at: str
    curve: tuple[CurvePoint, ...]
    losses: tuple[float, ...] = ()  # of the steps since the last point of the curve


def save(folder: Path | str, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes the folder, which appears (or is replaced) when it is complete."""
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        state = fresh / "state.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, state)
        write_json(fresh / "run.json", {"format": _FORMAT, "state": fingerprint_files([state]), **asdict(progress)})


def load(folder: Path | str, run_id: str) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Reads it back. Raises DataError for a folder that is no checkpoint, torn, or of another run."""
    try:
        values = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
        found = (values.pop("format"), values.pop("state"))
        state = Path(folder) / "state.safetensors"
        whole = found == (_FORMAT, fingerprint_files([state]))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{folder} is no usable checkpoint ({error}); start the run without it") from None
    if not whole:
        raise DataError(
            f"{folder} is torn, or a checkpoint of another version of ftmeta; start the run without it, or from an "
            "older one"
        )
    if values["run_id"] != run_id:
        raise DataError(
            f"{folder} belongs to run {values['run_id']}, not to {run_id}: pipeline, task, base model, seed and budget "
            "have to be the same; start the run without it"
        )
    lists = {"curve": tuple(CurvePoint(**point) for point in values["curve"]), "losses": tuple(values["losses"])}
    return Progress(**{**values, **lists}), load_file(state)
