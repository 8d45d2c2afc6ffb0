"""A machine that is about to be taken away says so by SIGTERM; the run is put aside before it goes.

Ray's workers end at once when they get SIGTERM. Here the signal raises a flag, which the training thread reads between
two steps. Signal handlers can only be set in a process's main thread, and Ray Train runs the training in another one,
so the handler comes in through the backend, whose hooks Ray Train calls in the main thread.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

_noticed = threading.Event()


def is_noticed() -> bool:
    """Whether this process has got SIGTERM."""
    return _noticed.is_set()


def _listen() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: _noticed.set())


@dataclass
class PreemptibleTorch(TorchConfig):
    """Ray Train's process group, in processes that outlive a SIGTERM."""

    @property
    def backend_cls(self) -> Any:
        ordinary: Any = super().backend_cls

        class Preemptible(ordinary):
            def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
                super().on_training_start(worker_group, backend_config)
                worker_group.execute(_listen)

        return Preemptible
