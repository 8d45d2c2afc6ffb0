"""A run put aside: everything needed to continue it with a bit-identical curve. No pickle.

In a folder: `state.safetensors` (adapter, optimizer moments, random states) and `run.json` (which run, how far, its
curve so far). The base model is not in it, and the order of the data follows from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftmeta.errors import DataError
from ftmeta.files import atomic_path, write_json
from ftmeta.finetune.randomness import Randomness
from ftmeta.schema import CurvePoint

_FORMAT = 1


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


def save(
    folder: Path | str,
    progress: Progress,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    randomness: Randomness,
) -> None:
    """Writes the folder, which appears (or is replaced) when it is complete."""
    tensors = {f"adapter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{kind}/{name}"] = value
    for name, value in randomness.state().items():
        tensors[f"random/{name}"] = value
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        save_file({name: value.contiguous() for name, value in tensors.items()}, fresh / "state.safetensors")
        write_json(fresh / "run.json", {"format": _FORMAT, **asdict(progress)})


def read_progress(folder: Path | str, run_id: str) -> Progress:
    """Reads how far the run was. Raises DataError for a folder that is no checkpoint, torn, or of another run."""
    path = Path(folder) / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is no usable checkpoint ({error}); start the run without it") from None
    if values.pop("format", None) != _FORMAT or not (Path(folder) / "state.safetensors").is_file():
        raise DataError(f"{folder} is no checkpoint of this version of ftmeta; start the run without it")
    if values["run_id"] != run_id:
        raise DataError(
            f"{folder} belongs to run {values['run_id']}, not to {run_id}: pipeline, task, base model, seed and budget "
            "have to be the same; start the run without it"
        )
    return Progress(**{**values, "curve": tuple(CurvePoint(**point) for point in values["curve"])})


def load_tensors(
    folder: Path | str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    randomness: Randomness,
) -> None:
    """Puts adapter, optimizer and random states back."""
    tensors = load_file(Path(folder) / "state.safetensors")
    kinds = sorted({name.split("/")[1] for name in tensors if name.startswith("optimizer/")})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"adapter/{name}"])
            if kinds:
                optimizer.state[parameter] = {kind: _placed(kind, tensors, name, parameter) for kind in kinds}
    randomness.load({name.split("/")[1]: value for name, value in tensors.items() if name.startswith("random/")})


def _placed(kind: str, tensors: Mapping[str, torch.Tensor], name: str, parameter: nn.Parameter) -> torch.Tensor:
    return tensors[f"optimizer/{kind}/{name}"].to(parameter.device)
