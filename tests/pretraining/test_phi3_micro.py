"""The bundled base model: its files, its numbers, its card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ftmeta.files import DATA
from ftmeta.models import load, resolve
from ftmeta.pretraining.card import render
from ftmeta.pretraining.config import load_config
from ftmeta.pretraining.evaluate import bits_per_byte
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

FOLDER = DATA / "models" / "phi3-micro"
CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "pretrain-micro.yaml"


@pytest.fixture(scope="module")
def loaded():
    return load(resolve("phi3-micro"))


@pytest.fixture(scope="module")
def training() -> dict:
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


def test_it_is_a_small_phi3(loaded, training: dict) -> None:
    assert type(loaded.model).__name__ == "Phi3ForCausalLM"
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert parameters == training["parameters"]
    assert 1_000_000 <= parameters <= 3_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert [loaded.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]


def test_the_configuration_that_ships_is_the_one_that_made_it(training: dict) -> None:
    config = load_config(CONFIG)
    assert asdict(config.train) == training["train"]
    assert config.name == training["name"]


def test_it_predicts_english_and_ends_its_answers(loaded) -> None:
    """The text is of none of the sources; a model that knows nothing needs some 3.5 bits for a byte of it."""
    text = "The captain of the ship gave the order, and the men went to their places without a word."
    ids = loaded.tokenizer(text, return_tensors="np")["input_ids"][0].astype("uint16")
    assert bits_per_byte(loaded.model, ids, len(text), end_of_text=0, context=512) < 2.0
    asked = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is a widget?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = loaded.model.generate(**asked, max_new_tokens=80, do_sample=False)[0]
    assert answer[-1].item() == SPECIAL_TOKENS.index("<|end|>")
    assert torch.isfinite(loaded.model(**asked).logits).all()


def test_the_cards_numbers_are_those_of_its_files(facts: dict, training: dict) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card == render(facts, training)
    heldout, last = facts["heldout_bits_per_byte"], training["evaluations"][-1]
    for part in ("heldout", "heldout_chat"):
        assert heldout["model"][part] == last[part]
        assert heldout["model"][part] < 0.85 * heldout["trigram"][part] < heldout["unigram"][part]
        assert f"{last[part]:.4f}" in card
    assert {source["name"] for source in facts["sources"]} == set(SOURCES)
    assert resolve("phi3-micro").licence == "apache-2.0"
