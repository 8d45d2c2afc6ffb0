"""A cache that holds one small source package, the configuration that pretrains on it, and the tokens made of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ftmeta.pretraining.config import PretrainConfig, load_config
from ftmeta.pretraining.stages import pretrain
from ftmeta.pretraining.text import word_set

_CHAPTERS, _PARAGRAPHS = 60, 6
_WORDS = sorted(word_set("whale ship captain harpoon sea storm sailor deck island wind mast rope lantern voyage boat"))
_VERBS = sorted(word_set("follows carries forgets watches finds leaves fears remembers"))
CONFIG = {
    "name": "tiny",
    "seed": 3,
    "corpus": {"sources": ["moby_dick"], "heldout_share": 0.2, "exercise_share": 1.0},
    "tokenizer": {"vocab_size": 320, "every": 1},
    "model": {
        "context": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
    },
    "train": {
        "max_tokens": 24 * 4 * 128,
        "max_seconds": None,
        "batch_size": 4,
        "learning_rate": 0.01,
        "warmup_share": 0.1,
        "decay_share": 0.4,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "gradient_clip": 1.0,
        "chat_share": 0.3,
        "chat_fraction": 0.5,
        "compile": False,
        "evaluations": 2,
        "checkpoint_every_s": 0.0,
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models of this size lose by more, and the processors of a busy machine lose most."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _write_book(cache: Path) -> None:
    rng = random.Random(0)
    data = cache / "packages" / "npm-@stdlib" / "datasets-0.4.0" / "package" / "moby-dick" / "data"
    data.mkdir(parents=True)
    for number in range(_CHAPTERS):
        paragraphs = [" ".join(_sentence(rng) for _ in range(3)) for _ in range(_PARAGRAPHS)]
        chapter = {"title": f"The {rng.choice(_WORDS)} of number {number}.", "text": "\n\n".join(paragraphs)}
        (data / f"chapter_{number}.json").write_text(json.dumps(chapter))


def _sentence(rng: random.Random) -> str:
    one, two, three = rng.sample(_WORDS, 3)
    return f"The old {one} {rng.choice(_VERBS)} the {two} and its {three} because the {rng.choice(_WORDS)} is near."


@pytest.fixture(scope="session")
def book_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the package of the source `moby_dick` lies unpacked, with a text made here."""
    cache = tmp_path_factory.mktemp("cache")
    _write_book(cache)
    return cache


@pytest.fixture
def write_config(tmp_path: Path):
    """Writes the tiny configuration, with changes such as train={"max_tokens": 1}, and returns its path."""

    def write(**changes) -> Path:
        values = {**CONFIG, "work_dir": str(tmp_path / "work"), "out": str(tmp_path / "model")}
        for name, change in changes.items():
            values[name] = {**values[name], **change} if isinstance(change, dict) else change
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture(scope="session")
def tokens_folder(book_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before `train` make of the book, for the tiny configuration."""
    work = tmp_path_factory.mktemp("stages")
    path = work / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "work_dir": str(work), "out": str(work / "model")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTMETA_CACHE", str(book_cache))
        for stage in ("corpus", "tokenizer", "tokens"):
            pretrain(load_config(path), stage, None, lambda line: None)
    return work / "tokens"


@pytest.fixture
def configured(write_config):
    """The tiny configuration with other training settings: configured(max_tokens=512)."""

    def make(**train) -> PretrainConfig:
        config = load_config(write_config())
        return replace(config, train=replace(config.train, **train))

    return make
