"""The sizes of a decoder: a name, a folder or a config.json -> `Decoder`, without weights, torch or a network.

Published models whose weights need not be on this machine lie as files in data/architectures/, one a model: add one and
it is known. Everything that the planner counts (weights, adapters, activations) follows from these numbers.

    decoder("microsoft/Phi-3-mini-4k-instruct").parameters      # 3821079552
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
    if name not in known_architectures():
        raise ModelError(f"the architecture '{name}' is not known; known: {', '.join(known_architectures())}")
    config: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["config"]
    return config


def decoder(base_model: str) -> Decoder:
    """The sizes of a base model: a known architecture, a model on this machine, a folder with a config.json, or a hub
    id, of which the config.json alone is downloaded.

    Raises ModelError for a name that is unknown or unreachable, and for architectures that ftmeta does not finetune.
    """
    from ftmeta.models.catalog import config_file

    if base_model in known_architectures():
        return from_config(published_config(base_model), base_model)
    path = config_file(base_model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); give a folder with a config.json") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); fetch the model again") from None
    return from_config(config, base_model)


def from_config(config: dict[str, Any], name: str) -> Decoder:
    """The sizes that a config.json states. Raises ModelError for what is missing or not supported."""
    kind = config.get("model_type")
    if kind not in _FUSED:
        raise ModelError(f"base models of type '{kind}' are not supported ('{name}'); supported: {', '.join(_FUSED)}")
    required = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
        "max_position_embeddings",
    )  # fmt: skip
    for key in required:
        if not isinstance(config.get(key), int):
            raise ModelError(f"the config.json of '{name}' has {key} {config.get(key)!r}, wanted a number")
    heads = config["num_attention_heads"]
    return Decoder(
        name=name,
        model_type=str(kind),
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        sliding_window=config.get("sliding_window") if config.get("use_sliding_window", True) else None,
        tied=bool(config.get("tie_word_embeddings", False)),
    )
