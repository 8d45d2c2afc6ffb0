"""This machine's finetuning speed, measured and kept as a hardware profile.

    document = calibrate("phi3-micro")          # about a minute; keeps cpu-core-THIS_MACHINE

In: a base model, a name, a number of seconds. Out: the document of `ftmeta calibrate --json`, and a profile that
`load_hardware` and `detect` find from then on. Nothing is kept where the repeats differ by more than `most_spread`, or
where counted work explains the seconds worse than `most_error` (medians over the workloads).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ftmeta.calibration.device import Device, describe
from ftmeta.calibration.fit import Fit, Measured, Number, fit
from ftmeta.calibration.workloads import REFERENCE, workloads
from ftmeta.errors import FtmetaError, ModelError
from ftmeta.hardware import machine_name, peak_flops_per_s
from ftmeta.hardware_files import keep, place_for
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.schema import BaseModelInfo
from ftmeta.version import code_version

SECONDS = 60.0
MOST_SPREAD = 0.15
MOST_ERROR = 0.25

_WHY_KEPT: Mapping[Number, str] = {
    "flops_per_s": "arithmetic took too little of the time to tell its speed; it rests on {like}",
    "bytes_per_s": "waiting for memory was not what took the time; its ratio to flops_per_s is {like}'s",
    "overhead_s": "overhead took too little of the time to tell it; it is {like}'s",
}


def calibrate(
    base_model: str = "phi3-micro",
    *,
    hardware: str | None = None,
    seconds: float = SECONDS,
    device: str | None = None,
    most_spread: float = MOST_SPREAD,
    most_error: float = MOST_ERROR,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measures on `device` (None: a CUDA device where there is one) for about `seconds`, loading included, and keeps
    the profile as `hardware` (None: the shipped profile's name with this machine's). `say` is told what is going on.

    Raises UserError for what cannot be measured or kept, before anything is measured; FtmetaError for measurements that
    are no use.
    """
    began_s = time.perf_counter()
    info = resolve(base_model)
    where = _torch_device(device)
    here = describe(where)
    name = hardware or here.default_profile()
    place_for(name)
    here.check_name(name)

    say(f"loading {info.name}")
    base = _load(info, str(where))
    from ftmeta.calibration.measure import measure

    left_s = max(seconds - (time.perf_counter() - began_s), seconds / 2)
    measured = measure(base, workloads(info.shape), seconds=left_s, weight_bytes=here.like.weight_bytes, say=say)
    fitted = fit(list(measured.values()), here.like)
    require_good(measured, fitted, most_spread, most_error)
    path = keep(name, profile_entry(here, fitted, measured, info.name))
    return {
        "hardware": name,
        "tokens_per_s": _tokens_per_s(measured),
        "flops_utilisation": _utilisation(measured, here),
        "seconds": round(time.perf_counter() - began_s, 1),
        "path": str(path),
        "device": here.name,
        "base_model": info.name,
        "like": here.like.name,
        **{number: float(f"{value:.4g}") for number, value in _numbers(fitted).items()},
        "kept": {number: _WHY_KEPT[number].format(like=here.like.name) for number in fitted.kept},
        "median_relative_error": round(fitted.median_relative_error, 4),
        "repeat_spread": round(_spread(measured), 4),
        "workloads": [
            {
                "name": workload,
                "repeats": len(one.seconds),
                "measured_s": float(f"{one.typical_s:.4g}"),
                "predicted_s": float(f"{predicted_s:.4g}"),
                "spread": round(one.spread, 4),
            }
            for (workload, one), predicted_s in zip(measured.items(), fitted.predicted_s, strict=True)
        ],
    }


def require_good(
    measured: Mapping[str, Measured], fitted: Fit, most_spread: float = MOST_SPREAD, most_error: float = MOST_ERROR
) -> None:
    """Raises FtmetaError, with what was found and what to do, for measurements that no profile should rest on."""
    spread = _spread(measured)
    if spread > most_spread:
        raise FtmetaError(
            f"repeats of the same work took times that are {spread:.0%} apart (median over {len(measured)} workloads; "
            f"up to {most_spread:.0%} is usable), so no profile was kept; end other work on this machine and calibrate "
            "again, with more --seconds if that does not help"
        )
    if fitted.median_relative_error > most_error:
        name, error = max(zip(measured, fitted.errors, strict=True), key=lambda item: abs(item[1]))
        raise FtmetaError(
            f"counted work explains the measured seconds with a median error of {fitted.median_relative_error:.0%} (up "
            f"to {most_error:.0%} is usable; the worst is '{name}' with {error:+.0%}), so no profile was kept; "
            "calibrate again while nothing else runs here, or with the --base-model that you finetune"
        )


def profile_entry(here: Device, fitted: Fit, measured: Mapping[str, Measured], base_model: str) -> dict[str, Any]:
    """What stands in the profile's file (ftmeta/hardware_files.py)."""
    now = datetime.now(UTC)
    return {
        "description": here.description,
        **{number: float(f"{value:.6g}") for number, value in _numbers(fitted).items()},
        "weight_bytes": here.like.weight_bytes,
        "memory_gb": here.memory_gb,
        "price": here.price_key,
        "source": "measured",
        "as_of": now.date().isoformat(),
        "calibration": {
            "device": here.name,
            "machine": machine_name(),
            "measured_at": now.isoformat(timespec="seconds"),
            "base_model": base_model,
            "ftmeta": code_version(),
            "like": here.like.name,
            "kept": list(fitted.kept),
            "median_relative_error": round(fitted.median_relative_error, 4),
            "repeat_spread": round(_spread(measured), 4),
            "tokens_per_s": _tokens_per_s(measured),
        },
    }


def _numbers(fitted: Fit) -> dict[str, float]:
    numbers = asdict(fitted.profile)
    return {name: numbers[name] for name in ("flops_per_s", "bytes_per_s", "overhead_s")}


def _spread(measured: Mapping[str, Measured]) -> float:
    return float(np.median([one.spread for one in measured.values()]))


def _tokens_per_s(measured: Mapping[str, Measured]) -> float:
    """Training tokens a device-second: the strong default, 16 examples of 32 tokens a step."""
    reference = measured[REFERENCE]
    return round(float(reference.work.tokens[-1]) / reference.typical_s, 1)


def _utilisation(measured: Mapping[str, Measured], here: Device) -> float | None:
    """The FLOP rate of the workload that had the highest, over the peak of the shipped profile. None if the peak is not
    known: where it is exceeded, it is another device's."""
    peak = peak_flops_per_s(here.like.name) if here.is_known else None
    if peak is None:
        return None
    achieved = max(float(one.work.flops[-1]) / one.typical_s for one in measured.values()) / peak
    return round(achieved, 4) if achieved <= 1 else None


def _torch_device(device: str | None) -> Any:
    """Raises ModelError for one that torch does not know or have."""
    import torch

    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ModelError(f"device '{device}' is unknown; give cpu, cuda or cuda:0") from None
    if found.type not in ("cpu", "cuda"):
        raise ModelError(f"device '{device}' is not one that finetuning runs on; give cpu, cuda or cuda:0")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"torch finds {torch.cuda.device_count()} CUDA devices and no '{device}'; use --device cpu")
    return found


def _load(info: BaseModelInfo, device: str) -> LoadedModel:
    import torch

    try:
        return load(info, device)
    except (torch.OutOfMemoryError, MemoryError):
        raise ModelError(
            f"base model '{info.name}' does not fit into the memory of '{device}'; calibrate with a smaller "
            "--base-model"
        ) from None
