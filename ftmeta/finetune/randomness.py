"""A run's own random numbers: torch's generators hold the run's state while it trains, and the caller's otherwise.

So the state after any step is one small thing that a checkpoint can keep, and runs cannot disturb one another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch


class Randomness:
    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._is_active = False
        self._state: dict[str, torch.Tensor] = {}
        self._devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self._devices):
            torch.manual_seed(seed)
            self._read()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Dropout, NEFTune and initialisation inside the block draw from the run's state."""
        with torch.random.fork_rng(self._devices):
            self._write()
            self._is_active = True
            try:
                yield
            finally:
                self._read()
                self._is_active = False

    def split(self, rank: int, *more: int) -> None:
        """Gives each of several processes its own numbers, `more` telling occasions apart; rank 0 keeps the run's."""
        if rank or more:
            seed = int(np.random.SeedSequence([self._seed, rank, *more]).generate_state(1, np.uint64)[0] >> 1)
            with torch.random.fork_rng(self._devices):
                torch.manual_seed(seed)
                self._read()

    def state(self) -> dict[str, torch.Tensor]:
        """Byte tensors by name, also inside `active`."""
        if self._is_active:
            self._read()
        return dict(self._state)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state = {name: state[name] for name in self._state}

    def _read(self) -> None:
        self._state = {"cpu": torch.get_rng_state()}
        for device in self._devices:
            self._state["cuda"] = torch.cuda.get_rng_state(device)

    def _write(self) -> None:
        torch.set_rng_state(self._state["cpu"])
        for device in self._devices:
            torch.cuda.set_rng_state(self._state["cuda"], device)
