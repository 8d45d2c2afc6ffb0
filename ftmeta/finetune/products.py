"""Matrix products with frozen float32 weights, by oneDNN where it is the faster library: on AMD's processors.

torch hands float32 products on the CPU to MKL, which uses half of the vector width of AMD's processors. oneDNN, in the
same build of torch, uses all of it: 250 instead of 108 GFLOP/s on one core of an EPYC with AVX-512, for every shape
that counts here. On an Intel Xeon with AVX-512 MKL is the faster one, by a fifth of a training step of phi3-micro.
torch reaches oneDNN by the operator that its compiler emits; where that is missing, the ordinary product takes its
place. Results differ in the last bits.

# N rows, I inputs, O outputs
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from ftmeta.hardware import cpu_facts

# oneDNN keeps compiled code for the last 1,024 shapes, and batches of text have ever new ones: 0.1 GB after 32 steps
# of phi3-micro. A step needs some ten. It is read at oneDNN's first product in a process.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

_WORTHWHILE = 4_000_000  # multiply-adds; oneDNN prepares each new shape for 0.4 ms, and gains nothing on small ones


def product(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """x W', without a gradient: for use inside autograd functions. Both may be transposed views."""
    size = x_NI.shape[0] * weight_OI.numel()
    if size >= _WORTHWHILE and x_NI.device.type == "cpu" and _prefers_onednn():
        return onednn_product(x_NI, weight_OI)
    return functional.linear(x_NI, weight_OI)


def onednn_product(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """x W' by oneDNN, on CPUs whose torch `has_onednn`."""
    return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")


def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def frozen_linear(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """x W' with a gradient for x alone."""
    return _FrozenLinear.apply(x_NI, weight_OI)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight_OI)
        return product(x_NI, weight_OI)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (weight_OI,) = ctx.saved_tensors
        return product(grads[0], weight_OI.t()), None


@cache
def _prefers_onednn() -> bool:
    return (
        cpu_facts().get("vendor_id") == "AuthenticAMD"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and has_onednn()
    )
