"""How many runs at once, and how many tokens in a pass: what the memory of a device holds (docs/vectorized.md).

In: the sizes of a decoder, the pipelines that are to be run, what their batches are like, the memory that is free.
Out: a `CohortPlan`. Counted is what the vectorised worker keeps: for each place an adapter that is padded to the
largest rank on all linear layers (weights, gradients, two moments, and a copy in the model's type), for each token of a
pass what autograd keeps (activations.py), and the logits of a pass. Letters as in memory.py.

The rule: the largest pass, up to what fills the device, whose places fit beside it and have the tokens to fill it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftmeta.errors import UserError
from ftmeta.models.architectures import Decoder
from ftmeta.planning.activations import Adapted, Arithmetic, kept
from ftmeta.planning.assumptions import assumptions
from ftmeta.planning.memory import GB
from ftmeta.schema import Pipeline

MOST_PLACES = 64  # more gain little: a pass is full with fewer
FULL_PASS_TOKENS = {"cpu": 1024, "cuda": 65536}  # beyond this a device is busy, and memory is all that grows
_FLOAT = 4
_OPTIMIZED = 4 * _FLOAT  # bytes of a weight: itself, its gradient, two moments


@dataclass(frozen=True)
class Batches:
    """What the runs' batches are like: tokens of one on average, of the largest piece that is computed at once, and how
    many labels there are for a token at most."""

    tokens: float
    largest_piece: int
    labels_per_token: float = 1.0


@dataclass(frozen=True)
class CohortPlan:
    places: int
    pass_tokens: int
    bytes: float  # at the peak, without base model and libraries


def plan_cohort(
    decoder: Decoder,
    pipelines: Sequence[Pipeline],
    batches: Batches,
    *,
    free_bytes: float,
    device_type: str,
    dtype: str,
    at_most: int = MOST_PLACES,
) -> CohortPlan:
    """`free_bytes`: on the device, with base model and libraries there. Of it a headroom stays free
    (data/planning.yaml). Raises UserError if not even one run fits, or if there is none."""
    if not pipelines:
        raise UserError("a cohort needs at least one run, and there is none; give pipelines")
    usable = free_bytes * (1 - assumptions().headroom[device_type])
    most = min(at_most, len(pipelines))
    place = place_bytes(decoder, pipelines, dtype)
    sizes = [FULL_PASS_TOKENS[device_type]]
    while sizes[-1] > batches.largest_piece:
        sizes.append(max(sizes[-1] // 2, batches.largest_piece))
    for tokens in sizes:
        step = pass_bytes(decoder, pipelines, tokens, batches.labels_per_token, device_type=device_type, dtype=dtype)
        places = min(most, math.floor((usable - step) / place))
        is_last = tokens == sizes[-1]
        if places >= 1 and (is_last or places == most or places * batches.tokens >= tokens):
            return CohortPlan(places, tokens, places * place + step)
    raise UserError(
        f"a run of {decoder.name} with rank {_rank(pipelines)} needs {(place + step) / GB:.2f} GB beside the base "
        f"model for a pass of {sizes[-1]} tokens, and {usable / GB:.2f} GB may be used; give the slot more memory, or "
        "pipelines with smaller batches or ranks"
    )


def place_bytes(decoder: Decoder, pipelines: Sequence[Pipeline], dtype: str) -> float:
    """Of one adapter's seat."""
    weights = _rank(pipelines) * decoder.layers * sum(matrix.d_in + matrix.d_out for matrix in decoder.matrices)
    return float(weights * (_OPTIMIZED + (2 if dtype == "bfloat16" else 0)))


def pass_bytes(
    decoder: Decoder,
    pipelines: Sequence[Pipeline],
    tokens: int,
    labels_per_token: float,
    *,
    device_type: str,
    dtype: str,
) -> float:
    """Of a pass of so many tokens: what autograd keeps, and the largest temporary."""
    width = 2 if dtype == "bfloat16" else _FLOAT
    adapted = Adapted(
        method="lora",
        rank=_rank(pipelines),
        dropout=any(bool(pipeline.get("lora_dropout", 0.0)) for pipeline in pipelines),
        matrices=frozenset(matrix.name for matrix in decoder.matrices),
        first=0,
        last=decoder.layers - 1,
    )
    how = Arithmetic(width=width, adapter_width=width, mask=1 if device_type == "cuda" else _FLOAT, lean=True)
    labels = math.ceil(tokens * min(1.0, labels_per_token))
    step = kept(decoder, adapted, how, tokens, labels, mask_bytes=0.0, checkpointing=False)
    logits = width * labels * decoder.vocab_size if width < _FLOAT else 0  # before they become float32
    gradients = 2 * width * decoder.intermediate_size * tokens
    return step.activations + max(step.workspace + logits, gradients)


def _rank(pipelines: Sequence[Pipeline]) -> int:
    return max(int(pipeline.get("lora_rank") or 1) for pipeline in pipelines)
