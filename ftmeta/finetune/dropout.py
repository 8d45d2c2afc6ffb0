"""Dropout whose mask is cheap on the CPU: torch draws one Bernoulli number an element at a time there, which took a
sixth of a small model's training; 16 random bits an element, four elements a draw, cost a fraction of it.

The bits come from numpy's SFC64, seeded from torch's generator (one number a mask), so the run's own random state
rules them. The probability is rounded to 1/65,536. On CUDA torch's own dropout is fast and is left in place.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class BitDropout(nn.Module):
    """Does what nn.Dropout does, in place of it in PEFT's `lora_dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped = dropped_at(self, x)
        return x if dropped is None else x.masked_fill(dropped, 0.0) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropped_at(dropout: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """Where `dropout` puts zeros into `x`, as booleans; None when it does nothing.

    What is kept is to be divided by 1 - p.
    """
    p = getattr(dropout, "p", 0.0)  # nn.Identity has none
    if not dropout.training or p == 0.0:
        return None
    if not isinstance(dropout, BitDropout):
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(p)
    count = x.numel()
    generator = np.random.SFC64(int(torch.randint(2**62, ()).item()))
    bits = np.asarray(generator.random_raw(-(-count // 4))).view(np.uint16)[:count]
    return torch.from_numpy(bits < round(p * 65536)).view(x.shape)
