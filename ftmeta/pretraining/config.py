"""The job's configuration: YAML sections to frozen dataclasses; an unknown or missing key is an error."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from ftmeta.errors import ConfigError


@dataclass(frozen=True)
class CorpusConfig:
    sources: list[str] | None  # None: all
    heldout_share: float  # of the documents
    exercise_share: float  # of the sentences that no question fits; see chat.py


@dataclass(frozen=True)
class TokenizerConfig:
    vocab_size: int
    every: int  # trained on each how-manieth document: its merges hardly move beyond a few megabytes


@dataclass(frozen=True)
class ShapeConfig:
    """The model's shape, in Phi3Config's words."""

    context: int  # tokens
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool
    initializer_range: float


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The schedule follows the share of the budget that is spent: the larger of the tokens' and the
    seconds' share, so that the end of either limit is the end of the schedule."""

    max_tokens: int
    max_seconds: float | None  # over all restarts, setting up included; None: no limit, and a reproducible run
    batch_size: int  # rows of `context` tokens
    learning_rate: float  # the peak
    warmup_share: float  # of the budget, linear from 0
    decay_share: float  # of the budget, at its end, linear to 0
    weight_decay: float
    beta1: float
    beta2: float
    gradient_clip: float
    chat_share: float  # of the budget, at its end, in which chat rows are mixed in
    chat_fraction: float  # of the rows of a batch in that part
    compile: bool
    evaluations: int  # of the held-out text, on the way
    checkpoint_every_s: float


@dataclass(frozen=True)
class PretrainConfig:
    file: Path  # the configuration itself, as it was named; not a key in it
    name: str
    seed: int
    work_dir: Path
    out: Path
    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    model: ShapeConfig
    train: TrainConfig


_SECTIONS = {"corpus": CorpusConfig, "tokenizer": TokenizerConfig, "model": ShapeConfig, "train": TrainConfig}
Stage = Literal["corpus", "tokenizer", "tokens", "train", "card"]


def load_config(path: Path) -> PretrainConfig:
    """Raises ConfigError, which names the file and the key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping; it needs the keys {', '.join(_names(PretrainConfig))}")
    _check_keys(values, PretrainConfig, f"{path}")
    sections = {}
    for name, section in _SECTIONS.items():
        _check_keys(values[name], section, f"{path}, section {name}")
        sections[name] = section(**values[name])
    paths = {name: Path(values[name]) for name in ("work_dir", "out")}
    return PretrainConfig(**{**values, **sections, **paths, "file": path})


def _names(cls: Any) -> list[str]:
    return [field.name for field in fields(cls) if field.name != "file"]


def _check_keys(values: Any, cls: Any, where: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} holds {values!r}; a mapping with the keys {', '.join(_names(cls))} is wanted")
    unknown = sorted(set(values) - set(_names(cls)))
    missing = [name for name in _names(cls) if name not in values]
    if unknown or missing:
        what = f"unknown key '{unknown[0]}'" if unknown else f"missing key '{missing[0]}'"
        raise ConfigError(f"{where}: {what}; the keys are {', '.join(_names(cls))}")
