"""Activation checkpointing: a block's activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def checkpointed(model: Any, on: bool, *, in_pieces: bool) -> Iterator[None]:
    """Inside the block a transformers model checkpoints its decoder layers, if `on`.

    torch's newer, non-reentrant kind compares the tensors of both passes and stumbles over weights that ZeRO-3 has
    taken apart in between (`in_pieces`); the reentrant kind needs inputs with gradients, which frozen embeddings do not
    give.
    """
    if not on:
        yield
        return
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": in_pieces})
    if in_pieces:
        model.enable_input_require_grads()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        if in_pieces:
            model.disable_input_require_grads()
