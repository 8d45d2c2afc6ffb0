"""Bits per byte of a causal language model on held-out token ids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_BATCH = 64


@torch.no_grad()
def bits_per_byte(model: Any, ids: NDArray[np.uint16], n_bytes: int, end_of_text: int, context: int) -> float:
    """The code length of `ids` under the model, in bits per byte of their text.

    A stream is scored in windows that overlap by half, so that every token but the first window's has at least
    context / 2 tokens before it; rows (two dimensions) are scored one by one. `<|endoftext|>` is context only: it is
    no part of the text. Special tokens of the chat format are text, and are counted as what they are written with.
    """
    device = next(model.parameters()).device
    data = torch.from_numpy(ids.astype(np.int64))
    nats = 0.0
    for windows_BL, fresh_BL in _windows(data, context):
        targets = windows_BL[:, 1:]
        scored = fresh_BL & (targets != end_of_text)
        windows = windows_BL.to(device)
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none"
        )
        nats += float(losses[scored.flatten().to(device)].double().sum())
    return nats / math.log(2) / n_bytes


def _windows(data: torch.Tensor, context: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of windows of context + 1 ids, with the targets that no window before has scored."""
    if data.ndim == 2:
        return [(rows, torch.ones_like(rows[:, 1:], dtype=torch.bool)) for rows in data.split(_BATCH)]
    stride = context // 2
    length = min(context, data.numel() - 1)
    starts = [*range(0, data.numel() - 1 - length, stride), data.numel() - 1 - length]
    windows = torch.stack([data[start : start + length + 1] for start in starts])
    fresh = torch.zeros(len(starts), length, dtype=torch.bool)
    done = 0  # targets scored so far
    for row, start in enumerate(starts):
        fresh[row, done - start :] = True
        done = start + length
    return list(zip(windows.split(_BATCH), fresh.split(_BATCH), strict=True))
