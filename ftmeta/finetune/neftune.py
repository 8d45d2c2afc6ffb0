"""NEFTune (arXiv 2310.05914): uniform noise on the input embeddings while training.

The noise of a row has the size alpha / sqrt(length x width), by the row's own length, so padding does not change it.
It is drawn from torch's generator, which holds the run's state while it trains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class Noise:
    """Adds noise inside `active`; `lengths_B` has to hold the rows' lengths before each forward pass. alpha 0: off."""

    def __init__(self, alpha: float) -> None:
        self.lengths_B: torch.Tensor | None = None
        self._alpha = alpha

    @contextlib.contextmanager
    def active(self, embedding: torch.nn.Module) -> Iterator[None]:
        if self._alpha == 0:
            yield
            return
        handle = embedding.register_forward_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def _add(self, module: torch.nn.Module, inputs: Any, embedded_BLH: torch.Tensor) -> torch.Tensor:
        assert self.lengths_B is not None
        return with_noise(embedded_BLH, self.lengths_B, self._alpha)


def with_noise(
    embedded_BLH: torch.Tensor, lengths_B: torch.Tensor, alpha: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    size_B = alpha / torch.sqrt(lengths_B.float() * embedded_BLH.shape[-1])
    noise_BLH = torch.empty_like(embedded_BLH).uniform_(-1, 1, generator=generator)
    return embedded_BLH + noise_BLH * size_B[:, None, None].to(embedded_BLH.dtype)
