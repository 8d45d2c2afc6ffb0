"""Measured seconds of known work -> the numbers of a hardware profile. Pure.

  seconds = max(FLOPs / flops_per_s, bytes / bytes_per_s) + layer passes * overhead_s      (ftmeta/costs.py)

Given the ratio r = flops_per_s / bytes_per_s this is linear in 1 / flops_per_s and overhead_s, so for each r of a grid
around the shipped ratio both come from non-negative least squares (Lawson and Hanson 1974) on relative errors, an error
above `HUBER` counting linearly (Huber 1964). Then:

- the shipped ratio is kept unless another one explains the measurements better by `LIKELIHOOD_GAIN`, with two workloads
  at least on each side of the roofline's corner (one that a single workload sees is that workload's own), or with all
  of them waiting for memory, where the nearest such ratio is taken;
- 1 / flops_per_s or overhead_s whose standard error is above `TOO_VAGUE` of it is kept as shipped, and the other is
  fitted again. Small models tell little about the arithmetic of large devices, and large ones little about overhead.

# M workloads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ftmeta.costs import Work
from ftmeta.hardware import HardwareProfile

Number = Literal["flops_per_s", "bytes_per_s", "overhead_s"]

HUBER = 0.1  # relative error
LEAST_NOISE = 0.02  # relative: seconds are not known better than this, however well a few of them fit
LIKELIHOOD_GAIN = 6.0  # twice the difference of log-likelihoods; by chance in 1.4 % of cases (chi-square, 1 degree)
TOO_VAGUE = 0.3
_RATIOS = np.concatenate([[1.0], 10.0 ** np.linspace(-2, 2, 161)])  # x the shipped ratio, itself first
_REWEIGHTINGS = 20


@dataclass(frozen=True)
class Measured:
    """One workload: what it had to do and how long each repeat took, in device-seconds."""

    work: Work  # its last entries count
    seconds: tuple[float, ...]

    @property
    def typical_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """How far the repeats are apart, relative to the middle one."""
        return (max(self.seconds) - min(self.seconds)) / self.typical_s


@dataclass(frozen=True)
class Fit:
    profile: HardwareProfile  # the shipped one with the numbers that were found
    kept: tuple[Number, ...]  # what the measurements cannot tell: the shipped number, or (bytes_per_s) ratio
    predicted_s: tuple[float, ...]  # of each workload
    errors: tuple[float, ...]  # predicted / measured - 1

    @property
    def median_relative_error(self) -> float:
        return float(np.median(np.abs(self.errors)))


def fit(measured: Sequence[Measured], shipped: HardwareProfile) -> Fit:
    """At least three workloads of different kinds. What `measured` cannot tell comes from `shipped`."""
    flops_M, bytes_M, passes_M, seconds_M = (
        np.array(column)
        for column in zip(
            *((m.work.flops[-1], m.work.bytes[-1], m.work.layer_passes[-1], m.typical_s) for m in measured), strict=True
        )
    )
    shipped_ratio = shipped.flops_per_s / shipped.bytes_per_s

    def rows(ratio: float) -> np.ndarray:
        """Seconds relative to the measured ones, for one second a FLOP and one a layer pass."""
        return np.stack([np.maximum(flops_M, bytes_M * ratio), passes_M], axis=1) / seconds_M[:, None]

    def corner_is_seen(ratio: float) -> bool:
        by_bytes = int((bytes_M * ratio > flops_M).sum())
        return 2 <= by_bytes <= len(measured) - 2 or by_bytes == len(measured)

    ratios = [r for r in _RATIOS * shipped_ratio if r == shipped_ratio or corner_is_seen(r)]
    losses = [_loss(rows(r) @ _solve(rows(r)) - 1) for r in ratios]
    best = int(np.argmin(losses))
    variance = max(2 * losses[best] / max(len(measured) - 3, 1), LEAST_NOISE**2)
    ratio = ratios[best] if 2 * (losses[0] - losses[best]) / variance > LIKELIHOOD_GAIN else shipped_ratio

    table_M2 = rows(ratio)
    solution = _solve(table_M2)
    kept: list[Number] = []
    deviation = _standard_errors(table_M2, solution)
    fallback = np.array([1 / shipped.flops_per_s, shipped.overhead_s])
    # An overhead of 0 can be known well: what it has to be small against is then the shipped one.
    vague = deviation > TOO_VAGUE * np.array([solution[0], max(solution[1], shipped.overhead_s)])
    if vague[1]:
        kept.append("overhead_s")
        solution = _solve(table_M2, held=(1, fallback[1]))
    elif vague[0] or solution[0] == 0:
        kept.append("flops_per_s")
        solution = _solve(table_M2, held=(0, fallback[0]))
    if (bytes_M * ratio > flops_M).all():
        kept.append("flops_per_s")
    elif ratio == shipped_ratio:
        kept.append("bytes_per_s")
    flops_per_s = 1 / solution[0]
    profile = replace(
        shipped, flops_per_s=float(flops_per_s), bytes_per_s=float(flops_per_s / ratio), overhead_s=float(solution[1])
    )
    predicted_M = table_M2 @ solution * seconds_M
    order: tuple[Number, ...] = ("flops_per_s", "bytes_per_s", "overhead_s")
    return Fit(
        profile=profile,
        kept=tuple(name for name in order if name in kept),
        predicted_s=tuple(predicted_M.tolist()),
        errors=tuple((predicted_M / seconds_M - 1).tolist()),
    )


def _solve(table_M2: np.ndarray, held: tuple[int, float] | None = None) -> np.ndarray:
    """Non-negative x with table x close to 1 in Huber's sense, by reweighting; `held` fixes one entry."""
    from scipy.optimize import nnls

    free = [column for column in (0, 1) if held is None or column != held[0]]
    target_M = np.ones(len(table_M2))
    solution = np.zeros(2)
    if held is not None:
        solution[held[0]] = held[1]
        target_M = target_M - table_M2[:, held[0]] * held[1]
    scale = np.abs(table_M2[:, free]).max(axis=0)  # the two columns are ten orders of magnitude apart
    weight_M = np.ones(len(table_M2))
    for _ in range(_REWEIGHTINGS):
        found, _ = nnls(table_M2[:, free] / scale * weight_M[:, None], target_M * weight_M)
        solution[free] = found / scale
        error_M = np.abs(table_M2 @ solution - 1)
        weight_M = np.sqrt(np.minimum(1.0, HUBER / np.maximum(error_M, 1e-12)))
    return solution


def _loss(error_M: np.ndarray) -> float:
    size_M = np.abs(error_M)
    return float(np.where(size_M <= HUBER, size_M**2 / 2, HUBER * (size_M - HUBER / 2)).sum())


def _standard_errors(table_M2: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """Of the two numbers, by the curvature of least squares and the errors that are left."""
    freedom = max(len(table_M2) - 2, 1)
    variance = max(2 * _loss(table_M2 @ solution - 1) / freedom, LEAST_NOISE**2)
    scale = np.abs(table_M2).max(axis=0)
    scaled = table_M2 / scale
    return np.sqrt(variance * np.diag(np.linalg.pinv(scaled.T @ scaled))) / scale
