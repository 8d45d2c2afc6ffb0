"""The sizes of a decoder: a config.json -> `Decoder`, without weights, torch or a network (sizes.py takes names).

Published models whose weights need not be on this machine lie as files in data/architectures/, one a model: add one and
it is known. Everything that the planner counts (weights, adapters, activations) follows from these numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ftmeta.errors import ModelError
from ftmeta.files import DATA

_FOLDER = DATA / "architectures"
# model_type -> whether queries, keys and values are one matrix, and so gate and up
_FUSED = {"phi3": True, "llama": False, "mistral": False, "qwen2": False, "qwen3": False}


@dataclass(frozen=True)
class Matrix:
    """A linear layer of a decoder block."""

    name: str  # as the module is called
    block: str  # attention or mlp
    d_in: int
    d_out: int

    @property
    def weights(self) -> int:
        return self.d_in * self.d_out


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder-only model with a gated MLP, RMS norms and rotary positions."""

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    sliding_window: int | None
    tied: bool  # the head is the embedding

    @property
    def fused(self) -> bool:
        return _FUSED[self.model_type]

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all key heads together, and of the values."""
        return self.key_value_heads * self.head_size

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The linear layers of one block, in the order of its forward pass."""
        h, m = self.hidden_size, self.intermediate_size
        names: tuple[tuple[str, str, int, int], ...]
        if self.fused:
            names = (
                ("qkv_proj", "attention", h, self.queries + 2 * self.keys),
                ("o_proj", "attention", self.queries, h),
                ("gate_up_proj", "mlp", h, 2 * m),
                ("down_proj", "mlp", m, h),
            )
        else:
            names = (
                ("q_proj", "attention", h, self.queries),
                ("k_proj", "attention", h, self.keys),
                ("v_proj", "attention", h, self.keys),
                ("o_proj", "attention", self.queries, h),
                ("gate_proj", "mlp", h, m),
                ("up_proj", "mlp", h, m),
                ("down_proj", "mlp", m, h),
            )
        return tuple(Matrix(*sizes) for sizes in names)

    @property
    def layer_parameters(self) -> int:
        """Of one block: its matrices, two norms, and what qwen2 (biases) and qwen3 (norms of heads) have besides."""
        extra = {"qwen2": self.queries + 2 * self.keys, "qwen3": 2 * self.head_size}.get(self.model_type, 0)
        return sum(matrix.weights for matrix in self.matrices) + 2 * self.hidden_size + extra

    @property
    def embedding_parameters(self) -> int:
        """Embedding and head; one matrix where they are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden_size


def known_architectures() -> list[str]:
    """The published models that need not be on this machine."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in _FOLDER.glob("*/*.json"))


def published_config(name: str) -> dict[str, Any]:
    """The facts of a known architecture's config.json, as transformers' configuration classes take them."""
    config: dict[str, Any] = published_facts(name)["config"]
    return config


def published_facts(name: str) -> dict[str, Any]:
    """What is known of a published model: `source`, `parameters`, `licence`, `config`."""
    if name not in known_architectures():
        raise ModelError(f"the architecture '{name}' is not known; known: {', '.join(known_architectures())}")
    facts: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return facts


def from_config(config: dict[str, Any], name: str) -> Decoder:
    """The sizes that a config.json states. Raises ModelError for what is missing or not supported."""
    kind = str(config.get("model_type"))
    if kind not in _FUSED:
        raise ModelError(f"base models of type '{kind}' are not supported ('{name}'); supported: {', '.join(_FUSED)}")

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:  # True is an int, too
            raise ModelError(
                f"the config.json of '{name}' has {key} {value!r}, wanted a whole number above 0; fetch the model again"
            )
        return value

    hidden_size, heads = size("hidden_size"), size("num_attention_heads")
    if heads > hidden_size:
        raise ModelError(f"the config.json of '{name}' has {heads} attention heads for hidden_size {hidden_size}")
    has_window = config.get("sliding_window") is not None and config.get("use_sliding_window", True)
    return Decoder(
        name=name,
        model_type=kind,
        hidden_size=hidden_size,
        intermediate_size=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        heads=heads,
        key_value_heads=size("num_key_value_heads", heads),
        head_size=size("head_dim", hidden_size // heads),
        vocab_size=size("vocab_size"),
        context_length=size("max_position_embeddings"),
        sliding_window=size("sliding_window") if has_window else None,
        tied=bool(config.get("tie_word_embeddings", False)),
    )
