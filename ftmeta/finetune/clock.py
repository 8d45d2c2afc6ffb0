"""What a run costs: device-seconds and peak memory, on the CPU and on CUDA.

On the CPU a device-second is a second of this process's CPU time over all its threads, which other load on the
machine does not move. On CUDA it is a second of wall time, with the device's queue drained before and after.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch


class Clock:
    """Adds up device-seconds and wall seconds of the blocks that it measures."""

    def __init__(self, device: torch.device, cost_s: float = 0.0) -> None:
        self.cost_s = cost_s
        self._device = device
        self._began: float | None = None

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        self._began = self._now()
        try:
            yield
        finally:
            self.cost_s, self._began = self.cost_so_far(), None

    def cost_so_far(self) -> float:
        """With the block under way, if there is one."""
        return self.cost_s if self._began is None else self.cost_s + self._now() - self._began

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.process_time()


class PeakMemory:
    """The peak since it was made, in GB (1e9 bytes).

    On CUDA: what torch allocated on the device. On the CPU: resident memory of the whole process, base model and
    libraries included, as Linux's high-water mark, which is set back at the start. Where that is not allowed (or not
    Linux) it is the larger of the readings at the start and at each `gb()`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak = 0
        self._has_mark = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._has_mark = True
            self._peak = psutil.Process().memory_info().rss

    def gb(self) -> float:
        if self._device.type == "cuda":
            self._peak = max(self._peak, torch.cuda.max_memory_allocated(self._device))
            return self._peak / 1e9
        self._peak = max(self._peak, psutil.Process().memory_info().rss, self._high_water() if self._has_mark else 0)
        return self._peak / 1e9

    @staticmethod
    def _high_water() -> int:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0
