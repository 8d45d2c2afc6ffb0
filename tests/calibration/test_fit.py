"""Measurements made from a known profile: what the fit finds again, and what it says it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ftmeta.calibration.fit import Fit, Measured, fit
from ftmeta.calibration.workloads import workloads
from ftmeta.hardware import HardwareProfile, load_shipped
from ftmeta.schema import ModelShape

MICRO = ModelShape(1_537_920, 128, 344, 5, 2048, 512)
MINI = ModelShape(3_821_000_000, 3072, 8192, 32, 32064, 4096)
CPU, H100 = load_shipped("cpu-core"), load_shipped("h100-80gb")


def measured(
    shape: ModelShape, truth: HardwareProfile, *, noise: float = 0.0, seed: int = 0, repeats: int = 3
) -> list[Measured]:
    rng = np.random.default_rng(seed)
    found = []
    for one in workloads(shape):
        work = one.work(shape, 5, truth.weight_bytes)
        seconds = float(work.seconds(truth)[-1]) * np.exp(noise * rng.normal(size=repeats))
        found.append(Measured(work, tuple(seconds.tolist())))
    return found


def relative(found: Fit, truth: HardwareProfile, number: str) -> float:
    return float(getattr(found.profile, number)) / float(getattr(truth, number))


def test_a_core_of_another_speed_is_recovered() -> None:
    truth = replace(CPU, flops_per_s=9e10, overhead_s=1.1e-3)
    found = fit(measured(MICRO, truth), CPU)
    assert relative(found, truth, "flops_per_s") == pytest.approx(1, rel=1e-6)
    assert relative(found, truth, "overhead_s") == pytest.approx(1, rel=1e-6)
    assert found.median_relative_error < 1e-9
    # Small layers never wait for memory on a core, so the measurements cannot tell how fast it is.
    assert found.kept == ("bytes_per_s",)
    assert found.profile.bytes_per_s / found.profile.flops_per_s == pytest.approx(CPU.bytes_per_s / CPU.flops_per_s)


@pytest.mark.parametrize("seed", range(10))
def test_noise_moves_the_numbers_a_little(seed: int) -> None:
    truth = replace(CPU, flops_per_s=2.2e10, overhead_s=9e-4)
    found = fit(measured(MICRO, truth, noise=0.05, seed=seed), CPU)
    assert relative(found, truth, "flops_per_s") == pytest.approx(1, rel=0.1)
    assert relative(found, truth, "overhead_s") == pytest.approx(1, rel=0.3)  # a small part of this core's time
    assert found.kept == ("bytes_per_s",)
    assert found.median_relative_error < 0.08


@pytest.mark.parametrize("seed", range(10))
def test_all_three_numbers_where_the_work_shows_all_three(seed: int) -> None:
    truth = replace(H100, flops_per_s=3e14, bytes_per_s=6e11, overhead_s=3e-5)
    found = fit(measured(MINI, truth, noise=0.02, seed=seed), H100)
    assert found.kept == ()
    assert relative(found, truth, "flops_per_s") == pytest.approx(1, rel=0.1)
    assert relative(found, truth, "bytes_per_s") == pytest.approx(1, rel=0.2)
    assert found.median_relative_error < 0.04


def test_launches_alone_tell_nothing_about_arithmetic() -> None:
    truth = replace(H100, overhead_s=1.5e-3)  # of a small model on a large device
    found = fit(measured(MICRO, truth, noise=0.02), H100)
    assert set(found.kept) == {"flops_per_s", "bytes_per_s"}
    assert found.profile.flops_per_s == H100.flops_per_s
    assert found.profile.bytes_per_s == pytest.approx(H100.bytes_per_s)
    assert relative(found, truth, "overhead_s") == pytest.approx(1, rel=0.05)


def test_arithmetic_alone_tells_nothing_about_overhead() -> None:
    truth = replace(CPU, flops_per_s=3e10)
    found = fit(measured(MINI, truth, noise=0.02), CPU)
    assert "overhead_s" in found.kept
    assert found.profile.overhead_s == CPU.overhead_s
    assert relative(found, truth, "flops_per_s") == pytest.approx(1, rel=0.05)


def test_no_overhead_at_all_is_a_finding() -> None:
    truth = replace(CPU, overhead_s=0.0)
    found = fit(measured(MICRO, truth), CPU)
    assert "overhead_s" not in found.kept
    assert found.profile.overhead_s == pytest.approx(0.0, abs=1e-9)


def test_waiting_for_memory_alone_tells_nothing_about_arithmetic() -> None:
    truth = replace(CPU, bytes_per_s=2e8)
    found = fit(measured(MICRO, truth), CPU)
    assert "flops_per_s" in found.kept
    assert "bytes_per_s" not in found.kept
    assert found.median_relative_error < 0.01
    assert relative(found, truth, "bytes_per_s") == pytest.approx(1, rel=0.02)


def test_one_workload_that_went_wrong_does_not_move_the_rest() -> None:
    truth = replace(CPU, flops_per_s=9e10, overhead_s=1.1e-3)
    good = measured(MICRO, truth, noise=0.01)
    wrong = [*good[:4], replace(good[4], seconds=tuple(5 * s for s in good[4].seconds)), *good[5:]]
    found = fit(wrong, CPU)
    assert relative(found, truth, "flops_per_s") == pytest.approx(1, rel=0.1)
    assert relative(found, truth, "overhead_s") == pytest.approx(1, rel=0.2)
    assert found.errors[4] == pytest.approx(-0.8, abs=0.05)
    assert found.median_relative_error < 0.1


def test_a_slow_repeat_is_seen_in_the_spread_and_not_in_the_seconds() -> None:
    one = Measured(measured(MICRO, CPU)[0].work, (1.0, 1.1, 3.0))
    assert one.typical_s == 1.1
    assert one.spread == pytest.approx(2.0 / 1.1)
