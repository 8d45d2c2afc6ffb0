"""Dropout whose mask is cheap on the CPU: torch draws one Bernoulli number an element at a time there, which took a
sixth of a small model's training; 16 random bits an element, four elements a draw, cost a fraction of it.

The bits come from numpy's SFC64, seeded from torch's generator (one number a mask), so the run's own random state
rules them. The probability is rounded to 1/65,536. On CUDA torch's own dropout is fast and is left in place; our own
forward pass draws the masks of all layers at once there (masks.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def draws_at_once(device: torch.device) -> bool:
    """Whether a pass draws the masks of all its layers in one go, because launches cost more than numbers."""
    return device.type != "cpu"


class BitDropout(nn.Module):
    """Does what nn.Dropout does, in place of it in PEFT's `lora_dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = dropout_scale(self, x)
        return x if scale is None else x * scale

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout_scale(dropout: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """What `dropout` multiplies `x` by: 0 or 1 / (1 - p) for each element; None when it does nothing."""
    p = getattr(dropout, "p", 0.0)  # nn.Identity has none
    return drawn_scale(p, x) if dropout.training and p else None


def drawn_scale(p: float, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """The same, drawn from `generator` (None: torch's own of the device)."""
    if x.device.type != "cpu":
        return torch.empty_like(x).bernoulli_(1 - p, generator=generator).div_(1 - p)
    count = x.numel()
    bit_source = np.random.SFC64(int(torch.randint(2**62, (), generator=generator).item()))
    bits = np.asarray(bit_source.random_raw(-(-count // 4))).view(np.uint16)[:count]
    # numpy, because torch's operations on booleans are ten times slower than those on floats
    scale = np.multiply(bits >= round(p * 65536), np.float32(1 / (1 - p)), dtype=np.float32)
    return torch.from_numpy(scale).to(x.dtype).view(x.shape)
